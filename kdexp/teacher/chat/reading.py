"""From what a chat model has said to probabilities of classes."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kdexp.teacher.chat.store import ChatAnswer
from kdexp.teacher.config import ChatMethod, ChatTeacherConfig

_LEAST_MASS = 0.01
"""A model that gives all classes together less than this has answered something else."""


@dataclass(frozen=True)
class Said:
    """What is read of the answers about one text.

    Attributes:
        logs: [classes], log-probabilities; nan where no class was named.
        other: Share of what was said that is none of the classes, or could be several.
    """

    logs: list[float]
    other: float


class ChatReader:
    """
    Args:
        verbalizers: In the order of the classes; none begins with another one.
    """

    def __init__(self, verbalizers: Sequence[str], settings: ChatTeacherConfig) -> None:
        self._words = [_plain(word) for word in verbalizers]
        self._settings = settings

    def read(self, method: ChatMethod, answers: Sequence[ChatAnswer]) -> Said:
        if method == ChatMethod.logprobs:
            return self._of_tokens(answers[0].top or {})
        return self._of_samples([answer.text for answer in answers])

    def _of_tokens(self, top: Mapping[str, float]) -> Said:
        """Each token counts for the one class whose word it begins, or which it begins with."""
        masses = [0.0] * len(self._words)
        for token, log in top.items():
            places = self._begun(_plain(token))
            if len(places) == 1:
                masses[places[0]] += math.exp(log)
        total = sum(masses)
        if total < _LEAST_MASS:
            return self._silence()
        return Said(self._logs([mass / total for mass in masses]), max(0.0, 1.0 - total))

    def _begun(self, token: str) -> list[int]:
        if not token:
            return []
        return [place for place, word in enumerate(self._words) if word.startswith(token) or _opens(token, word)]

    def _of_samples(self, texts: Sequence[str]) -> Said:
        """Frequencies with `smoothing` added to each count (Lidstone)."""
        counts = [0] * len(self._words)
        for text in texts:
            place = self._named(_plain(text))
            if place is not None:
                counts[place] += 1
        named, smoothing = sum(counts), self._settings.smoothing
        if not named:
            return self._silence()
        total = named + smoothing * len(counts)
        return Said(self._logs([(count + smoothing) / total for count in counts]), 1 - named / len(texts))

    def _named(self, text: str) -> int | None:
        """The class whose word the answer begins with, or else the only one that it contains."""
        begins = [place for place, word in enumerate(self._words) if _opens(text, word)]
        within = begins or [
            place for place, word in enumerate(self._words) if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)
        ]
        return within[0] if len(within) == 1 else None

    def _logs(self, probabilities: Sequence[float]) -> list[float]:
        floored = [max(value, self._settings.floor) for value in probabilities]
        total = sum(floored)
        return [math.log(value / total) for value in floored]

    def _silence(self) -> Said:
        return Said([math.nan] * len(self._words), 1.0)


@dataclass
class Reading:
    """What is read of a split, row by row, and what it cost."""

    num_classes: int
    rows: list[list[float]] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    seconds: float = 0.0
    num_requests: int = 0
    num_tokens: int = 0

    def add(self, said: Said, answers: Sequence[ChatAnswer]) -> None:
        self.rows.append(said.logs)
        self.others.append(said.other)
        self.seconds += sum(answer.seconds for answer in answers)
        self.num_requests += len(answers)
        self.num_tokens += sum(answer.prompt_tokens + answer.completion_tokens for answer in answers)

    def notices(self, name: str, verbalizers: Sequence[str]) -> list[str]:
        """What should be said of it, in one line each."""
        silent = sum(math.isnan(row[0]) for row in self.rows)
        answered = [other for row, other in zip(self.rows, self.others, strict=True) if not math.isnan(row[0])]
        told = []
        if silent:
            words = ", ".join(verbalizers[:5])
            told.append(f"{silent:,} of {len(self.rows):,} answers on {name} name none of the classes ({words}, ...)")
        if answered and sum(answered) / len(answered) > 0.1:
            share = sum(answered) / len(answered)
            told.append(f"on {name}, {share:.0%} of what it says is none of the classes, or could be several")
        return told


def _opens(text: str, word: str) -> bool:
    """Whether a text begins with a word, and not with a longer one."""
    return text.startswith(word) and not text[len(word) : len(word) + 1].isalnum()


def _plain(text: str) -> str:
    return text.strip(" \t\r\n\"'`*.,:;!()[]Ġ▁").casefold()
