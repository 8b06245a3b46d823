"""What is computed once and kept: fine-tuned teachers as folders, logits and baseline results as tensors.

An entry is found by a key made of everything that determines it, so a changed input never hits an old one:

    <root>/<kind>/<key>/files/          the data
    <root>/<kind>/<key>/parts.json      what the key was made of, for a person to read
    <root>/<kind>/<key>/manifest.json   {file: [size in bytes, sha256]}
    <root>/<kind>/<key>.work/           while the entry is being computed; outlives a killed process
    <root>/<kind>/<key>.lock            held while the entry is being computed

What is guaranteed, whatever kills a process and whenever:
- A half-written entry is never read: it is written and synced beside its place, then renamed into it.
- An entry is verified each time it is read; a damaged one is built again, with one warning.
- Processes that want the same entry compute it once. The operating system drops the lock of a killed
  process, and the next one continues from `work`. Between machines this holds as far as the file system's
  locks do: NFSv4, and Lustre or GPFS with flock enabled, but not object stores mounted as folders.
- Finished entries are read without the lock, so a cache that cannot be written still serves what it holds.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file

from kdexp.errors import UserError

logger = logging.getLogger(__name__)

_TENSORS_FILE = "tensors.safetensors"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# safetensors (Rust) and torch.save (C++) report a full disk without an errno, in these words.
_NO_ROOM_WORDS = re.compile(
    rf"\(os error ({errno.ENOSPC}|{errno.EDQUOT}|{errno.EFBIG})\)"
    r"|unexpected pos \d+ vs \d+|PytorchStreamWriter failed writing"
)


def content_key(parts: Mapping[str, object]) -> str:
    """Name what `parts` describes: 32 hex digits of the SHA-256 of their canonical JSON.

    Order of keys does not matter; 1, 1.0, True and "1" are four different values.

    Raises:
        TypeError: A value is not a str, int, float, bool, None, list or dict of such with str keys.
    """
    plain = dict(parts)
    _require_json(plain)
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


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
class Cache:
    """Entries under `root`, safe to share between processes (see the module's guarantees)."""

    root: Path

    def ensure_writable(self) -> None:
        """Make the root and prove that it can be written, before anything expensive starts.

        Raises:
            UserError: It cannot.
        """
        with self._blame_place():
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".probe-", dir=self.root) as probe:
                Path(probe, "probe").write_bytes(bytes(4096))
                sync(Path(probe))

    def tensors(
        self, kind: str, parts: Mapping[str, object], compute: Callable[[Path], Mapping[str, torch.Tensor]]
    ) -> TensorEntry:
        """Return the tensors that `parts` describe, calling `compute(work)` if they are not there.

        `work`, and what is raised, are as in `folder`.
        """

        def build(target: Path, work: Path) -> None:
            computed = compute(work)
            # Copied, because safetensors refuses tensors that share memory.
            separate = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in computed.items()}
            save_file(separate, target / _TENSORS_FILE)

        entry = self.folder(kind, parts, build)
        return TensorEntry(load_file(entry.path / _TENSORS_FILE), entry.key, entry.hit)

    def folder(self, kind: str, parts: Mapping[str, object], build: Callable[[Path, Path], None]) -> FolderEntry:
        """Return the folder that `parts` describe, calling `build(target, work)` if it is not there.

        Args:
            kind: Folder that groups like entries: `teacher`, `logits`, ...
            parts: Everything that determines the content; see `content_key`.
            build: Fills the empty folder `target`. What it keeps in `work` (training checkpoints) is still
                there when an attempt that was killed, or that raised, is repeated; what was being written at
                that moment may be half there. `work` is removed once the entry is finished.

        Raises:
            UserError: The cache cannot be used, or has no room left. Whatever else `build` raises passes
                unchanged.
        """
        key = content_key(parts)
        place = self.root / kind / key
        work = place.with_name(f"{key}.work")
        finished = FolderEntry(place / "files", key, hit=True)
        with self._blame_place():
            # An entry with a `work` beside it is of a process killed before it cleaned up: done below.
            if place.exists() and not work.exists() and _damage(place) is None:
                return finished
        with self._lock(place):
            # Unique, so that even where locks fail two processes never write into the same folder.
            temporary = place.with_name(f"{key}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
            target = temporary / "files"
            try:
                with self._blame_place():
                    for leftover in place.parent.glob(f"{key}.*.tmp"):
                        shutil.rmtree(leftover)
                    if place.exists():
                        damage = _damage(place)
                        if damage is None:  # finished by another process in the meantime
                            shutil.rmtree(work, ignore_errors=True)
                            return finished
                        logger.warning("%s is damaged and is built again: %s", place, damage)
                        shutil.rmtree(place)
                    work.mkdir(exist_ok=True)
                    target.mkdir(parents=True)
                try:
                    build(target, work)
                except Exception as error:
                    if _tells_no_room(error):
                        raise self._refusal(f"no room left ({error})") from error
                    raise
                with self._blame_place():
                    _write_json(temporary / "parts.json", dict(parts))
                    _write_json(temporary / "manifest.json", _manifest(target))
                    sync(temporary)
                    os.replace(temporary, place)
                    _sync_folder(place.parent)
                    shutil.rmtree(work)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return FolderEntry(place / "files", key, hit=False)

    def forget(self, kind: str, parts: Mapping[str, object]) -> None:
        """Remove the entry that `parts` describe, and what was begun of it, so that it is built anew.

        Raises:
            UserError: The cache cannot be used.
        """
        place = self.root / kind / content_key(parts)
        with self._lock(place), self._blame_place():
            for leftover in (place, place.with_name(f"{place.name}.work")):
                if leftover.exists():
                    shutil.rmtree(leftover)

    @contextlib.contextmanager
    def lock(self, kind: str, key: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of that name against other processes; the value tells whether it could be had.

        Args:
            wait: False returns at once when another process holds it.
        """
        with self._blame_place():
            folder = self.root / kind
            folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{key}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if not wait:
                yield False
                return
            logger.info("waiting for another process that is busy with the same (%s %s)", kind, key[:8])
            lock.acquire(poll_interval=0.2)
        try:
            yield True
        finally:
            lock.release()

    def identity(self) -> str:
        """A name of this cache, whatever path it is mounted at: processes that share it share its locks."""
        with self._blame_place():
            self.root.mkdir(parents=True, exist_ok=True)
            place = self.root / "identity"
            if not place.exists():
                # A link is made or refused in one step: of two processes one names the cache, both read it.
                proposal = self.root / f".identity-{uuid.uuid4().hex}"
                proposal.write_text(uuid.uuid4().hex, encoding="ascii")
                with contextlib.suppress(FileExistsError):
                    os.link(proposal, place)
                proposal.unlink()
            return place.read_text(encoding="ascii")

    @contextlib.contextmanager
    def _lock(self, place: Path) -> Iterator[None]:
        with self._blame_place():
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(place.with_name(f"{place.name}.lock"))
            try:
                lock.acquire(blocking=False)
            except Timeout:
                logger.info("waiting for another process that is computing %s", place)
                lock.acquire(poll_interval=0.2)
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _blame_place(self) -> Iterator[None]:
        """Turn an OSError into the person's: only the cache's own reading and writing goes inside."""
        try:
            yield
        except OSError as error:
            raise self._refusal(str(error)) from error

    def _refusal(self, problem: str) -> UserError:
        remedy = "make room there or choose a folder that you can write with cache_dir=<folder>"
        return UserError("cache_dir", f"cannot use {self.root}: {problem}", remedy)


def _require_json(value: object) -> None:
    """Refuse what JSON would not give back as it was, such as tuples, paths and numbers as keys."""
    match value:
        case None | str() | int() | float():  # bool is an int
            pass
        case list():
            for item in value:
                _require_json(item)
        case dict():
            for name, item in value.items():
                if not isinstance(name, str):
                    raise TypeError(f"a key's parts need names that are str, got {name!r}")
                _require_json(item)
        case _:
            raise TypeError(f"a key's parts are str, int, float, bool, None, list or dict, got {value!r}")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _manifest(files: Path) -> dict[str, list[int | str]]:
    """Size and SHA-256 of every file; not of hidden ones, which desktops and NFS leave behind anywhere."""
    manifest: dict[str, list[int | str]] = {}
    for path in sorted(files.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            manifest[path.relative_to(files).as_posix()] = [path.stat().st_size, digest]
    return manifest


def _damage(place: Path) -> str | None:
    """Say what is wrong with the entry at `place`, None if nothing is.

    Raises:
        PermissionError: It is another person's: not damaged, and not to be removed.
    """
    try:
        if content_key(json.loads((place / "parts.json").read_text(encoding="utf-8"))) != place.name:
            return "parts.json does not give the name of its folder"
        if json.loads((place / "manifest.json").read_text(encoding="utf-8")) != _manifest(place / "files"):
            return "its files are not those that manifest.json lists"
    except PermissionError:
        raise
    except (OSError, ValueError, TypeError) as error:  # errors of JSON and Unicode are ValueErrors
        return str(error)
    return None


def _tells_no_room(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    return _NO_ROOM_WORDS.search(str(error)) is not None


def sync(folder: Path) -> None:
    """Have the disk hold everything below `folder` before a rename says that it is there."""
    for path in folder.rglob("*"):
        if path.is_dir():
            _sync_folder(path)
        else:
            # Windows syncs only what is open for writing.
            with path.open("rb" if os.name == "posix" else "r+b") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    # Windows cannot open a folder, and some network file systems cannot sync one; there it is up to them.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
