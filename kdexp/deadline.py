"""A total limit for what a server is asked: a client's own limit begins anew with every byte that arrives."""

import contextvars
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")

CALL_SECONDS = 150.0
"""More than all tries of one call take where nothing answers, as kdexp sets MLflow's limits."""
DOWNLOAD_SECONDS = 900.0
_SLOWEST_BYTES_A_SECOND = 100_000


class TooLateError(OSError):
    """No whole answer arrived within the limit."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"timed out: no whole answer within {seconds:,.0f} s")


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """What the call returns or raises.

    It is made by a thread that is left to itself when it is too late: a read that waits cannot be broken off.

    Raises:
        TooLateError: It did not end within so many seconds.
    """
    outcome: list[tuple[Result | None, BaseException | None]] = []

    def work() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:
            outcome.append((None, error))

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name="kdexp-call", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TooLateError(seconds)
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def limit_of(name: str, arguments: tuple[Any, ...]) -> float:
    """Seconds that a client's method of this name may take: what sends files by their size."""
    if name == "download_artifacts":
        return DOWNLOAD_SECONDS
    if "artifact" not in name:
        return CALL_SECONDS
    sent = [Path(argument) for argument in arguments if isinstance(argument, str)]
    files = [file for path in sent if path.exists() for file in ([path] if path.is_file() else path.rglob("*"))]
    num_bytes = sum(file.stat().st_size for file in files if file.is_file())
    return CALL_SECONDS + num_bytes / _SLOWEST_BYTES_A_SECOND
