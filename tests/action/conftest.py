from __future__ import annotations

from tests.forge.conftest import _forked_template, forked, github
from tests.pinned import _pinned_template, dvc, refused

__all__ = ["_forked_template", "_pinned_template", "dvc", "forked", "github", "refused"]
