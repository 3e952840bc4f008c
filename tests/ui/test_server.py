"""`git soup ui` over plain HTTP: who is let in, what is refused, and that JSON is the CLI's."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.conftest import runner
from tests.ui.conftest import Served, start
from tests.ui.shop_window import ADAPTER, CURVE, PAGE, RUN, STEPS, STOPPED, STORED

PAGES = (
    "/", "/status", "/graph", "/runs", f"/runs/{RUN}", "/evals", "/diff", "/diff?a=main&b=politer",
    "/prs", f"/prs/{PAGE}", f"/prs/{PAGE}/page",
)  # fmt: skip


def test_the_address_is_the_whole_report_and_ctrl_c_is_the_end(shop, git_soup_script, tmp_path):
    server = start(shop, git_soup_script, "--no-open", "--format", "table")
    assert server.url.startswith("http://127.0.0.1:")
    assert len(server.token) > 40
    code, more, said = server.stop()
    assert (code, more) == (0, "")
    assert said.splitlines() == [
        "serving shop, read-only, to this machine alone; Ctrl-C ends it", "stopped",
    ]  # fmt: skip


def test_the_address_as_json(shop, git_soup_script):
    process = subprocess.Popen(
        [git_soup_script, "ui", "--no-open", "--json"], cwd=shop, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    lines = [process.stdout.readline() for _ in range(7)]
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    report = json.loads("".join(lines) + rest)
    assert report["schema"] == "soup.ui/1"
    assert report["url"].startswith(f"http://127.0.0.1:{report['port']}/?token=")
    assert (report["host"], report["workspace"]) == ("127.0.0.1", "shop")


def test_without_the_key_nothing_is_told(served: Served):
    for page in (*PAGES, "/style.css", "/nothing"):
        for cookie in ("", f"soup-{served.port}=", f"soup-{served.port}=x", f"x={served.cookie}"):
            answer = served.ask(page, Cookie=cookie)
            assert answer.status == 403, page
            assert "shop" not in answer.text
            assert "set-cookie" not in answer.headers
    for key in ("", "x", served.token[:-1], served.cookie.partition("=")[2], "é"):
        answer = served.ask(
            f"/?token={key.encode('utf-8').hex() if key == 'é' else key}", Cookie=""
        )
        assert answer.status == 403
        assert "set-cookie" not in answer.headers


def test_the_key_becomes_a_cookie_and_leaves_the_address(served: Served):
    answer = served.ask(f"/diff?a=main&token={served.token}&b=x%26y", Cookie="")
    assert answer.status == 200
    name, flags = answer.headers["set-cookie"].split("; ", 1)
    assert flags == "Path=/; HttpOnly; SameSite=Strict"
    assert served.token not in name
    assert served.token not in answer.text
    assert 'content="0;url=/diff?a=main&amp;b=x%26y"' in answer.text
    assert served.ask("/", Cookie=name).status == 200
    # A key that is over does not lock out whoever has the cookie, and goes nowhere else.
    again = served.ask("//evil.example/?token=old")
    assert (again.status, 'url=/evil.example/"' in again.text) == (200, True)


def test_only_our_own_name_is_answered(served: Served):
    for host in ("evil.example", f"evil.example:{served.port}", "127.0.0.1", "127.0.0.1:1", ""):
        answer = served.ask("/", Host=host)
        assert answer.status == 421, host
        assert "shop" not in answer.text
        assert served.ask(f"/?token={served.token}", Host=host).status == 421
    assert served.ask("/", Host=f"localhost:{served.port}").status == 200


def test_it_only_reads(served: Served):
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
        answer = served.ask("/", method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD"), method
    git = runner("git", cwd=served.root)
    before = [git("for-each-ref").stdout, git("status", "--porcelain", "--ignored").stdout]
    for page in PAGES:
        full, head = served.ask(page), served.ask(page, "HEAD")
        assert (head.status, head.body) == (full.status, b"")
        assert head.headers["content-length"] == str(len(full.body))
    assert [git("for-each-ref").stdout, git("status", "--porcelain", "--ignored").stdout] == before


def test_every_answer_ties_the_browser_down(served: Served):
    answers = [served.ask(p) for p in (*PAGES, "/style.css", "/nothing", "/?format=json")]
    answers += [served.ask("/", Cookie=""), served.ask("/", "POST"), served.ask("/", Host="x")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["x-frame-options"] in {"DENY", "SAMEORIGIN"}
        assert "python" not in answer.headers["server"].lower()
        if answer.headers["content-type"].startswith("text/html") and answer.text != STORED:
            assert "<script" not in answer.text
            assert " style=" not in answer.text


def test_a_stored_page_is_its_bytes_in_a_sandbox(served: Served):
    page = served.ask(f"/prs/{PAGE}/page")
    assert page.text == STORED
    policy = page.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none'; style-src 'unsafe-inline'")
    assert "frame-ancestors 'self'" in policy
    data = served.ask(f"/prs/{PAGE}?format=json")
    assert data.headers["content-type"].startswith("application/json")
    assert json.loads(data.text)["schema"] == "soup.pr/1"
    frame = served.ask(f"/prs/{PAGE}")
    assert "<iframe " in frame.text
    assert " sandbox>" in frame.text
    old = json.loads(served.ask("/prs?format=json").text)["prs"][0]["newest"]["commit"]
    git = runner("git", cwd=served.root)
    before = git("rev-parse", f"{old}^2").stdout.strip()
    assert "Politer answers</h1>" in served.ask(f"/prs/{PAGE}?at={before}").text
    # Only the versions of that page: no other commit of the repository is read by its address.
    for at in ("HEAD", git("rev-parse", "HEAD").stdout.strip(), "x", "--help"):
        assert served.ask(f"/prs/{PAGE}/page?at={at}").status == 404


@pytest.mark.parametrize(
    "target",
    [
        "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/style.css/../../server.py", "/..%2f..%2fetc",
        "/runs/..", "/runs/%2e%2e", "/runs/x%00", "/runs/%ff", "/runs/a/b", "/prs/..%2fheads%2fmain/page",
        f"/prs/{PAGE}/pr.json", "/prs/-x", "/%0d%0aSet-Cookie:x=1", "//etc/passwd", "/.git/config",
        "/status?format=xml", "/runs/none", "/prs/none", "/nothing", "*", "http://evil.example/",
        "/?" + "&".join("a=1" for _ in range(99)),
    ],
)  # fmt: skip
def test_no_address_leads_elsewhere(served: Served, target: str):
    answer = served.ask(target)
    assert answer.status in {400, 404}
    assert "root:" not in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ("mian", "politer", "names no adapter"),
        ("main", "", "a diff needs two adapters"),
        (f"run/{RUN}@7", "main", "has no checkpoint at step 7; it has 50, 100, 150"),
        ("--help", "main", "names no adapter"),
        ("<script>", "main", "&lt;script&gt;"),
        ("{outside}", "main", "is outside the repository"),
        ("../elsewhere", "main", "is outside the repository"),
        ("x\x00y", "main", "'x\\x00y' names no adapter".replace("'", "&#x27;")),
    ],
)
def test_a_mistyped_spec_is_a_page_with_the_hint(served: Served, a, b, words, make_adapter):
    outside = served.root.parent / "elsewhere"
    if not outside.exists():
        make_adapter(outside)
    specs = {"a": a.format(outside=outside), "b": b}
    answer = served.ask(f"/diff?{urlencode(specs)}")
    assert answer.status == 400
    assert words in answer.text
    assert "hint: " in answer.text
    data = served.ask(f"/diff?{urlencode({**specs, 'format': 'json'})}")
    assert (data.status, json.loads(data.text)["schema"]) == (400, "soup.error/1")


def test_json_is_what_the_command_line_prints(served: Served):
    soup = runner("git", "soup", cwd=served.root)

    def without_age(text: str) -> dict:
        report = json.loads(text)
        for row in report.get("branches", []):
            del row["age_seconds"]
        return report

    for page, words in (
        ("/?format=json", ["branches", "--json"]),
        ("/status?format=json", ["status", "--json"]),
        ("/graph?format=json", ["log", "--all", "--json"]),
    ):
        assert without_age(served.ask(page).text) == without_age(soup(*words).stdout), page
    specs = [f"run/{RUN}@50", "main"]
    page = served.ask(f"/diff?a={specs[0]}&b={specs[1]}&format=json")
    assert page.text == soup("diff", *specs, "--json").stdout


def test_runs_and_evals_are_what_refs_and_notes_say(served: Served):
    git = runner("git", cwd=served.root)
    rows = json.loads(served.ask("/runs?format=json").text)["runs"]
    assert [row["run"] for row in rows] == [STOPPED, RUN]
    row = rows[1]
    assert (row["run"], row["losses"], row["adapter"]) == (RUN, list(STEPS.values()), ADAPTER)
    run = json.loads(served.ask(f"/runs/{RUN}?format=json").text)
    assert [(c["step"], c["loss"], c["elapsed_seconds"]) for c in run["checkpoints"]] == [
        (step, loss, step / 10) for step, loss in STEPS.items()
    ]
    assert run["launched_from"] == git("rev-parse", "main").stdout.strip()
    assert run["curve"] == [[step, loss] for step, loss in CURVE]
    stopped = json.loads(served.ask(f"/runs/{STOPPED}?format=json").text)
    assert (len(stopped["checkpoints"]), stopped["curve"]) == (2, [])
    page = served.ask(f"/runs/{RUN}").text
    assert page.count("<circle ") == len(STEPS)
    assert f'href="/diff?a=run%2F{RUN}%4050&amp;b=run%2F{RUN}%40100"' in page
    suites = {s["suite"]: s for s in json.loads(served.ask("/evals?format=json").text)["suites"]}
    gate = suites["evals/gate.yaml"]
    assert gate["metrics"] == ["exact", "judge"]
    assert [(r["at"][:10], r["metrics"]["exact"]["value"]) for r in gate["rows"]] == [
        ("2026-01-03", 0.625), ("2026-01-02", 0.5),
    ]  # fmt: skip
    assert sorted(gate["rows"][1]["names"]) == ["main", "support/v1"]


def test_who_says_nothing_holds_nobody_up(served: Served):
    waiting = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(20)]
    try:
        waiting[0].sendall(b"GET / HT")
        started = time.monotonic()
        assert served.ask("/").status == 200
        assert time.monotonic() - started < 10
    finally:
        for connection in waiting:
            connection.close()


def test_what_is_no_http_is_refused(served: Served):
    for sent in (
        b"\x16\x03\x01\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
            connection.sendall(sent)
            said = connection.recv(4096)
        assert b" 200 " not in said
        assert b"shop" not in said
    assert served.ask("/").status == 200


def test_the_browser_gets_a_key_that_works_once(shop: Path, git_soup_script, tmp_path):
    told = tmp_path / "told"
    browser = tmp_path / "browser"
    browser.write_text(
        f'#!/bin/sh\necho "to stdout"\necho "$1" > {told}.new && mv {told}.new {told}\n'
    )
    browser.chmod(browser.stat().st_mode | stat.S_IXUSR)
    server = start(shop, git_soup_script, "--port", "0", BROWSER=f"{browser} %s")
    deadline = time.monotonic() + 20
    while not told.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    opened = told.read_text().strip()
    key = opened.rpartition("token=")[2]
    assert key != server.token
    assert server.ask(f"/?token={key}", Cookie="").status == 200
    assert server.ask(f"/?token={key}", Cookie="").status == 403
    assert server.ask(f"/?token={server.token}", Cookie="").status == 200
    code, more, said = server.stop()
    assert (code, more) == (0, "")
    assert "to stdout" in said


def test_where_there_is_nothing_to_serve(in_tmp_path, soup, shop, served, git):
    git("init", "-q")
    done = soup("ui", "--no-open", check=False)
    assert (done.returncode, done.stdout) == (128, "")
    assert "hint: git soup init" in done.stderr
    done = soup("ui", "--no-open", "--port", str(served.port), cwd=shop, check=False)
    assert (done.returncode, done.stdout) == (128, "")
    assert f"port {served.port} of 127.0.0.1 cannot be used: Address already in use" in done.stderr
    assert "hint: " in done.stderr
    assert soup("ui", "--port", "70000", check=False).returncode == 129
