"""Where the rows of another tool's config are, and whether a workspace can hold them."""

from __future__ import annotations

from pathlib import PurePosixPath

from soup_git.migration.draft import DATA, Draft

READABLE = (".jsonl", ".json", ".txt")
CONVERTIBLE = (".csv", ".parquet", ".arrow", ".tsv", ".md", ".zst", ".gz")


def data_file(draft: Draft, path: str, *where: str | int, to: str = DATA) -> bool:
    """Carry the path of a file or folder of rows; say what else it is. True when it is carried."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in READABLE or (path.startswith(("./", "../", "/")) and not suffix):
        draft.carry(to, str(PurePosixPath(path)), *where)
        return True
    if suffix in CONVERTIBLE:
        why = f"{path} is {suffix}: write its rows to a .jsonl file, and its path into {to}"
    elif "://" in path:
        why = f"{path} is not in the workspace: download it, and write its path into {to}"
    else:
        why = (
            f"{path} is a dataset of a hub: download its rows into a .jsonl file of the workspace,"
            f" and write the path into {to}"
        )
    _without(draft, why, *where, to=to)
    return False


def _without(draft: Draft, why: str, *where: str | int, to: str) -> None:
    if to == DATA:
        draft.stand_in(DATA, why, *where)
    else:
        draft.lose(why, *where)


ONE_PATH = "data.train is one file or one folder: put these rows into a file of the same folder"
"""What is said of every dataset after the first."""
