"""What DVC calls files and folders."""

from __future__ import annotations

from soup_git.storage.dvcobjects import folder_listing


def test_listing_is_sorted_by_path() -> None:
    listing = folder_listing([{"md5": "2", "relpath": "b"}, {"md5": "1", "relpath": "a"}])
    assert listing == b'[{"md5": "1", "relpath": "a"}, {"md5": "2", "relpath": "b"}]'
