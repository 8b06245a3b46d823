"""Token labels: a tag for every word, such as BIO tags of entities or parts of speech."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import torch

from kdexp.errors import UserError
from kdexp.task.kinds.base import NUM_UNITS, UNITS, Answers, Labels
from kdexp.task.kinds.chance import POWER, chance_test, power
from kdexp.task.kinds.classes import OneOfClasses, classes_line, expected_calibration_error
from kdexp.task.kinds.tags import OUTSIDE, Beginnings, Scheme, as_bio, ordered_tags, scheme_of, with_beginnings
from kdexp.task.kinds.words import WordTexts, lengths_of, refuse_other_lengths, split_row, units_of_tokens
from kdexp.task.tables.table import Column, Table, TextColumn, shorten

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import BatchEncoding, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenLabels(OneOfClasses):
    """One of the tags `label_names` is right for each word; a word is a unit.

    A word that a model did not read (it was cut off, or the model has no token for it) is answered with `O`: so it
    counts in every metric, and an entity there counts as missed.

    Attributes:
        class_weights: [tags], what a word of each weighs in the hard loss; None is 1 each.
    """

    label_names: Sequence[str]
    primary_metric: str = ""
    class_weights: tuple[float, ...] | None = None
    name: ClassVar[str] = "token_labels"
    tells: ClassVar[str] = "a tag of each word"
    head: ClassVar[str] = "ForTokenClassification"
    has_units: ClassVar[bool] = True
    primary_metrics: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "accuracy")

    def __post_init__(self) -> None:
        if not self.primary_metric:
            object.__setattr__(self, "primary_metric", "f1" if self.has_entities else "accuracy")

    @property
    def scheme(self) -> Scheme:
        return scheme_of(self.label_names)

    @property
    def has_entities(self) -> bool:
        """Whether some words are outside of everything; parts of speech have no such word."""
        return OUTSIDE in self.label_names

    @classmethod
    def from_column(cls, column: Column, names: Sequence[str] | None) -> Self:
        if names is not None:
            if len(set(names)) < max(2, len(names)):
                raise UserError("task.labels", f"[{shorten(names)}]", "name two tags or more, each once")
            return cls(list(names))
        if column.class_names is not None:
            return cls(list(column.class_names))
        found = {tag for tags in _rows(column) for tag in tags}
        if len(found) < 2:
            problem = f"every word has the tag '{found.pop()}'" if found else "there are no tags"
            problem += f" in column '{column.name}' of {column.table.source}"
            raise UserError("task.label", problem, "name the column that holds two tags or more")
        if len(found) > 20 and len(found) > sum(map(len, _rows(column))) / 2:
            problem = (
                f"column '{column.name}' of {column.table.source} holds {len(found):,} different values: not tags"
            )
            raise UserError("task.label", problem, f"its columns are: {shorten(column.table.names)}")
        return cls(ordered_tags(found))

    @classmethod
    def texts(cls, table: Table, names: Sequence[str]) -> list[WordTexts]:
        if len(names) > 1:
            raise UserError("task.text", f"{len(names)} columns ({', '.join(names)})", "name the one column of words")
        texts = WordTexts(table.column(names[0], "task.text"))
        texts.refuse_broken()
        return [texts]

    @classmethod
    def reading_notes(cls, table: Table, text: Sequence[str], column: Column) -> list[str]:
        notes = WordTexts(table.column(text[0], "task.text")).notes()
        tags = {tag for row in _rows(column) for tag in row}
        if scheme_of(tags) == Scheme.bio:
            notes += _beginning_notes(column, Beginnings.of(_rows(column)))
        return notes

    def with_primary(self, metric: str | None) -> Self:
        if metric in ("f1", "precision", "recall") and not self.has_entities:
            problem = f"got {metric}, which is one of entities, but the tags have no {OUTSIDE}"
            raise UserError("task.primary_metric", problem, "expected accuracy")
        return super().with_primary(metric)

    def encode(self, column: Column, *, by_number: bool = False) -> pa.Array:
        numbers = {name: number for number, name in enumerate(self.label_names)}
        begin = with_beginnings if self.scheme == Scheme.bio else list
        values, lengths = array("q"), array("q")
        for row, tags in enumerate(_rows(column)):
            named = [self.label_names[int(tag)] if _is_number(tag, self) else tag for tag in tags]
            for place, tag in enumerate(named):
                if tag not in numbers:
                    problem = f"{column.where(row)}, word {place + 1}: unknown tag '{tag:.60}'"
                    raise UserError("task.label", problem, f"the tags are: {shorten(self.label_names)}")
            values.extend(numbers[tag] for tag in begin(named))
            lengths.append(len(tags))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(offsets, np.frombuffer(values, dtype=np.int64))

    def refuse_unfit_rows(self, texts: Sequence[TextColumn], labels: pa.Array, column: Column) -> None:
        words = [length for batch in texts[0].batches() for length in lengths_of(batch)]
        refuse_other_lengths(words, labels.value_lengths().to_numpy(), column)

    def strata(self, labels: Labels) -> np.ndarray:
        """Whether a row holds an entity."""
        if not self.has_entities or labels.lengths is None:
            return super().strata(labels)
        inside = np.concatenate([[0], np.cumsum(labels.values != self.label_names.index(OUTSIDE))])
        ends = np.cumsum(labels.lengths)
        return (inside[ends] > inside[ends - labels.lengths]).astype(np.int64)

    def refuse_untrainable(self, labels: Labels) -> None:
        tags = np.unique(labels.values)
        if len(tags) < 2:
            left = f"all words have the tag '{self.label_names[tags[0]]}'" if len(tags) else "there are no words"
            problem = f"of the {labels.num_rows} rows left to train on, {left}"
            raise UserError("task.train_size", problem, "a tagger needs two tags: keep more rows for training")

    def announcements(self, labels: Labels) -> list[str]:
        counts = np.bincount(labels.values, minlength=self.num_outputs)
        spelled = {
            Scheme.bio: "BIO tags of entities",
            Scheme.bioes: "BIOES tags of entities",
            Scheme.plain: "plain tags",
        }
        return [classes_line(self.label_names, counts, f"{spelled[self.scheme]}, one for each word", "words")]

    def tokenize(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        first: Sequence[str],
        second: Sequence[str] | None,
        max_length: int,
    ) -> "BatchEncoding":
        tokens = super().tokenize(tokenizer, first, second, max_length)
        tokens[UNITS] = [units_of_tokens(*row) for row in zip(first, tokens.encodings, strict=True)]
        tokens[NUM_UNITS] = lengths_of(first)
        return tokens

    def metrics(self, answers: Answers, labels: Labels) -> dict[str, float]:
        """Token accuracy and, of entities, micro-averaged F1, precision and recall of exact matches.

        Returns:
            `f1`, `precision`, `recall` (of entities: type and both ends must be right); `accuracy` (of words, those
            not read included); `nll` (mean, nats) and `ece`, of the words that were read; `unread`, the share of words
            that were not.
        """
        read = answers.read
        logits, gold = answers.values[read].double(), labels.values[read.numpy()]
        log_probabilities = logits.log_softmax(dim=-1).numpy()
        measured = self._entity_metrics(answers, labels) if self.has_entities else {}
        return measured | {
            "accuracy": float((self._numbers(answers) == labels.values).mean()),
            "nll": float(-log_probabilities[np.arange(len(gold)), gold].mean()),
            "ece": expected_calibration_error(np.exp(log_probabilities), gold),
            "unread": 1 - float(read.double().mean()),
        }

    def _entity_metrics(self, answers: Answers, labels: Labels) -> dict[str, float]:
        right, said, true = self.entity_counts(answers, labels).sum(axis=0)
        return {
            "f1": _ratio(2 * right, said + true),
            "precision": _ratio(right, said),
            "recall": _ratio(right, true),
        }

    def entity_counts(self, answers: Answers, labels: Labels) -> np.ndarray:
        """[rows, 3]: entities that are found exactly, those that are said, those that there are."""
        from nervaluate.loaders import ListLoader  # type: ignore[import-untyped]
        from nervaluate.strategies import StrictEvaluation  # type: ignore[import-untyped]

        said, true = (
            ListLoader().load([as_bio(row, self.scheme) for row in rows])
            for rows in (self.decisions(answers), self.gold(labels))
        )
        results = [StrictEvaluation().evaluate(*row, [])[0] for row in zip(true, said, strict=True)]
        return np.array([[row.correct, row.actual, row.possible] for row in results], dtype=np.int64).reshape(-1, 3)

    def resampled_scores(self, answers: Answers, labels: Labels, rows: np.ndarray) -> np.ndarray:
        """The entities of each row are counted once, and the counts are resampled."""
        if self.primary_metric == "accuracy":
            right = (self._numbers(answers) == labels.values).astype(np.int64)
            assert labels.lengths is not None
            by_row = np.add.reduceat(right, np.cumsum(labels.lengths) - labels.lengths)
            return np.asarray(by_row[rows].sum(axis=-1) / labels.lengths[rows].sum(axis=-1))
        right, said, true = (column[rows].sum(axis=-1) for column in self.entity_counts(answers, labels).T)
        whole = {"precision": said, "recall": true, "f1": (said + true) / 2}[self.primary_metric]
        return np.asarray(right / np.maximum(whole, 0.5))

    def refuse_chance(self, answers: Answers, labels: Labels, role: str) -> str | None:
        """The trivial answer finds no entity: an F1 of 0, which 99 % of resampled validation splits must exceed.

        Without entities, words are tested as the rows of classes are.
        """
        if not self.has_entities:
            read = answers.read
            values, gold = answers.values[read].argmax(dim=-1).numpy(), labels.values[read.numpy()]
            test = chance_test(values, gold, self.num_outputs, "words")
            problem, is_better = str(test), test.is_better
            is_enough = is_better or power(gold, self.num_outputs) >= POWER
        else:
            counts = self.entity_counts(answers, labels)
            hits, true = (int((column > 0).sum()) for column in counts.T[[0, 2]])
            problem = f"finds an entity in {hits:,} of the {true:,} validation rows that hold one"
            is_better, is_enough = _is_drawn(hits, len(counts)), _is_drawn(true // 2, len(counts))
        if is_better:
            return None
        if not is_enough:
            trivial = f"tagging all words {OUTSIDE}" if self.has_entities else "chance"
            return f"{problem}: too few rows to tell whether it is better than {trivial}"
        raise UserError(
            role, f"{problem}: it has not learned the task", f"set {role}.chance_check=false to go on all the same"
        )

    def agreement(self, student: Answers, teacher: Answers) -> float:
        """Share of words that both tag alike."""
        return float((self._numbers(student) == self._numbers(teacher)).mean())

    def row_scores(self, answers: Answers) -> np.ndarray:
        """Of the word that is the least sure; 1 where none was read."""
        confidence = torch.where(answers.read, answers.values.softmax(dim=-1).amax(dim=-1), 1.0).numpy()
        assert answers.lengths is not None
        ends = np.cumsum(answers.lengths)
        return np.array(
            [confidence[start:end].min(initial=1.0) for start, end in zip(ends - answers.lengths, ends, strict=True)]
        )

    def decisions(self, answers: Answers) -> list[list[str]]:
        return self._tags(self._numbers(answers), answers.lengths)

    def gold(self, labels: Labels) -> list[list[str]]:
        return self._tags(labels.values, labels.lengths)

    def _numbers(self, answers: Answers) -> np.ndarray:
        """[units], the number of each word's tag; of a word that was not read `O`'s, -1 where there is no such tag."""
        outside = self.label_names.index(OUTSIDE) if self.has_entities else -1
        return torch.where(answers.read, answers.values.argmax(dim=-1), outside).numpy()

    def _tags(self, numbers: np.ndarray, lengths: np.ndarray | None) -> list[list[str]]:
        names = np.array([*self.label_names, OUTSIDE], dtype=object)
        assert lengths is not None
        ends = np.cumsum(lengths)
        return [names[numbers[start:end]].tolist() for start, end in zip(ends - lengths, ends, strict=True)]


def _rows(column: Column) -> Iterator[list[str]]:
    """
    Raises:
        UserError: A row has no tags, or something else.
    """
    names = column.class_names
    for row, value in enumerate(column):
        tags = split_row(value) if isinstance(value, str | list) else [None]
        known = range(len(names)) if names is not None else None
        if not all(isinstance(tag, str) or (isinstance(tag, int) and (known is None or tag in known)) for tag in tags):
            problem = f"{column.where(row)}: column '{column.name}' holds {value!r:.60s}, not a row of tags"
            raise UserError("task.label", problem, 'write a list of tags, like ["O", "B-place"]')
        yield [names[tag] if names is not None and isinstance(tag, int) else str(tag) for tag in tags]


def _is_number(tag: str, kind: TokenLabels) -> bool:
    """Whether a tag is the number of one, as public data sets have it."""
    return tag not in kind.label_names and tag.isdecimal() and int(tag) < len(kind.label_names)


def _beginning_notes(column: Column, begins: Beginnings) -> list[str]:
    if begins.first is None:
        return []
    source = column.table.source
    if begins.is_iob1:
        return [f"{source}: IOB1 tags, read as BIO: every entity begins with B-"]
    row, place = begins.first
    return [
        f"{source}: {begins.counts['I']:,} entities begin with I-, the first in {column.where(row)}, word {place + 1}:"
        " read as B-"
    ]


def _ratio(part: int, whole: int) -> float:
    return float(part / whole) if whole else 0.0


def _is_drawn(hits: int, num_rows: int) -> bool:
    """Whether one of some rows is among 99 % of samples of all rows: about five are enough."""
    return (1 - hits / num_rows) ** num_rows < 0.01
