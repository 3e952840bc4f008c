"""Where work that fans out runs: `concurrent.futures`' interface, on threads or on Dask.

Whoever fans out submits functions and waits for futures, and does not know which of the two
it is. What is submitted must be picklable and small: Dask sends it to other processes, maybe
on other machines. Weights travel by digest, through the DVC cache and its remotes.
"""

from __future__ import annotations

import contextlib
import re
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from soup_git.errors import FatalError

if TYPE_CHECKING:
    from distributed import Client

_CONNECT_SECONDS = 10
_ADDRESS = re.compile(r"(?:tcp|tls|ucx|wss?)://[^/\s]+:\d{1,5}/?|inproc://\S+")
_START_SCHEDULER = "dask scheduler starts one and prints its address, tcp://HOST:8786"
_START_WORKERS = "dask worker ADDRESS starts one; it needs this git-soup and a clone to work in"


class Flag(Protocol):
    """Raised by the caller, seen by the task: "stop, nobody needs your answer"."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...


class Pool(Protocol):
    """An executor, and flags that its tasks can see."""

    @property
    def executor(self) -> Executor: ...

    @property
    def workers(self) -> int:
        """Tasks that run at once, as of now."""
        ...

    def flag(self) -> Flag: ...


class _Threads:
    def __init__(self, executor: ThreadPoolExecutor, jobs: int) -> None:
        self.executor = executor
        self.workers = jobs

    def flag(self) -> Flag:
        return threading.Event()


class _Dask:
    def __init__(self, client: Client) -> None:
        self._client = client
        self.executor: Executor = client.get_executor(pure=False)

    @property
    def workers(self) -> int:
        known = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return max(1, sum(int(worker["nthreads"]) for worker in known))

    def flag(self) -> Flag:
        from distributed import Event

        flag: Flag = Event(f"soup-{uuid.uuid4().hex}", client=self._client)
        return flag


@contextlib.contextmanager
def pool(jobs: int, scheduler: str | None = None) -> Iterator[Pool]:
    """`jobs` threads here, or the workers of the Dask scheduler at an address.

    A Dask worker that dies is no loss: its tasks run again on another one, so they must be
    safe to repeat. Raises `FatalError` when the scheduler cannot be reached, goes away, or
    a task has killed one worker after the other.
    """
    if scheduler is None:
        threads = ThreadPoolExecutor(jobs, thread_name_prefix="soup")
        try:
            yield _Threads(threads, jobs)
        finally:
            threads.shutdown(cancel_futures=True)
        return
    with _client(scheduler) as client, _dask_errors(scheduler):
        yield _Dask(client)


@contextlib.contextmanager
def executor(jobs: int, scheduler: str | None = None) -> Iterator[Executor]:
    """The executor of a `pool`, for work that is never cancelled half-way."""
    with pool(jobs, scheduler) as made:
        yield made.executor


@contextlib.contextmanager
def _client(address: str) -> Iterator[Client]:
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise FatalError(
            f"--scheduler needs Dask, and {error.name} is not installed",
            hint="pip install 'git-soup[dask]'",
        ) from None
    if not _ADDRESS.fullmatch(address):
        raise FatalError(f"{address} is no address of a Dask scheduler", hint=_START_SCHEDULER)
    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise FatalError(
            f"there is no Dask scheduler at {address}: {error}",
            hint=_START_SCHEDULER,
        ) from None
    try:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise FatalError(f"the Dask scheduler at {address} has no worker", hint=_START_WORKERS)
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def _dask_errors(address: str) -> Iterator[None]:
    from distributed import KilledWorker

    try:
        yield
    except KilledWorker as error:
        died: Any = error
        raise FatalError(
            f"a task ended {died.allowed_failures + 1} Dask workers, one after the other",
            hint="dask worker's own log says why; often it is the memory",
        ) from None
    except CancelledError:
        raise FatalError(
            f"the Dask scheduler at {address} went away", hint="start it, then the same command"
        ) from None
