"""Digests of what a result depends on: texts, weights, files, library versions."""

import hashlib
import json
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_COARSEST_CLOCK_NS = 2_000_000_000  # of FAT; others tick every few milliseconds


def plain(config: object) -> Any:
    """The config as JSON values: enums become their names."""
    return json.loads(json.dumps(asdict(config)))  # type: ignore[call-overload]


def own_version() -> str:
    """Of kdexp."""
    try:
        return version("kdexp")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0.1.0"


@lru_cache(maxsize=1)
def library_versions() -> dict[str, str]:
    """Of the libraries whose numerics a result depends on."""
    return {name: version(name) for name in ("torch", "transformers", "tokenizers")}


def path_digest(path: Path) -> list[list[str]]:
    """Name and SHA-256 of every file below `path`."""
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    return [[file.name, file_sha256(file)] for file in files]


def file_sha256(path: Path) -> str:
    """Of a file as it is now; not computed again in this process while its size, times and inode stay.

    Clocks of file systems are coarse: a file may change twice within what they call the same moment. One that
    was just written is therefore not remembered.
    """
    status = path.stat()
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < _COARSEST_CLOCK_NS:
        return _sha256(path)
    return _remembered_sha256(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@lru_cache(maxsize=4096)
def _remembered_sha256(path: Path, *state: int) -> str:
    return _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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


def texts_fingerprint(*columns: Collection[str] | None) -> str:
    """Digest columns of text (SHA-256, hex), the boundaries between texts and between columns included."""
    digest = hashlib.sha256()
    for column in columns:
        digest.update(b"none" if column is None else b"column%d:" % len(column))
        for text in column or ():
            # Data read from the web holds lone surrogates now and then: they are content like any other.
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(encoded))
            digest.update(encoded)
    return digest.hexdigest()


def weights_fingerprint(tensors: Mapping[str, "torch.Tensor"]) -> str:
    """Digest name, dtype, shape and bytes of every tensor (SHA-256, hex), wherever it is stored."""
    import torch  # settings are digested without it

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        header = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
        digest.update(b"%d:" % len(header) + header.encode())
        # As bytes, because NumPy has no bfloat16; flat first, because a 0-dim tensor has no such view.
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
