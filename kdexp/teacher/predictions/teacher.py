"""A teacher that is a file: what anything has answered, joined to the texts."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.fingerprint import content_key, path_digest, plain
from kdexp.loss.base import Outputs
from kdexp.task.kinds.base import Answers, TaskKind
from kdexp.task.load import Task
from kdexp.task.split import Split
from kdexp.teacher.base import Preparation, Scale, Teacher, TeacherAnswers
from kdexp.teacher.config import PredictionsTeacherConfig
from kdexp.teacher.predictions.score_file import ScoreReader
from kdexp.teacher.predictions.scores import Question, ScoreFile, split_rows
from kdexp.teacher.translation import Translation, source_names, translation_of

logger = logging.getLogger(__name__)

_FORMAT = 2
"""A new number when the meaning of what is kept of a file changes."""


class PredictionsTeacher:
    """Answers as a file does; about texts that are not in it, it says nothing (nan)."""

    num_parameters = 0
    may_abstain = True

    def __init__(
        self, role: str, settings: PredictionsTeacherConfig, scores: ScoreFile, digest: str, kind: TaskKind
    ) -> None:
        self.role, self.name, self.checks_chance = role, settings.name, settings.chance_check
        self.scores, self.scale, self.digest, self.kind = scores, scores.scale, digest, kind
        self.members: Mapping[str, Teacher] = {}
        self.preparation = Preparation()
        self.notices = list(scores.notes)
        self._values_digest = self._digest_values()

    def prepare(self) -> None:
        for notice in self.notices:
            logger.info("teacher %s: %s", self.name, notice)

    def fingerprint(self) -> str:
        return self._values_digest

    def answer(self, split: Split, name: str) -> TeacherAnswers:
        started = time.perf_counter()
        rows = split_rows(self.scores, split)
        values = torch.full((len(split), self.scores.values.shape[1]), torch.nan)
        values[rows >= 0] = self.scores.values[rows[rows >= 0]]
        parts: dict[str, object] = {"predictions": self._values_digest, "text": split.text_digest}
        answers = Answers(values)
        if self.kind.outputs == Outputs.number:
            # As the labels: in their own unit in the file, standardised as the student learns them.
            answers = self.kind.from_head(answers, {})
            parts["head"] = self.kind.head_config() | {"id2label": None}
        seconds = time.perf_counter() - started
        return TeacherAnswers(answers, content_key(parts), num_forwarded=0, seconds=seconds, is_given=True)

    def verify(self) -> None:
        if self._digest_values() != self._values_digest:
            raise RuntimeError("the teacher's answers changed during the run: only the student may learn")

    def _digest_values(self) -> str:
        digest = hashlib.sha256(self.scale.value.encode())
        digest.update(self.scores.keys.tobytes())
        digest.update(self.scores.values.numpy().tobytes())
        return digest.hexdigest()

    def take_stock(self, task: Task) -> None:
        """Count which of a task's rows it answers.

        Raises:
            UserError: It answers none of those that the student is trained on.
        """
        used = np.zeros(len(self.scores.keys), dtype=bool)
        for name in ("train", "validation", "test", "transfer"):
            split: Split | None = getattr(task, name)
            if split is None:
                continue
            if self.scores.by_id and not split.has_ids:
                problem = f"the rows of {name} have no names to join by"
                raise UserError(f"{self.role}.id", problem, "set task.id=<column> (task=file), or join by text")
            rows = split_rows(self.scores, split)
            used[rows[rows >= 0]] = True
            missing = int((rows < 0).sum())
            if name == "train" and missing == len(split):
                self._refuse_foreign(split)
            if name == "transfer" and missing == len(split):
                continue  # where it is used, asking for answers tells so
            if missing:
                self.notices.append(_missing(name, missing, len(split)))
        if not used.all():
            self.notices.append(f"{int((~used).sum()):,} of its {len(used):,} texts are none of this task's")

    def _refuse_foreign(self, split: Split) -> None:
        if self.scores.by_id:
            problem = f"none of the {len(split):,} training rows has an answer under its name"
            raise UserError(f"{self.role}.id", problem, "does the column hold what task.id names?")
        raise UserError(
            f"{self.role}.path",
            f"answers none of the {len(split):,} training rows (their first text is '{next(iter(split.first)):.60}')",
            f"is it of another task, or is the text in another column? {self.role}.text=<column>",
        )


def _missing(name: str, missing: int, total: int) -> str:
    """What it means that rows are not answered."""
    if name in ("train", "transfer"):
        learned = "are learned from their labels alone" if name == "train" else "have nothing to be learned from"
        return f"no answer for {missing:,} of {total:,} rows of {name}, which {learned}"
    if missing < total:
        return f"no answer for {missing:,} of {total:,} rows of {name}: its scores there are of the others"
    checked = ", so it is checked against chance on train" if name == "validation" else ""
    return f"no answer for any row of {name}: it has no scores there{checked}"


def read_scores(role: str, settings: PredictionsTeacherConfig, question: Question, cache: Cache) -> ScoreFile:
    """Read a file of answers, once: what it says is kept in the cache.

    Args:
        role: What the settings begin with, for errors.

    Raises:
        UserError: The file cannot be read, or does not answer the question.
    """
    path = Path(settings.path).expanduser()

    def build(target: Path, work: Path) -> None:
        with TemporaryDirectory(dir=work) as scratch:
            found = ScoreReader(role, settings, question, Path(scratch)).read()
        np.save(target / "keys.npy", found.keys.view(np.uint8).reshape(-1, 16))
        np.save(target / "values.npy", found.values.numpy())
        facts = {"scale": found.scale.value, "notes": list(found.notes), "by_id": found.by_id}
        (target / "facts.json").write_text(json.dumps(facts), encoding="utf-8")

    parts = {
        "format": _FORMAT,
        "file": path_digest(path) if path.is_file() else None,
        "settings": {name: value for name, value in plain(settings).items() if name in _DECISIVE},
        "names": list(question.names),
        "outputs": question.outputs.value,
        "is_pair": question.is_pair,
    }
    return cache.loaded("prediction_files", parts, build, _stored_scores)[1]


def _stored_scores(folder: Path) -> ScoreFile:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    keys = np.load(folder / "keys.npy").reshape(-1).view("S16")
    values = torch.from_numpy(np.load(folder / "values.npy"))
    if len(keys) != len(values):
        raise ValueError(f"{len(keys)} keys of {len(values)} answers")
    return ScoreFile(keys, values, Scale(facts["scale"]), facts["notes"], facts["by_id"])


_DECISIVE = ("text", "id", "columns", "values", "label", "confidence", "floor")


def load_predictions(
    role: str, settings: PredictionsTeacherConfig, task: Task, cache: Cache
) -> tuple[PredictionsTeacher, Translation | None]:
    """Read a file of answers, and count which of the task's rows it answers.

    Returns:
        The teacher, and how its answers become the task's.

    Raises:
        UserError: The file cannot be read, or does not answer the task.
    """
    settings.refuse_kind(role, task.kind)
    names = source_names(settings.label_map, task.label_names)
    outputs = settings.outputs or task.kind.outputs
    translation = translation_of(role, settings, names, outputs, task.kind)
    question = Question(names, outputs, task.train.is_pair)
    scores = read_scores(role, settings, question, cache)
    (digest,) = (sha for _, sha in path_digest(Path(settings.path).expanduser()))
    teacher = PredictionsTeacher(role, settings, scores, digest, task.kind)
    teacher.take_stock(task)
    return teacher, translation
