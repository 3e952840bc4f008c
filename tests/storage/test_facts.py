"""Facts: remembered across processes, and never a wrong one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from soup_git.storage import facts
from soup_git.storage.facts import Facts, file_key


def test_a_fact_outlives_the_object(tmp_path: Path) -> None:
    Facts(tmp_path / "soup" / "facts").put("md5:x", "abc")
    assert Facts(tmp_path / "soup" / "facts").get("md5:x") == "abc"
    assert Facts(tmp_path / "soup" / "facts").get("md5:y") is None


def test_the_last_one_wins(tmp_path: Path) -> None:
    one = Facts(tmp_path / "facts")
    one.put("k", "1")
    one.put("k", "2")
    assert one.get("k") == Facts(tmp_path / "facts").get("k") == "2"


def test_the_same_fact_is_written_once(tmp_path: Path) -> None:
    one = Facts(tmp_path / "facts")
    for _ in range(3):
        one.put("k", "1")
    assert (tmp_path / "facts").read_text() == "\nk 1 ."


def test_what_would_break_a_line_is_not_kept(tmp_path: Path) -> None:
    one = Facts(tmp_path / "facts")
    for key, value in (
        ("a b", "1"),
        ("a\nb", "1"),
        ("a", "1 2"),
        ("a", "1\nb 2 ."),
        ("", "1"),
        ("a", ""),
    ):
        one.put(key, value)
        assert Facts(tmp_path / "facts").get(key) is None
    assert not (tmp_path / "facts").exists()


@pytest.mark.parametrize("cut", range(1, len("\nkey:two 22222 .")))
def test_a_line_cut_short_is_skipped_and_the_next_one_read(tmp_path: Path, cut: int) -> None:
    whole = "\nkey:two 22222 ."
    (tmp_path / "facts").write_text("\nkey:one 1 ." + whole[:-cut])
    one = Facts(tmp_path / "facts")
    assert one.get("key:two") is None
    assert one.get("key:one") == "1"
    one.put("key:three", "3")
    again = Facts(tmp_path / "facts")
    assert [again.get(f"key:{n}") for n in ("one", "two", "three")] == ["1", None, "3"]


def test_junk_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "facts").write_bytes(b"\xff\x00\nx\n\n . .\na b c .\nk 1 .\n")
    assert Facts(tmp_path / "facts").get("k") == "1"
    assert Facts(tmp_path / "facts").get("a") is None


def test_a_long_file_is_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_MAX_BYTES", 100)
    (tmp_path / "facts").write_text("".join(f"\nkey {n} ." for n in range(50)))
    assert Facts(tmp_path / "facts").get("key") == "49"
    assert (tmp_path / "facts").read_text() == "\nkey 49 ."


WRITER = """
import sys
from pathlib import Path
from soup_git.storage.facts import Facts
facts = Facts(Path(sys.argv[1]))
for n in range(300):
    facts.put(f"{sys.argv[2]}:{n}", "v" * 64)
"""


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "soup" / "facts"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], env=env) for name in "abc"
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    known = Facts(path)
    assert all(known.get(f"{name}:{n}") == "v" * 64 for name in "abc" for n in range(300))


# -- files ----------------------------------------------------------------------------------


def aged(path: Path) -> Path:
    """Wait until `path` is old enough to be remembered."""
    file_key("x", path, wait=True)
    time.sleep(0.03)
    return path


def test_a_young_file_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"1")
    coarse = time.time_ns() // 1_000_000_000 * 1_000_000_000
    os.utime(path, ns=(coarse, coarse))  # its ctime is now, whatever its mtime says
    assert file_key("md5", path) is None


def test_a_file_from_the_future_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"1")
    later = time.time_ns() + 3_600_000_000_000
    os.utime(path, ns=(later, later))
    assert file_key("md5", aged(path)) is None


def test_waiting_makes_a_key(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"1")
    assert path.stat().st_mtime_ns % 1_000_000, "needs a file system with a fine clock"
    assert file_key("md5", path, wait=True) is not None


def test_every_change_gives_another_key(tmp_path: Path) -> None:
    path = tmp_path / "a b\nc"
    path.write_bytes(b"1")
    keys = [file_key("md5", aged(path))]
    path.write_bytes(b"2")  # the same size
    keys.append(file_key("md5", aged(path)))
    stat = path.stat()
    path.write_bytes(b"3")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the mtime put back
    keys.append(file_key("md5", aged(path)))
    other = tmp_path / "other"
    other.write_bytes(b"4")
    other.replace(path)  # another inode
    keys.append(file_key("md5", aged(path)))
    keys.append(file_key("sha256", path))
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert not any(" " in str(key) or "\n" in str(key) for key in keys)


def test_an_unchanged_file_keeps_its_key(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"1")
    assert file_key("md5", aged(path)) == file_key("md5", path) is not None
