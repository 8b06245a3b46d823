"""Digests of what a result depends on: texts, weights, files, library versions."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def plain(config: object) -> Any:
    """The config as JSON values: enums become their names."""
    return json.loads(json.dumps(asdict(config)))  # type: ignore[call-overload]


@lru_cache(maxsize=1)
def library_versions() -> dict[str, str]:
    """Of the libraries whose numerics a result depends on."""
    return {name: version(name) for name in ("torch", "transformers", "tokenizers")}


def path_digest(path: Path) -> list[list[str]]:
    """Name and SHA-256 of every file below `path`."""
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    return [[file.name, _file_sha256(file, file.stat().st_mtime_ns, file.stat().st_size)] for file in files]


@lru_cache(maxsize=1024)
def _file_sha256(file: Path, modified_ns: int, size: int) -> str:
    """Of a file as it is now: a sweep asks for the same files once per job."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
