"""Several teachers: what they answer together, and whole runs of two families."""

import numpy as np
import pytest
import torch
from command_line import SMALL
from scipy.special import logsumexp, softmax

from kdexp.task.kinds.base import Answers
from kdexp.task.split import Split
from kdexp.teacher.base import Preparation, Scale, TeacherAnswers
from kdexp.teacher.logits import Ensemble
from kdexp.tracking.store import Study

SPLIT = Split.from_lists(["a", "b"])


class Fixed:
    """A teacher that says the same whatever it is asked."""

    scale, num_parameters, digest, preparation, checks_chance, members = (
        *(Scale.logits, 10, "digest", Preparation(), True),
        {},
    )

    def __init__(self, logits, key):
        self.name = self.role = self.key = key
        self.logits = torch.tensor(logits)

    def prepare(self):
        pass

    def fingerprint(self):
        return self.key

    def answer(self, split, name):
        return TeacherAnswers(Answers(self.logits), self.key, num_forwarded=2, seconds=0.5)

    def verify(self):
        pass


def together(*logits, weights):
    teachers = {f"teacher {number}": Fixed(values, f"teacher {number}") for number, values in enumerate(logits)}
    ensemble = Ensemble(teachers, dict(zip(teachers, weights, strict=True)))
    ensemble.prepare()
    return ensemble.answer(SPLIT, "test")


def test_the_mixture_is_one_of_probabilities():
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=5, size=(3, 7, 4)).astype(np.float32)
    weights = [1.0, 2.0, 5.0]
    mixed = together(*logits, weights=weights)
    expected = np.average(softmax(logits.astype(np.float64), axis=-1), axis=0, weights=weights)
    np.testing.assert_allclose(mixed.answers.values.double().exp().numpy(), expected, rtol=1e-5)
    assert mixed.num_forwarded == 6
    assert mixed.seconds == 1.5
    assert list(mixed.members) == ["teacher 0", "teacher 1", "teacher 2"]


def test_a_teacher_twice_is_that_teacher():
    one = np.array([[2.0, -1.0, 0.5]], dtype=np.float32)
    mixed = together(one, one, weights=[1.0, 3.0])
    expected = one - logsumexp(one.astype(np.float64), axis=-1, keepdims=True)
    np.testing.assert_allclose(mixed.answers.values.numpy(), expected, rtol=1e-6)


def test_extreme_logits_stay_finite():
    mixed = together([[1e4, -1e4]], [[-1e4, 1e4]], weights=[1.0, 1.0])
    np.testing.assert_allclose(mixed.answers.values.exp().numpy(), [[0.5, 0.5]])


def test_a_weight_in_another_unit_is_the_same_computation():
    both = [[[1.0, 2.0]], [[2.0, 1.0]]]
    assert together(*both, weights=[1.0, 3.0]).key == together(*both, weights=[0.25, 0.75]).key
    assert together(*both, weights=[1.0, 3.0]).key != together(*both, weights=[3.0, 1.0]).key


@pytest.mark.slow
@pytest.mark.usefixtures("empty_store")
def test_two_families_teach_one_student(kdexp, tmp_path):
    command = ("teacher=bert", "more_teachers=[roberta]", *SMALL, "more_teachers.roberta.weight=3")
    result = kdexp(*command, "more_teachers.roberta.chance_check=false")
    assert result.returncode == 0, result.stderr
    assert "teachers together: 0.25 bert + 0.75 roberta" in result.stderr
    (run,) = Study(f"sqlite:///{tmp_path}/mlflow.db", "distillation").runs()
    assert run.params["more_teachers"] == "roberta"
    assert run.params["more_teachers.roberta.weight"] == "3"
    assert run.tags["kdexp.pairing"] == "cross-family"
    assert len({run.tags["kdexp.teacher_sha256"], run.tags["kdexp.teacher_sha256.roberta"]}) == 2
    predictions = Study(f"sqlite:///{tmp_path}/mlflow.db", "distillation").table_artifact(
        run.run_id, "predictions.parquet"
    )
    for name in ("bert", "roberta"):
        agreement = (predictions["student"] == predictions[f"teacher_{name}"]).mean()
        assert run.metrics[f"kd/agreement_{name}"] == pytest.approx(agreement)
        accuracy = (predictions["gold"] == predictions[f"teacher_{name}"]).mean()
        assert run.metrics[f"teacher_{name}/test/accuracy"] == pytest.approx(accuracy)
    label = predictions["gold"].iloc[0]
    column = f"probability_{label}"
    together = 0.25 * predictions[f"teacher_bert_{column}"] + 0.75 * predictions[f"teacher_roberta_{column}"]
    np.testing.assert_allclose(predictions[f"teacher_{column}"], together, rtol=1e-4)
    # Another weight is another computation; the teachers themselves are kept.
    again = kdexp(*command, "more_teachers.roberta.chance_check=false", "more_teachers.roberta.weight=1")
    assert "teacher roberta: kept from an earlier run" in again.stderr
    assert "student bert: trained" in again.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["teacher=[bert,roberta]"], "several teachers at once are teacher=bert 'more_teachers=[roberta,electra]'"),
        (["more_teachers=[bert]"], "more_teachers: bert is the first teacher already"),
        (["more_teachers=[gpt]"], "more_teachers=gpt: no such option; expected one of albert"),
        (["more_teachers=[roberta]", "more_teachers.roberta.weight=0"], "more_teachers.roberta.weight: got 0"),
        (["more_teachers=[roberta]", "terms=[rkd]"], "terms compare with the inside of one teacher, not of 2"),
        (["terms=[rdk]"], "terms=rdk: no such option; expected one of attention, cka, hidden, minilm, pkd, rkd"),
        (["loss.terms.rkd.weight=1"], "loss.terms.rkd: the loss has no such term; add it with 'terms=[rkd]'"),
    ],
)
def test_what_cannot_be_composed_is_refused_in_one_line(settings, words, kdexp, tmp_path):
    result = kdexp(*settings)
    assert result.returncode == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "mlflow.db").exists()
