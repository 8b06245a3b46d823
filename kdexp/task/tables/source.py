"""A file of text as it lies on disk: perhaps compressed, in some encoding."""

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from kdexp.errors import UserError


def _open_only_member(path: Path) -> Any:
    archive = zipfile.ZipFile(path)
    return archive.open(only_member(path) or archive.namelist()[0])


def only_member(path: Path) -> str | None:
    """The one file that a ZIP archive holds; None of one that holds more or none, or is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [item.filename for item in archive.infolist() if not item.is_dir()]
    except (OSError, zipfile.BadZipFile):
        return None
    # What macOS adds to an archive.
    names = [name for name in names if not name.startswith("__MACOSX/") and not name.endswith(".DS_Store")]
    return names[0] if len(names) == 1 else None


_COMPRESSIONS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"PK\x03\x04": _open_only_member,
}
"""By their first bytes: a name may promise what was unpacked on the way, or keep silent."""

COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zip")


def separator_hint(header: str) -> str:
    """What a CSV whose first line holds no comma is likely separated by, and what to do; "" where it holds one."""
    other = next((mark for mark in ";\t|" if mark in header), None)
    return f"is it separated by {other!r}? write it with commas" if other and "," not in header else ""


@dataclass(frozen=True)
class Source:
    """One file.

    Attributes:
        setting: The setting that named it, for messages.
        encoding: As Python calls it.
        has_encoding_setting: Whether whoever named the file can name its encoding too.
    """

    path: Path
    setting: str
    encoding: str = "utf-8"
    has_encoding_setting: bool = True

    def refusal(self, problem: str, remedy: str) -> UserError:
        return UserError(self.setting, problem, remedy)

    def open_bytes(self) -> Any:
        """What the file holds, unpacked."""
        with self.path.open("rb") as file:
            start = file.read(8)
        unpack = next((unpack for magic, unpack in _COMPRESSIONS.items() if start.startswith(magic)), None)
        return unpack(self.path) if unpack else self.path.open("rb")

    def open_text(self, newline: str | None) -> TextIO:
        """Without the byte order mark that Windows programs write."""
        encoding = "utf-8-sig" if codecs.lookup(self.encoding).name == "utf-8" else self.encoding
        return io.TextIOWrapper(self.open_bytes(), encoding=encoding, newline=newline)

    def numbered_lines(self) -> Iterator[tuple[int, str]]:
        # Never splitlines(): texts hold U+0085, U+2028 and form feeds, which it takes for line ends.
        with self.open_text(newline="\n") as file:
            for number, line in enumerate(file, 1):
                yield number, line.removesuffix("\n").removesuffix("\r")

    def refuse_unreadable(self) -> None:
        """Go through a text file once, before its rows are read.

        Raises:
            UserError: It cannot be read to its end, or is not in its encoding.
        """
        try:
            with self.open_bytes() as file:
                self._refuse_undecodable(file)
        # A ZIP archive that wants a password, or is packed in a rare way, is a RuntimeError.
        except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError) as error:
            raise self.refusal(f"cannot read {self.path}: {error}", "check the file") from error

    def _refuse_undecodable(self, file: Any) -> None:
        decoder = codecs.getincrementaldecoder(self.encoding)()
        num_bytes = num_lines = 0  # before what is decoded next
        pending = start = b""
        while True:
            piece = file.read(2**20)
            start = start or piece[:2]
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                line = num_lines + (pending + piece).count(b"\n", 0, error.start) + 1
                raise self._undecodable(line, num_bytes + error.start, start) from error
            if not piece:
                return
            # A character that the next piece completes is decoded with it.
            whole, pending = pending + piece, decoder.getstate()[0]
            num_bytes += len(whole) - len(pending)
            num_lines += whole.count(b"\n")

    def _undecodable(self, line: int, place: int, start: bytes) -> UserError:
        likely = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "cp1252"
        likely = "utf-8" if likely == self.encoding else likely
        name = self.path.name
        convert = f"convert it: iconv -f {likely} -t utf-8 {name} > utf8_{name}"
        if self.has_encoding_setting:
            convert = f"say what it is, for example task.encoding={likely}, or {convert}"
        return self.refusal(f"{self.path}, line {line} (byte {place}): not {self.encoding.upper()}", convert)
