"""Requests to an OpenAI-compatible chat endpoint: at a rate, again where it fails for a while, and not for ever."""

import logging
import os
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import requests

from kdexp.deadline import TooLateError, within
from kdexp.errors import UserError
from kdexp.teacher.chat.store import ChatAnswer
from kdexp.teacher.config import ChatTeacherConfig

logger = logging.getLogger(__name__)

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
"""Seconds before a request is tried again: doubled each time, and as long as the server asks for."""

_WORTH_ANOTHER_TRY = {408, 409, 425, 429, 500, 502, 503, 504, 529}


class RefusedError(Exception):
    """The endpoint does not take the request as it is."""


@dataclass
class Counts:
    """What was asked of the endpoint in this run."""

    requests: int = 0
    failures: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def answered(self) -> int:
        return self.requests - self.failures

    def add(self, *, failed: bool) -> int:
        """One more; the number of failures by now."""
        with self.lock:
            self.requests += 1
            self.failures += failed
            return self.failures


class ChatClient:
    """One endpoint, for several threads.

    Args:
        role: What the settings begin with, for errors.
    """

    def __init__(self, role: str, settings: ChatTeacherConfig) -> None:
        self.role, self.settings = role, settings
        self.url = endpoint(settings.url)
        self.counts = Counts()
        self._key = os.environ.get(settings.key_variable, "")
        self._pace = _Pace(settings.requests_per_minute)
        self._sessions = threading.local()
        self._stopped = threading.Event()

    def refuse_unreachable(self) -> None:
        """Refuse an endpoint that nothing listens at, before anything is trained.

        Raises:
            UserError: There is no connection.
        """
        import socket

        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=5.0).close()
        except OSError as error:
            problem = f"nothing answers at {parts.hostname}:{port} ({error})"
            raise UserError(f"{self.role}.url", problem, "start the server, or correct the address") from error

    def stop(self) -> None:
        """Let no thread wait for another try."""
        self._stopped.set()

    def resume(self) -> None:
        self._stopped.clear()

    def ask(self, body: Mapping[str, Any]) -> ChatAnswer:
        """Send a request until it is answered.

        Raises:
            UserError: It is not, within the limits of the settings.
            RefusedError: The endpoint refuses it as it is (status 400, 404 or 422).
        """
        wait, tries = _FIRST_WAIT, 0
        while True:
            self._pace.wait()
            started = time.perf_counter()
            try:
                response = self._post(body)
                problem = "" if response.ok else f"status {response.status_code}: {self._shown(response.text)}"
            except (requests.RequestException, TooLateError) as error:
                response, problem = None, self._shown(f"{type(error).__name__}: {error}")
            failures = self.counts.add(failed=bool(problem))
            if response is not None and not problem:
                return self._read(response, time.perf_counter() - started)
            tries += 1
            if response is not None and response.status_code not in _WORTH_ANOTHER_TRY:
                self._refuse(response.status_code, problem)
            if tries > self.settings.retries or failures > self.settings.total_retries:
                limit = "retries" if tries > self.settings.retries else "total_retries"
                raise self._given_up(
                    f"{problem} (tried {tries} times, {self.role}.{limit}={getattr(self.settings, limit)})"
                )
            self._stopped.wait(max(wait * random.uniform(0.5, 1.0), _asked_wait(response)))
            if self._stopped.is_set():
                raise self._given_up("stopped")
            wait = min(2 * wait, _LONGEST_WAIT)

    def _post(self, body: Mapping[str, Any]) -> requests.Response:
        """Send a request and read its whole answer.

        Raises:
            TooLateError, requests.RequestException: There is none in time.
        """
        seconds, session = self.settings.timeout, self._session()
        try:
            return within(seconds, partial(session.post, self.url, json=body, timeout=seconds))
        except TooLateError:
            del self._sessions.session  # the answer may still be on its way there
            raise

    def _session(self) -> requests.Session:
        """One for each thread."""
        if not hasattr(self._sessions, "session"):
            session = requests.Session()
            session.trust_env = False  # a netrc or a proxy of the environment is not what the settings say
            if self._key:
                session.headers["Authorization"] = f"Bearer {self._key}"
            self._sessions.session = session
        return self._sessions.session

    def _refuse(self, status: int, problem: str) -> None:
        if status in (401, 403):
            remedy = f"put the key into the environment variable {self.settings.key_variable}"
            raise UserError(f"{self.role}.key_variable", f"the endpoint refuses the key: {problem}", remedy)
        if status in (400, 404, 422):
            raise RefusedError(problem)
        raise self._given_up(problem)

    def _given_up(self, problem: str) -> UserError:
        remedy = "what was answered is kept: the same command goes on where it stopped"
        return UserError(f"{self.role}.url", f"{self.url} does not answer: {problem}", remedy)

    def _read(self, response: requests.Response, seconds: float) -> ChatAnswer:
        try:
            answer = response.json()
            choice = answer["choices"][0]
            text = choice["message"]["content"] or ""
            usage = answer.get("usage") or {}
            tokens = (choice.get("logprobs") or {}).get("content") or []
            top = None
            if tokens and tokens[0].get("top_logprobs"):
                top = _by_token(tokens[0]["top_logprobs"])
            return ChatAnswer(
                text=str(text),
                top=top,
                prompt_tokens=int(usage.get("prompt_tokens") or 0),
                completion_tokens=int(usage.get("completion_tokens") or 0),
                seconds=seconds,
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            problem = f"{self.url} answers, but not as a chat endpoint: {self._shown(response.text)}"
            raise UserError(f"{self.role}.url", problem, "name an OpenAI-compatible one, such as .../v1") from error

    def _shown(self, text: str) -> str:
        """A part of what the server said, in which the key must not stand."""
        shown = text.replace(self._key, "***") if self._key else text
        return " ".join(shown.split())[:200]


def _by_token(top: list[dict[str, Any]]) -> dict[str, float]:
    """One token may be listed in several spellings of the same bytes: the likeliest counts."""
    found: dict[str, float] = {}
    for item in top:
        found[str(item["token"])] = max(float(item["logprob"]), found.get(str(item["token"]), -float("inf")))
    return found


def _asked_wait(response: requests.Response | None) -> float:
    """Seconds that the server asks for."""
    try:
        return min(float(response.headers.get("Retry-After", 0)), _LONGEST_WAIT) if response is not None else 0.0
    except ValueError:  # a date
        return 0.0


def endpoint(url: str) -> str:
    """The address that requests go to: a server alone has its endpoint under /v1, as servers of this kind do."""
    parts = urlsplit(url.rstrip("/"))
    path = parts.path or "/v1"
    if not path.endswith("/chat/completions"):
        path += "/chat/completions"
    return parts._replace(path=path).geturl()


class _Pace:
    """Lets requests begin no faster than at a rate."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds = 60.0 / per_minute if per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()

    def wait(self) -> None:
        if not self._seconds:
            return
        with self._lock:
            now = time.monotonic()
            begin = max(self._next, now)
            self._next = begin + self._seconds
        time.sleep(max(0.0, begin - now))
