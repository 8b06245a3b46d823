"""Every call to the store goes through here.

One that is busy is waited for, with a limit that is told; what it refuses is said in one line.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kdexp.deadline import TooLateError, limit_of, within
from kdexp.errors import UserError
from kdexp.files import is_disk_full
from kdexp.tracking.secrets import redact
from kdexp.tracking.uri import LEGAL_URIS, LOCK_SECONDS, SETTING, reason

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)


class PatientClient:
    """MLflow's client.

    A call to an SQLite store that another program has locked is made again until it is free; one to a server ends
    within a limit, however slowly that answers.
    """

    def __init__(self, client: "MlflowClient", uri: str) -> None:
        self._client = client
        self._is_server = not uri.startswith("sqlite:")

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)
        return functools.partial(_in_time, name, call) if self._is_server else functools.partial(_patiently, call)


def _in_time(name: str, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return within(limit_of(name, (*arguments, *named.values())), functools.partial(call, *arguments, **named))
    except TooLateError as error:
        raise MlflowException(str(error)) from None


def _patiently(call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
    from mlflow.exceptions import MlflowException

    deadline = time.monotonic() + LOCK_SECONDS
    is_told = False
    while True:
        try:
            return call(*arguments, **named)
        except MlflowException as error:
            if "database is locked" not in str(error) or time.monotonic() > deadline:
                raise
        if not is_told:
            logger.warning("another program has locked the MLflow store: waiting up to %.0f s for it", LOCK_SECONDS)
            is_told = True
        time.sleep(1)


@contextmanager
def told(uri: str) -> Iterator[None]:
    """Say in one line what the store has against a call.

    Raises:
        UserError: In place of MLflow's exception.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        # `from None`: the cause may quote the URI with its password.
        raise _refusal(uri, error) from None
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise UserError(SETTING, f"{redact(uri)} has no room left", "make room there, then run again") from None


def _refusal(uri: str, error: Exception) -> UserError:
    text, shown = str(error), redact(uri)
    if "database is locked" in text:
        problem = f"{shown} is locked by another program since more than {LOCK_SECONDS:.0f} s"
        return UserError(SETTING, problem, "close that program, then run again")
    if "disk is full" in text or "disk I/O error" in text or "No space left" in text:
        return UserError(SETTING, f"{shown} has no room left", "make room there, then run again")
    if "readonly database" in text:
        return UserError(SETTING, f"{shown} can only be read", "name a store that you may write")
    if getattr(error, "error_code", "") in ("PERMISSION_DENIED", "UNAUTHENTICATED") or "403" in text:
        remedy = "ask for the right to create experiments and runs there, or name another store"
        return UserError(SETTING, f"{shown} lets us read but not write ({reason(error)})", remedy)
    return UserError(SETTING, f"{shown} cannot be used ({reason(error)})", LEGAL_URIS)
