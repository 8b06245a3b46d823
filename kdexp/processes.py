"""The processes of one training, started by torchrun or accelerate: who they are, and how they agree and end together.

The training's own collective operations (DDP's) stay apart. What is said here goes through the store in which torch
keeps the processes' addresses: waiting there has no time limit, and a process that failed is heard there even by those
that are in the middle of a collective operation with it.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from kdexp.errors import PrunedError, UserError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")

_POLL_SECONDS = 0.02
_WATCH_SECONDS = 0.2
# The store may live in the process that goes first: that one waits so long for the others to have read.
_COURTESY_SECONDS = 5.0
# NCCL does not notice by itself that a peer is gone.
_GRACE_SECONDS = 60.0

_calls: Counter[str] = Counter()
_open_sections: list["_Section"] = []


class OtherProcessError(RuntimeError):
    """Another process of this training failed."""


@dataclass(frozen=True)
class Processes:
    """This process among those of its training; by default it is alone."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def current(cls) -> "Processes":
        """As torchrun and accelerate say in the environment."""
        names = {"rank": "RANK", "local_rank": "LOCAL_RANK"}
        sizes = {"world_size": "WORLD_SIZE", "local_world_size": "LOCAL_WORLD_SIZE"}
        return cls(
            **{field: int(os.environ.get(variable, "0")) for field, variable in names.items()},
            **{field: int(os.environ.get(variable, "1")) for field, variable in sizes.items()},
        )

    @property
    def is_main(self) -> bool:
        """The one that prints, tracks and writes."""
        return self.rank == 0

    def connect(self, backend: str) -> None:
        """Join the others, unless that is done already; every process of the training calls it."""
        if self.world_size > 1:
            import torch.distributed

            if not torch.distributed.is_initialized():
                torch.distributed.init_process_group(backend, rank=self.rank, world_size=self.world_size)

    def share(self, name: str, decide: Callable[[], T]) -> T:
        """Return on every process what `decide` returns, or raise what it raises, on the main one.

        Args:
            name: The same on every process, as is the number of times that it was used before.
            decide: Returns JSON values.
        """
        if self.world_size == 1:
            return decide()
        store, key = _store(), _key(name)
        if not self.is_main:
            value, error = json.loads(_wait_for(store, key))
            store.add(f"{key}/read", 1)
            if error:
                raise _exception(error)
            return value
        try:
            value = decide()
        except BaseException as error:
            store.set(key, json.dumps([None, _description(error, self.rank)]))
            raise
        else:
            store.set(key, json.dumps([value, None]))
            return value
        finally:
            _await_count(store, f"{key}/read", self.world_size - 1)

    @contextlib.contextmanager
    def together(self, name: str) -> Iterator[None]:
        """Do the body on every process: all leave it when all have done it; an error in one is raised by all.

        A process that another one's failure leaves in a collective operation is freed when the failed one ends.
        """
        if self.world_size == 1:
            yield
            return
        section = _Section(_store(), _key(name), self)
        _open_sections.append(section)
        try:
            yield
            section.leave()
        except BaseException as error:
            told = section.fail(error)
            if told is error:
                raise
            raise told from error
        finally:
            section.close()
            _open_sections.remove(section)

    def wait(self, name: str) -> None:
        """Wait until every process has come here."""
        with self.together(name):
            pass


class _Section:
    """What the processes do together, and the thread that listens whether another one failed in it."""

    def __init__(self, store: "torch.distributed.Store", key: str, processes: Processes) -> None:
        self._store, self._key, self._processes = store, key, processes
        self.failure: BaseException | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name=f"kdexp {key}", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Wait until all have done their part."""
        num_done, world_size = f"{self._key}/done", self._processes.world_size
        self._store.add(num_done, 1)
        with _lost_store():
            while self._store.add(num_done, 0) < world_size:
                _raise_failures()
                time.sleep(_POLL_SECONDS)
            self._store.add(f"{self._key}/left", 1)
        if self._processes.is_main:
            _await_count(self._store, f"{self._key}/left", world_size)

    def fail(self, error: BaseException) -> BaseException:
        """Tell the others; return what the first that failed told."""
        self.close()
        if self.failure:
            return self.failure
        mine = json.dumps(_description(error, self._processes.rank))
        try:
            first = self._store.compare_set(f"{self._key}/failure", "", mine).decode()
        except RuntimeError:  # the store is gone: this is all that is known
            return error
        if first != mine:
            self._store.add(f"{self._key}/heard", 1)
            return _exception(json.loads(first))
        # Those in a collective operation with this process are freed when it ends, and must know by then.
        _await_count(self._store, f"{self._key}/heard", self._processes.world_size - 1)
        return error

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _listen(self) -> None:
        while not self.failure:
            if self._closed.wait(_WATCH_SECONDS):
                return
            try:
                if self._store.check([f"{self._key}/failure"]):
                    self.failure = _exception(json.loads(self._store.get(f"{self._key}/failure")))
                    self._store.add(f"{self._key}/heard", 1)
            except RuntimeError:
                self.failure = OtherProcessError("the main process of this training ended")
        if not self._closed.wait(_GRACE_SECONDS):
            logger.critical("another process of this training failed: %s", self.failure)
            os._exit(1)


def _store() -> "torch.distributed.Store":
    import torch.distributed

    # The only way to it that does not depend on who made the process group (kdexp, accelerate, a person's script).
    return torch.distributed.distributed_c10d._get_default_store()


def _key(name: str) -> str:
    """Another one for each use of a name; processes that do the same count the same."""
    _calls[name] += 1
    return f"kdexp/{name}/{_calls[name]}"


@contextlib.contextmanager
def _lost_store() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        _raise_failures()
        if "DistNetworkError" in type(error).__name__:
            raise OtherProcessError("the main process of this training ended") from error
        raise


def _wait_for(store: "torch.distributed.Store", key: str) -> bytes:
    with _lost_store():
        while not store.check([key]):
            _raise_failures()
            time.sleep(_POLL_SECONDS)
        return store.get(key)


def _raise_failures() -> None:
    for section in _open_sections:
        if section.failure:
            raise section.failure


def _await_count(store: "torch.distributed.Store", key: str, count: int) -> None:
    deadline = time.monotonic() + _COURTESY_SECONDS
    with contextlib.suppress(RuntimeError):
        while store.add(key, 0) < count and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def _description(error: BaseException, rank: int) -> list[object]:
    return [type(error).__name__, [str(argument) for argument in error.args], rank]


def _exception(description: list) -> BaseException:
    name, arguments, rank = description
    for kind in (OtherProcessError, UserError, PrunedError, KeyboardInterrupt):
        if name == kind.__name__:
            return kind(*arguments)
    return OtherProcessError(f"process {rank} of this training failed: {name}: {' '.join(arguments)}")
