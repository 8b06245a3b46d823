"""Files that several processes share and any of them may be killed beside: locks, and folders that are surely whole.

A sealed folder holds its data in `files/`, what it was made of in `parts.json`, and `{file: [size, sha256]}` in
`manifest.json`; it is called by the key of its parts.
"""

import contextlib
import errno
import json
import logging
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from kdexp.errors import UserError
from kdexp.fingerprint import content_key, file_sha256

logger = logging.getLogger(__name__)

_NAME = re.compile("[0-9a-f]{32}")
_SHORT_SECONDS = 10.0
_LEFT_SECONDS = 600.0
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# safetensors (Rust) and torch.save (C++) report a full disk without an errno, in these words.
_DISK_FULL_WORDS = re.compile(
    rf"\(os error ({errno.ENOSPC}|{errno.EDQUOT}|{errno.EFBIG})\)"
    r"|unexpected pos \d+ vs \d+|PytorchStreamWriter failed writing|database or disk is full"
)


def seal(folder: Path, parts: Mapping[str, object]) -> None:
    """Write beside `folder/files` what it is made of, and have the disk hold all of it."""
    _write_json(folder / "parts.json", dict(parts))
    _write_json(folder / "manifest.json", _manifest(folder / "files"))
    _share(folder / "files", as_is=folder / "parts.json")
    sync(folder)


def _share(files: Path, as_is: Path) -> None:
    """Let those read and write that may do so with other files: safetensors writes for its owner alone."""
    mode = as_is.stat().st_mode & 0o777
    for path in files.rglob("*"):
        if path.is_file() and path.stat().st_mode & 0o777 != mode:
            path.chmod(mode)


def find_damage(folder: Path) -> str | None:
    """Say what is wrong with a sealed folder, None if nothing is.

    Raises:
        PermissionError: It is another person's: not damaged, and not to be removed.
    """
    try:
        if content_key(json.loads((folder / "parts.json").read_text(encoding="utf-8"))) != folder.name:
            return "parts.json does not give the name of its folder"
        if json.loads((folder / "manifest.json").read_text(encoding="utf-8")) != _manifest(folder / "files"):
            return "its files are not those that manifest.json lists"
    except PermissionError:
        raise
    # Errors of JSON and Unicode are ValueErrors, but for JSON that is nested too deeply.
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return str(error)
    return None


def _manifest(files: Path) -> dict[str, list[int | str]]:
    """Size and SHA-256 of every file; not of hidden ones, which desktops and NFS leave behind anywhere."""
    listed: dict[str, list[int | str]] = {}
    for path in sorted(files.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            listed[path.relative_to(files).as_posix()] = [path.stat().st_size, file_sha256(path)]
    return listed


def try_lock(path: Path) -> FileLock | None:
    """Lock against other processes; None where one of them holds the lock. The system drops it with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)  # without a mode: as the umask says, for a group that shares the folder
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def lasting_name(path: Path) -> str:
    """What this file calls its folder: the same for all processes, made up by the first that asks."""
    name = _write_once(path, uuid.uuid4().hex)
    if _NAME.fullmatch(name):
        return name
    logger.warning("%s is damaged and is written again", path)
    with FileLock(path.with_name(f"{path.name}.lock"), timeout=_SHORT_SECONDS):
        # Of several processes that find it damaged one writes it.
        if not _NAME.fullmatch(_write_once(path, "")):
            path.unlink()
        return _write_once(path, uuid.uuid4().hex)


def remove_leftovers(folder: Path, *patterns: str) -> None:
    """Remove the small files of processes that were killed while they made them, these or those of old versions."""
    now = time.time()
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        with contextlib.suppress(OSError):  # another person's, or removed meanwhile
            if now - path.stat().st_mtime > _LEFT_SECONDS:
                path.unlink()


def prove_writable(folder: Path) -> None:
    """Write into a folder, without a name that a kill could leave behind.

    Raises:
        OSError: It cannot be written, or has no room.
    """
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(bytes(4096))
        probe.flush()
        os.fsync(probe.fileno())


def _write_once(path: Path, text: str) -> str:
    """Write a file that is not there yet; return what it holds, whoever wrote it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # A link is made or refused in one step: of two processes one writes the file, both read it.
        proposal = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        proposal.write_text(text, encoding="utf-8")
        with contextlib.suppress(FileExistsError):
            os.link(proposal, path)
        proposal.unlink()
    return path.read_text(encoding="utf-8", errors="replace")


def is_disk_full(error: Exception) -> bool:
    """Whether an error means that there is no room left."""
    if isinstance(error, OSError):
        return error.errno in _DISK_FULL
    return _DISK_FULL_WORDS.search(str(error)) is not None


@contextlib.contextmanager
def full_disk_told() -> Iterator[None]:
    """Say in one line that a disk is full, wherever that is found.

    Raises:
        UserError: In place of what says so.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        place = getattr(error, "filename", None) or f"files of this run (such as in {tempfile.gettempdir()})"
        raise UserError("disk", f"no room left for {place}", "make room, then run the same command again") from error


def sync(folder: Path) -> None:
    """Have the disk hold everything below `folder` before a rename says that it is there."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            # Windows syncs only what is open for writing.
            with path.open("rb" if os.name == "posix" else "r+b") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Have the disk hold the names in a folder."""
    # Windows cannot open a folder, and some network file systems cannot sync one; there it is up to them.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
