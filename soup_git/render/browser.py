"""The user's browser, opened on an address."""

from __future__ import annotations

import os
import sys
import webbrowser


def can_open() -> bool:
    """Whether there is a browser with a window: one in this terminal would take it over."""
    wanted = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform == "darwin" or any(os.environ.get(name) for name in wanted)


def open_in_browser(address: str) -> bool:
    """Open `address`; what the browser prints goes to stderr, as stdout is the report's.

    Some browsers are waited for until they end.
    """
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        return webbrowser.open(address)
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
