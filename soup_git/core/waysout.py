"""How to get out of a merge that stopped in a file: what to type, as a hint.

git merges the files of an adapter one by one, and its config as text. `git checkout --ours`
takes one of them back and leaves the config as the merge made it, with the other side's rank
or alpha in it; and it does nothing once the file was added. A version is taken whole, from a
commit.
"""

from __future__ import annotations

import shlex

_OF_ADAPTER = ("adapter.manifest", "adapter_config.json", "adapter_model.safetensors.dvc")


def take_one_side(where: str) -> str:
    """The hint for `where`, a path or `REV:PATH`, that holds conflict markers or two versions."""
    revision, _, path = where.rpartition(":")
    folder, _, name = path.rpartition("/")
    taken = shlex.quote((folder or ".") if name in _OF_ADAPTER else path)
    if revision:
        return f"git log -- {taken} lists the commits; name one before the conflict was committed"
    return (
        f"git checkout HEAD -- {taken} takes ours whole (HEAD~1 where the conflict was committed),"
        f" git checkout MERGE_HEAD -- {taken} theirs (REBASE_HEAD, CHERRY_PICK_HEAD); then"
        " git soup checkout"
    )
