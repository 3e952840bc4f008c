"""`git soup ui`: the server from its start to Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from soup_git.render.browser import can_open, open_in_browser
from soup_git.render.report import Report, Table, say
from soup_git.storage.workspace import Workspace
from soup_git.ui.server import ADDRESS, Server
from soup_git.ui.site import Site


@dataclass(frozen=True)
class Serving:
    """Where the pages are; the key in the address is all that it takes to read them."""

    schema: ClassVar[str] = "soup.ui/1"
    url: str
    host: str
    port: int
    workspace: str

    def tables(self) -> Sequence[Table | str]:
        return [self.url]


def serve(start: Path, port: int, *, opens: bool, show: Callable[[Report], None]) -> None:
    """Serve the workspace around `start` until Ctrl-C; `show` gets the address first.

    `port` 0 is one that is free. Raises `FatalError` for a folder in no workspace, and for a
    port that is taken.
    """
    root = Workspace.open(start).root
    with Server(Site(start), port) as server:
        report = Serving(server.address(server.keys.shown), ADDRESS, server.server_port, root.name)
        try:
            say(f"serving {root.name}, read-only, to this machine alone; Ctrl-C ends it")
            show(report)
            if opens:
                _open(server)
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped")


def _open(server: Server) -> None:
    if not can_open():
        say("hint: there is no display here; open the address in a browser yourself")
        return
    once = server.address(server.keys.once)
    threading.Thread(target=open_in_browser, args=(once,), daemon=True).start()
