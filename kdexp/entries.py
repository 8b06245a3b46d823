"""Entries on disk that are found, claimed and committed, whatever kills a process and whenever.

An entry is found by a key made of everything that determines it, so a changed input never hits an old one:

    <root>/<kind>/<key>/files/          the data
    <root>/<kind>/<key>/parts.json      what the key was made of, for a person to read
    <root>/<kind>/<key>/manifest.json   {file: [size in bytes, sha256]}
    <root>/<kind>/<key>.work/           while the entry is being computed; outlives a killed process
    <root>/<kind>/<key>.lock            held while the entry is being computed

What is guaranteed:
- A half-written entry is never read: it is written and synced beside its place, then renamed into it.
- An entry is verified each time it is read; a damaged one is built again, with one warning. A file that did not
  change since this process verified it (size, time, inode) is not read again for that.
- Processes that want the same entry compute it once. The operating system drops the claim of a killed
  process, and the next one continues from `work`. Between machines this holds as far as the file system's
  locks do: NFSv4, and Lustre or GPFS with flock enabled, but not object stores mounted as folders.
- Finished entries are read without a claim, so a cache that cannot be written still serves what it holds.
"""

import contextlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from kdexp.errors import UserError
from kdexp.files import (
    find_damage,
    is_disk_full,
    lasting_name,
    prove_writable,
    remove_leftovers,
    seal,
    sync_folder,
    try_lock,
)
from kdexp.fingerprint import content_key
from kdexp.processes import Processes

logger = logging.getLogger(__name__)

CACHE_FORMAT = 3
"""Part of every key: a new number when the meaning of parts, or the layout of files, changes."""

POLL_SECONDS = 0.2


class Key:
    """What names an entry.

    Args:
        kind: Folder that groups like entries: `teachers`, `teacher_logits`, ...
        parts: Everything that determines the content; see `content_key`. CACHE_FORMAT is added to them.
    """

    def __init__(self, kind: str, parts: Mapping[str, object]) -> None:
        self.kind = kind
        self.parts = {"format": CACHE_FORMAT, **parts}
        self.digest = content_key(self.parts)


@dataclass(frozen=True)
class Claim(contextlib.AbstractContextManager):
    """The right to compute an entry, against other processes, until it is released or its process ends."""

    key: Key
    lock: FileLock = field(repr=False)

    def release(self) -> None:
        self.lock.release()

    def __exit__(self, *error: object) -> None:
        self.release()


@dataclass(frozen=True)
class Entries:
    """Entries under `root`, safe to share between processes (see the module's guarantees)."""

    root: Path

    def ensure_writable(self) -> None:
        """Make the root and prove that it can be written, before anything expensive starts.

        Raises:
            UserError: It cannot.
        """
        with self._as_cache_error():
            self.root.mkdir(parents=True, exist_ok=True)
            prove_writable(self.root)
            remove_leftovers(self.root, ".probe-*", ".identity-*")

    def find(self, key: Key) -> Path | None:
        """Return the folder of a finished entry, verified; None where there is none, or a damaged one.

        Raises:
            UserError: The cache cannot be read.
        """
        entry = self._entry(key)
        with self._as_cache_error():
            if not entry.exists() or find_damage(entry) is not None:
                return None
        work = work_folder(entry)
        if work.exists():  # of a process that was killed before it cleaned up, or is about to
            with contextlib.suppress(UserError), self.lock(key.kind, key.digest, wait=False) as is_free:
                if is_free:
                    shutil.rmtree(work, ignore_errors=True)
        return entry / "files"

    def claim(self, key: Key) -> Claim | None:
        """Claim an entry, to compute it; None where another process has it: `find` it later.

        Raises:
            UserError: The cache cannot be written.
        """
        lock = self._try_lock(key.kind, key.digest)
        if lock is None:
            return None
        for leftover in self._entry(key).parent.glob(f"{key.digest}.*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)  # another person's is in nobody's way
        return Claim(key, lock)

    def workspace(self, key: Key) -> Path:
        """Return a folder for what is begun (checkpoints); it is there again when a killed computation is repeated.

        What was being written when the process was killed may be half there. `commit` removes the folder.

        Raises:
            UserError: The cache cannot be written.
        """
        work = work_folder(self._entry(key))
        with self._as_cache_error():
            work.mkdir(parents=True, exist_ok=True)
        return work

    def commit(self, claim: Claim, write: Callable[[Path], None]) -> Path:
        """Make an entry of what `write(target)` puts into the empty folder `target`; return its final place.

        An undamaged entry that is there already stays as it is.

        Raises:
            UserError: The cache cannot be used, or has no room left. What else `write` raises passes unchanged.
        """
        entry = self._entry(claim.key)
        with self._as_cache_error():
            damage = find_damage(entry) if entry.exists() else None
            if damage is not None:
                logger.warning("%s is damaged and is built again: %s", entry, damage)
                shutil.rmtree(entry)
        with self._temporary(claim.key) as temporary:
            write(temporary / "files")
            with self._as_cache_error():
                seal(temporary, claim.key.parts)
                if not entry.exists():
                    os.replace(temporary, entry)
                    sync_folder(entry.parent)
                if work_folder(entry).exists():
                    shutil.rmtree(work_folder(entry))
        return entry / "files"

    @contextlib.contextmanager
    def lock(self, kind: str, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of that name against other processes; the value tells whether it could be had without `wait`.

        The main process of a training holds it for all of them: the others go on at once.
        """
        if not Processes.current().is_main:
            yield True
            return
        lock = self._try_lock(kind, name)
        if lock is None and wait:
            logger.info("waiting for another process that is busy with the same (%s %s)", kind, name[:8])
        while lock is None and wait:
            time.sleep(POLL_SECONDS)
            lock = self._try_lock(kind, name)
        try:
            yield lock is not None
        finally:
            if lock:
                lock.release()

    def identity(self) -> str:
        """A name of this cache, whatever path it is mounted at: processes that share it share its locks."""
        with self._as_cache_error():
            return lasting_name(self.root / "identity")

    def _try_lock(self, kind: str, name: str) -> FileLock | None:
        with self._as_cache_error():
            return try_lock(self.root / kind / f"{name}.lock")

    def _entry(self, key: Key) -> Path:
        return self.root / key.kind / key.digest

    @contextlib.contextmanager
    def _temporary(self, key: Key) -> Iterator[Path]:
        """Make a folder to fill before it may become the entry; where the disk gets full, that is told."""
        # Unique, so that even where locks fail two processes never write into the same folder.
        temporary = self.root / key.kind / f"{key.digest}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
        try:
            with self._as_cache_error():
                (temporary / "files").mkdir(parents=True)
            yield temporary
        except Exception as error:
            if is_disk_full(error):
                raise self._refusal(f"no room left ({error})") from error
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @contextlib.contextmanager
    def _as_cache_error(self) -> Iterator[None]:
        """Turn an OSError into the person's: only the cache's own reading and writing goes inside."""
        try:
            yield
        except OSError as error:
            raise self._refusal(str(error), is_others=isinstance(error, PermissionError)) from error

    def _refusal(self, problem: str, *, is_others: bool = False) -> UserError:
        here = "share it with a group (docs/troubleshooting.md)" if is_others else "make room there"
        remedy = f"{here} or choose a folder that you can write with cache_dir=<folder>"
        return UserError("cache_dir", f"cannot use {self.root}: {problem}", remedy)


def work_folder(entry: Path) -> Path:
    """Where an entry is made, beside where it will stand: a computation that was cut off continues there."""
    return entry.with_name(f"{entry.name}.work")
