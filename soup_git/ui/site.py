"""Which command answers which address. Knows no sockets: a path and a query in, an answer out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib import resources
from pathlib import Path

from soup_git.commands import branches, evals, log, prarchive, runs, status
from soup_git.errors import FatalError
from soup_git.render import chart, html, lanes
from soup_git.render.report import as_json
from soup_git.storage.runhistory import recorded_runs
from soup_git.storage.workspace import Workspace
from soup_git.ui import drift, graph, overview, prs
from soup_git.ui import evals as evals_page
from soup_git.ui import runs as runs_page
from soup_git.ui.frame import Page, framed, refusal
from soup_git.ui.markup import Html, address, together

_COMMITS = 200
_MOST_COMMITS = 5000
_MOST_SPECS = 1000


@dataclass(frozen=True)
class Answer:
    status: HTTPStatus
    kind: str
    """Its media type."""
    body: bytes
    untrusted: bool = False
    """Somebody else's page: shown in a sandbox, and framed by ours alone."""


@dataclass(frozen=True)
class Visit:
    """One request; a workspace of its own, because files change between two."""

    workspace: Workspace
    query: Mapping[str, str]

    def asked(self, name: str) -> str:
        return self.query.get(name, "").strip()


class Site:
    """The pages of the workspace around a folder. Any number of threads may ask."""

    def __init__(self, start: Path) -> None:
        self._start = start
        self._drifts = drift.Drifts()
        self._style = style().encode()

    def answer(self, path: str, query: Mapping[str, str]) -> Answer:
        """What there is at a path, or why there is nothing."""
        if path == "/style.css":
            return Answer(HTTPStatus.OK, "text/css; charset=utf-8", self._style)
        wants_json = query.get("format") == "json"
        try:
            with self._workspace() as workspace:
                name = workspace.root.name
                visit = Visit(workspace, query)
                try:
                    found = self._found(path, visit)
                except _Refused as refused:
                    return _refused(refused, name, wants_json)
        except FatalError as error:
            failed = _Refused(HTTPStatus.INTERNAL_SERVER_ERROR, error, "Error", "")
            return _refused(failed, "git soup", wants_json)
        if isinstance(found, Answer):
            return found
        if wants_json and found.report is not None:
            return _json(HTTPStatus.OK, as_json(found.report))
        return _html(HTTPStatus.OK, framed(found, name))

    @contextmanager
    def _workspace(self) -> Iterator[Workspace]:
        workspace = Workspace.open(self._start)
        try:
            yield workspace
        finally:
            workspace.git.close()

    def _found(self, path: str, visit: Visit) -> Page | Answer:
        if visit.asked("format") not in {"", "html", "json"}:
            wrong = FatalError(f"there is no format {visit.asked('format')!r}", hint="html or json")
            raise _Refused(HTTPStatus.BAD_REQUEST, wrong, "Not a format", "")
        if path == "/diff":
            return self._diff(visit)
        for route in ROUTES:
            match = route.pattern.fullmatch(path)
            if match is None:
                continue
            try:
                return route.answer(visit, *match.groups())
            except FatalError as error:
                code = HTTPStatus.NOT_FOUND if match.groups() else HTTPStatus.BAD_REQUEST
                raise _Refused(code, error, route.title, route.here) from None
        nothing = FatalError(f"there is no page {path}", hint="the pages are linked above")
        raise _Refused(HTTPStatus.NOT_FOUND, nothing, "No such page", "")

    def _diff(self, visit: Visit) -> Page:
        a, b, path = (visit.asked(name) for name in ("a", "b", "adapter"))
        start = a or visit.workspace.git.head_branch() or "HEAD"
        form = drift.form(start if not b else a, b, path, _specs(visit.workspace))
        if not a and not b:
            return Page("Diff", "/diff", form)
        try:
            if not a or not b:
                raise FatalError("a diff needs two adapters", hint="name one in each field")
            report = self._drifts.between(visit.workspace, a, b, path or None)
        except FatalError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, error, "Diff", "/diff", form) from None
        place = address("diff", a=a, b=b, adapter=path or None, format="json")
        body = together([form, drift.drift(report)])
        return Page(f"{a} → {b}", "/diff", body, report, place)


def _specs(workspace: Workspace) -> list[str]:
    """What can be compared: branches, tags, runs and their checkpoints."""
    names = workspace.git.lines("for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads", "refs/tags")  # fmt: skip
    for run in recorded_runs(workspace.git):
        names += [f"run/{run.run}", *(f"run/{run.run}@{c.step}" for c in run.checkpoints)]
    return names[:_MOST_SPECS]


# -- one function for each address ------------------------------------------------------------


def _overview(visit: Visit) -> Page:
    report = branches.branches(visit.workspace)
    body = overview.overview(report, status.status(visit.workspace))
    return Page("Overview", "/", body, report, "/?format=json")


