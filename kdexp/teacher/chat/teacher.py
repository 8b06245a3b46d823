"""A teacher behind an OpenAI-compatible chat endpoint, asked once about each text.

Where the endpoint gives log-probabilities, one request a text is enough: the likeliest first tokens say how probable
each class's word is. Where it does not, each text is asked several times, and the smoothed frequencies of the answers
are the probabilities.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

import torch

from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.fingerprint import content_key
from kdexp.loss.base import Outputs
from kdexp.processes import Processes
from kdexp.progress import progress
from kdexp.task.kinds.base import Answers
from kdexp.task.load import Task
from kdexp.task.split import Split
from kdexp.teacher.base import Cost, Preparation, Scale, Teacher, TeacherAnswers
from kdexp.teacher.chat.client import ChatClient, RefusedError
from kdexp.teacher.chat.reading import ChatReader, Reading
from kdexp.teacher.chat.store import ChatAnswer, ChatStore, request_key
from kdexp.teacher.config import ChatMethod, ChatTeacherConfig
from kdexp.teacher.prompt import Prompt
from kdexp.teacher.translation import Translation, source_names, translation_of

logger = logging.getLogger(__name__)

_FORMAT = 1
"""A new number when the same answers are read differently."""

_AT_ONCE = 500
"""Texts whose answers are looked up together."""

Request = tuple[str, dict[str, Any]]
"""Its key, and what is sent."""


class ChatTeacher:
    """Answers as a chat model does; about texts that it gave no class for, it says nothing (nan)."""

    num_parameters = 0
    scale = Scale.log_probabilities
    may_abstain = True

    def __init__(
        self, role: str, settings: ChatTeacherConfig, prompt: Prompt, cache: Cache, client: ChatClient
    ) -> None:
        self.role, self.name, self.checks_chance = role, settings.name, settings.chance_check
        self.settings, self.prompt, self.cache, self.client = settings, prompt, cache, client
        self.store = ChatStore(cache.root / "chat_answers" / "answers.sqlite")
        self.members: Mapping[str, Teacher] = {}
        self.preparation = Preparation()
        self.notices: list[str] = []
        self.digest = self.fingerprint()
        self._reader = ChatReader(prompt.verbalizers, settings)

    def prepare(self) -> None:
        """There is nothing to prepare: it is a model that somebody else has trained."""

    def fingerprint(self) -> str:
        settings = self.settings
        parts = {
            "format": _FORMAT,
            "model": settings.model,
            "system": settings.system,
            "prompt": self.prompt.template,
            "verbalizers": self.prompt.verbalizers,
            "method": settings.method.value,
            "sampling": [settings.num_samples, settings.sampling_temperature, settings.smoothing, settings.max_tokens],
            "logprobs": [settings.top_logprobs, settings.floor],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()

    def verify(self) -> None:
        """Its answers are on disk, under the request that brought them: nothing can have changed them."""

    def answer(self, split: Split, name: str) -> TeacherAnswers:
        """
        Raises:
            UserError: The endpoint does not answer, or not what can be read.
        """
        started = time.perf_counter()
        # Of several processes one asks; all read what is then on disk. Runs that want the same wait for each other.
        with self.cache.lock("chat_answers", self.digest[:32]):
            asked = Processes.current().share(f"chat/{name}", lambda: self._ask(split, name))
        method = self._method()
        found = Reading(len(self.prompt.verbalizers))
        for texts in _batches(split):
            requests = [list(self._requests(method, *row)) for row in texts]
            answers = self.store.find([key for row in requests for key, _ in row])
            for row in requests:
                given = [answers[key] for key, _ in row]
                found.add(self._reader.read(method, given), given)
        if told := found.notices(name, self.prompt.verbalizers):
            self.notices += told
            for notice in told:
                logger.info("teacher %s: %s", self.name, notice)
        return TeacherAnswers(
            answers=Answers(torch.tensor(found.rows, dtype=torch.float32).reshape(len(split), -1)),
            key=content_key({"chat": self.digest, "method": method.value, "text": split.text_digest}),
            num_forwarded=asked,
            seconds=time.perf_counter() - started,
            cost=Cost(len(split), found.seconds, found.num_requests, found.num_tokens),
        )

    def refuse_unreachable(self, split: Split) -> None:
        """Refuse an endpoint that is not there, where it has still to be asked.

        Raises:
            UserError: It is not.
        """
        method = self._known_method()
        for texts in _batches(split):
            keys = [key for row in texts for key, _ in self._requests(method or ChatMethod.logprobs, *row)]
            if method is None or len(self.store.find(keys)) < len(set(keys)):
                self.client.refuse_unreachable()
                return

    def _known_method(self) -> ChatMethod | None:
        """How it is asked; None where that is still to be found out."""
        if self.settings.method != ChatMethod.auto:
            return self.settings.method
        kept = self.store.find([self._method_key])
        return ChatMethod(kept[self._method_key].text) if kept else None

    def _method(self) -> ChatMethod:
        method = self._known_method()
        assert method is not None  # asking comes first
        return method

    @property
    def _method_key(self) -> str:
        return f"method {self.digest}"

    def _requests(self, method: ChatMethod, text: str, pair: str | None) -> Iterator[Request]:
        """Everything that is asked about a text."""
        settings = self.settings
        messages = [{"role": "system", "content": settings.system}] if settings.system else []
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": [*messages, {"role": "user", "content": self.prompt.fill(text, pair)}],
        }
        if method == ChatMethod.logprobs:
            body |= {"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": settings.top_logprobs}
            yield request_key(body, 0), body
            return
        body |= {"temperature": settings.sampling_temperature, "max_tokens": settings.max_tokens}
        for sample in range(settings.num_samples):
            yield request_key(body, sample), body | {"seed": sample}

    def _ask(self, split: Split, name: str) -> int:
        """Ask what is not on disk yet; the number of texts that were asked about."""
        answered = self.client.counts.answered
        method = self._known_method() or self._find_method(split)
        with progress(f"teacher {self.name}: answers on {name}", len(split)) as advance:
            for texts in _batches(split):
                wanted = {key: body for row in texts for key, body in self._requests(method, *row)}
                kept = self.store.find(list(wanted))
                self._ask_all({key: body for key, body in wanted.items() if key not in kept})
                advance(len(texts))
        per_text = self.settings.num_samples if method == ChatMethod.sampling else 1
        asked = min(math.ceil((self.client.counts.answered - answered) / per_text), len(split))
        if self.client.counts.failures:
            counts = self.client.counts
            logger.info(
                "teacher %s: %s of %s requests of this run failed and were tried again",
                self.name,
                f"{counts.failures:,}",
                f"{counts.requests:,}",
            )
        return asked

    def _find_method(self, split: Split) -> ChatMethod:
        """Ask about one text for log-probabilities, and remember whether the endpoint gives them."""
        (row,) = islice(next(_batches(split)), 1)
        ((key, body),) = self._requests(ChatMethod.logprobs, *row)
        try:
            answer = self.client.ask(body)
            method = ChatMethod.sampling if answer.top is None else ChatMethod.logprobs
        except RefusedError as error:
            logger.info("teacher %s: no log-probabilities (%s)", self.name, error)
            answer, method = None, ChatMethod.sampling
        with self.store.writing() as writer:
            if answer is not None:
                writer.keep(key, answer)
            writer.keep(self._method_key, ChatAnswer(method.value, None, 0, 0, 0.0))
        way = "log-probabilities of the first token, one request a text"
        if method == ChatMethod.sampling:
            way = f"the endpoint gives no log-probabilities: {self.settings.num_samples} sampled answers a text"
        logger.info("teacher %s: %s", self.name, way)
        return method

    def _ask_all(self, requests: Mapping[str, dict[str, Any]]) -> None:
        """Ask in parallel; each answer is on disk before the next one is waited for."""
        if not requests:
            return
        waiting = iter(requests.items())
        pending: dict[Future[ChatAnswer], str] = {}
        with self.store.writing() as writer, ThreadPoolExecutor(self.settings.num_parallel) as pool:

            def collect(done: set[Future[ChatAnswer]]) -> None:
                for future in done:
                    key = pending.pop(future)
                    writer.keep(key, future.result())

            try:
                while True:
                    for key, body in islice(waiting, self.settings.num_parallel - len(pending)):
                        pending[pool.submit(self.client.ask, body)] = key
                    if not pending:
                        return
                    collect(wait(pending, return_when=FIRST_COMPLETED).done)
            except RefusedError as error:
                raise UserError(
                    f"{self.role}.model", f"{self.client.url} refuses the request: {error}", "correct the settings"
                ) from error
            finally:
                # What is on its way is paid for too.
                self.client.stop()
                for future in wait(pending).done:
                    if future.exception() is None:
                        writer.keep(pending[future], future.result())
                self.client.resume()


def _batches(split: Split) -> Iterator[list[tuple[str, str | None]]]:
    for first, second in split.text_batches(_AT_ONCE):
        pairs: Sequence[str | None] = second or [None] * len(first)
        yield list(zip(first, pairs, strict=True))


def load_chat(
    role: str, settings: ChatTeacherConfig, task: Task, cache: Cache
) -> tuple[ChatTeacher, Translation | None]:
    """A chat endpoint as the teacher, and how its classes become the task's.

    Raises:
        UserError: It cannot answer the task, or is not there though it has to be asked.
    """
    settings.refuse_kind(role, task.kind)
    names = source_names(settings.label_map, task.label_names)
    translation = translation_of(role, settings, names, Outputs.classes, task.kind)
    prompt = Prompt.of(role, settings.prompt, settings.verbalizers, names, is_pair=task.train.is_pair)
    prompt.refuse_prefixes(role)
    teacher = ChatTeacher(role, settings, prompt, cache, ChatClient(role, settings))
    teacher.refuse_unreachable(task.validation)
    return teacher, translation
