"""What is computed once and kept: fine-tuned teachers as folders, logits and baseline results as tensors.

Find, claim, commit (`kdexp/entries.py`) is all there is to it; `folder`, `loaded` and `tensors` do so for their
callers. The processes of one training compute an entry together: the main one claims and commits it for all of them,
the others take no lock, and an error in one is raised by all.
"""

import contextlib
import errno
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from kdexp.entries import POLL_SECONDS, Claim, Entries, Key, work_folder
from kdexp.errors import UserError
from kdexp.processes import Processes

logger = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")

_TENSORS_FILE = "tensors.safetensors"
# How long what one machine wrote may take to be seen by another one through a network file system.
_VISIBLE_SECONDS = 30.0


@dataclass(frozen=True)
class FolderEntry:
    """A finished folder; `hit` tells that it was there already."""

    path: Path
    key: str
    hit: bool


@dataclass(frozen=True)
class TensorEntry:
    """Finished tensors, on the CPU and mapped from their file; `hit` tells that they were there already."""

    tensors: dict[str, torch.Tensor]
    key: str
    hit: bool


@dataclass(frozen=True)
class Cache(Entries):
    """Entries that a run finds, or computes with whatever processes it has."""

    def tensors(
        self,
        kind: str,
        parts: Mapping[str, object],
        compute: Callable[[Path], Mapping[str, torch.Tensor]],
        fit: Callable[[Mapping[str, torch.Tensor]], bool] = bool,
    ) -> TensorEntry:
        """Return the tensors that `parts` describe, calling `compute(work)` if they are not there or do not fit.

        `work`, and what is raised, are as in `folder`.
        """

        def build(target: Path, work: Path) -> None:
            computed = compute(work)
            # Copied, because safetensors refuses tensors that share memory.
            separate = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in computed.items()}
            save_file(separate, target / _TENSORS_FILE)

        while True:
            entry = self.folder(kind, parts, build)
            tensors = _read_tensors(entry.path)
            if not entry.hit or fit(tensors):
                return TensorEntry(tensors, entry.key, entry.hit)
            # Whole, but not what was written for this key.
            logger.warning("%s does not hold what it should and is built again", entry.path.parent)
            self.forget(kind, parts)

    def loaded(
        self,
        kind: str,
        parts: Mapping[str, object],
        build: Callable[[Path, Path], None],
        load: Callable[[Path], Loaded],
    ) -> tuple[FolderEntry, Loaded]:
        """As `folder`, with what `load(path)` makes of it: what it cannot read is built again, with a warning.

        Raises:
            UserError: As `folder`.
        """
        while True:
            entry = self.folder(kind, parts, build)
            try:
                return entry, load(entry.path)
            except Exception as error:
                if not entry.hit or _is_not_of_the_entry(error):
                    raise
                # Whole, but not what was written for this key.
                logger.warning("%s does not hold what it should and is built again", entry.path.parent)
                logger.debug("it was read with %r", error)
            self.forget(kind, parts)

    def folder(self, kind: str, parts: Mapping[str, object], build: Callable[[Path, Path], None]) -> FolderEntry:
        """Return the folder that `parts` describe, calling `build(target, work)` if it is not there.

        All processes of one training call this, and `build`, together. What the main one's puts into `target`
        is the entry; `work` is the same folder for all of them.

        Args:
            build: Fills the empty folder `target`. What it keeps in `work` (training checkpoints) is still
                there when an attempt that was killed, or that raised, is repeated; what was being written at
                that moment may be half there. `work` is removed once the entry is finished.

        Raises:
            UserError: The cache cannot be used, or has no room left. What else `build` raises passes unchanged.
        """
        key = Key(kind, parts)
        processes = Processes.current()
        claim: Claim | None = None

        def is_there() -> bool:
            nonlocal claim
            claim = self._claim_unless_there(key)
            return claim is None

        hit = processes.share(f"cache/{kind}", is_there)
        if not hit:
            with claim or contextlib.nullcontext(), processes.together(f"cache/{kind}"):
                work = self.workspace(key)
                if claim:
                    self.commit(claim, lambda target: build(target, work))
                else:
                    with self._temporary(key) as temporary:
                        build(temporary / "files", work)
        path = self._entry(key) / "files"
        if not processes.is_main:
            self._wait_until_visible(path)
        return FolderEntry(path, key.digest, hit)

    def forget(self, kind: str, parts: Mapping[str, object]) -> None:
        """Remove the entry that `parts` describe, and what was begun of it, so that it is built anew.

        Raises:
            UserError: The cache cannot be used.
        """
        entry = self._entry(Key(kind, parts))

        def remove() -> None:
            with self.lock(kind, entry.name), self._as_cache_error():
                for leftover in (entry, work_folder(entry)):
                    if leftover.exists():
                        shutil.rmtree(leftover)

        Processes.current().share(f"cache/{kind}", remove)

    def _claim_unless_there(self, key: Key) -> Claim | None:
        """Claim the entry, unless it is there or another process computes it: that one is waited for."""
        is_told = False
        while self.find(key) is None:
            claim = self.claim(key)
            if claim and self.find(key) is None:
                return claim
            if claim:  # finished in the meantime
                claim.release()
            elif not is_told:
                logger.info("waiting for another process that is computing %s", self._entry(key))
                is_told = True
            time.sleep(POLL_SECONDS)
        return None

    def _wait_until_visible(self, path: Path) -> None:
        """Wait for what the main process, maybe on another machine, has found or written."""
        deadline = time.monotonic() + _VISIBLE_SECONDS
        while not path.exists():
            if time.monotonic() > deadline:
                raise self._refusal(f"{path} is not seen by all processes of the training, which must share the cache")
            time.sleep(POLL_SECONDS)


def _is_not_of_the_entry(error: Exception) -> bool:
    """Whether reading failed for what the machine lacks, such as memory or rights."""
    if isinstance(error, UserError | MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, OSError) and error.errno not in (None, errno.ENOENT)


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Nothing where the file holds no tensors."""
    try:
        return load_file(folder / _TENSORS_FILE)
    except (SafetensorError, OSError):
        return {}
