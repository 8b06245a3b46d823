"""Answers of a chat endpoint, on disk from the moment they arrive: what was paid for once is not asked again."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdexp.errors import UserError

_LOOKUP = 500
"""Keys that one query asks for; SQLite allows some hundreds of parameters."""


@dataclass(frozen=True)
class ChatAnswer:
    """What a request brought.

    Attributes:
        text: What the model has written.
        top: Log-probabilities of the likeliest first tokens, by token; None where the endpoint gives none.
        seconds: From the request to its answer.
    """

    text: str
    top: Mapping[str, float] | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float


def request_key(body: Mapping[str, Any], sample: int) -> str:
    """Names a request by all that it says: model, prompt, text, and how it is to be answered.

    Args:
        sample: Of several answers to the same, which one.
    """
    return hashlib.sha256(json.dumps([body, sample], sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


class ChatStore:
    """A SQLite file, in which each answer is committed, and synced, by itself.

    Args:
        path: Made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, keys: Sequence[str]) -> dict[str, ChatAnswer]:
        """The answers that there are, by key.

        Raises:
            UserError: The file cannot be read.
        """
        found: dict[str, ChatAnswer] = {}
        with self._connected() as connection:
            for start in range(0, len(keys), _LOOKUP):
                asked = keys[start : start + _LOOKUP]
                marks = ",".join("?" * len(asked))
                for key, answer in connection.execute(
                    f"SELECT key, answer FROM answers WHERE key IN ({marks})", asked
                ):
                    found[key] = ChatAnswer(**json.loads(answer))
        return found

    @contextmanager
    def writing(self) -> Iterator["_Writer"]:
        """
        Raises:
            UserError: The file cannot be written.
        """
        with self._connected() as connection:
            yield _Writer(connection)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=60.0)) as connection:
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
                yield connection
        except (sqlite3.Error, OSError) as error:
            remedy = "make room, or choose another folder with cache_dir=<folder>; a damaged file can be removed"
            raise UserError("cache_dir", f"cannot use {self.path}: {error}", remedy) from error


class _Writer:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def keep(self, key: str, answer: ChatAnswer) -> None:
        with self._connection:
            self._connection.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, json.dumps(asdict(answer), ensure_ascii=True))
            )
