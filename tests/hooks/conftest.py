from __future__ import annotations

from tests.pinned import _pinned_template, dvc, object_of, photo, pinned, refused

__all__ = ["_pinned_template", "dvc", "object_of", "photo", "pinned", "refused"]