def _status(visit: Visit) -> Page:
    report = status.status(visit.workspace)
    return Page("Status", "/", overview.status(report), report, "/status?format=json")


def _graph(visit: Visit) -> Page:
    asked = visit.asked("limit")
    limit = min(int(asked), _MOST_COMMITS) if asked.isascii() and asked.isdecimal() else _COMMITS
    limit = max(1, limit)
    report = log.log(visit.workspace, log.LogRequest(everywhere=True, limit=limit))
    place = address("graph", limit=str(limit), format="json")
    return Page("Graph", "/graph", graph.graph(report, limit), report, place)


def _runs(visit: Visit) -> Page:
    report = runs.runs(visit.workspace)
    return Page("Runs", "/runs", runs_page.runs(report), report, "/runs?format=json")


def _run(visit: Visit, name: str) -> Page:
    report = runs.run(visit.workspace, name)
    place = address("runs", name, format="json")
    return Page(report.title, "/runs", runs_page.run(report), report, place)


def _evals(visit: Visit) -> Page:
    report = evals.evals(visit.workspace)
    return Page("Evals", "/evals", evals_page.evals(report), report, "/evals?format=json")


def _prs(visit: Visit) -> Page:
    report = prarchive.prs(visit.workspace)
    return Page("Pull requests", "/prs", prs.prs(report), report, "/prs?format=json")


def _pr(visit: Visit, slug: str) -> Page | Answer:
    at = visit.asked("at") or None
    if visit.asked("format") == "json":
        data = prarchive.stored(visit.workspace, slug, prarchive.DATA, at)
        return Answer(HTTPStatus.OK, _JSON, data, untrusted=True)
    versions = prarchive.history(visit.workspace, slug)
    shown = next((v for v in versions if at in {None, v.commit}), None)
    if shown is None:
        raise FatalError(f"{slug!r} has no version {at}", hint=address("prs", slug))
    place = address("prs", slug, at=shown.commit, format="json")
    return Page(shown.title, "/prs", prs.pr(slug, versions, shown), None, place)


def _pr_page(visit: Visit, slug: str) -> Answer:
    at = visit.asked("at") or None
    data = prarchive.stored(visit.workspace, slug, prarchive.HTML, at)
    return Answer(HTTPStatus.OK, _HTML, data, untrusted=True)


@dataclass(frozen=True)
class Route:
    pattern: re.Pattern[str]
    title: str
    here: str
    answer: Callable[..., Page | Answer]


_NAME = r"([A-Za-z0-9][A-Za-z0-9._\-]{0,127})"
ROUTES = (
    Route(re.compile("/"), "Overview", "/", _overview),
    Route(re.compile("/status"), "Status", "/", _status),
    Route(re.compile("/graph"), "Graph", "/graph", _graph),
    Route(re.compile("/runs"), "Runs", "/runs", _runs),
    Route(re.compile(f"/runs/{_NAME}"), "Runs", "/runs", _run),
    Route(re.compile("/evals"), "Evals", "/evals", _evals),
    Route(re.compile("/prs"), "Pull requests", "/prs", _prs),
    Route(re.compile(f"/prs/{_NAME}"), "Pull requests", "/prs", _pr),
    Route(re.compile(f"/prs/{_NAME}/page"), "Pull requests", "/prs", _pr_page),
)


# -- how it is written ------------------------------------------------------------------------

_HTML = "text/html; charset=utf-8"
_JSON = "application/json; charset=utf-8"


class _Refused(Exception):  # noqa: N818 - an answer, not an error of ours
    """No report, and the page that says why."""

    def __init__(
        self,
        status: HTTPStatus,
        error: FatalError,
        title: str,
        here: str,
        above: Html | None = None,
    ) -> None:
        super().__init__(str(error))
        self.status, self.error, self.title, self.here = status, error, title, here
        self.above = above


def _refused(refused: _Refused, workspace: str, wants_json: bool) -> Answer:
    error = refused.error
    if wants_json:
        body = {"schema": "soup.error/1", "error": str(error), "hint": error.hint}
        return _json(refused.status, json.dumps(body, indent=2, sort_keys=True) + "\n")
    body_html = together([refused.above, refusal(str(error), error.hint)])
    return _html(refused.status, framed(Page(refused.title, refused.here, body_html), workspace))


def _json(status: HTTPStatus, text: str) -> Answer:
    return Answer(status, _JSON, text.encode("utf-8", "backslashreplace"))


def _html(status: HTTPStatus, page: Html) -> Answer:
    return Answer(status, _HTML, page.encode("utf-8", "backslashreplace"))


def style() -> str:
    """The one style sheet: ours after that of the pictures, which it may adjust."""
    ours = resources.files("soup_git.ui").joinpath("style.css").read_text("utf-8")
    return f"{html.picture_style()}{chart.STYLE}{lanes.STYLE}{ours}"
