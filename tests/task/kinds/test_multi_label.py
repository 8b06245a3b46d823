"""Several labels per row: how they are read, metrics, thresholds, gains, and what is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from kdexp import compose
from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.export.unsure import row_scores
from kdexp.task.kinds.base import Answers, Labels
from kdexp.task.kinds.multi_label import MultiLabel
from kdexp.task.load import load_task
from kdexp.tracking.student_model import StudentFiles, write_student

NAMES = ["joy", "anger", "fear", "love"]
KIND = MultiLabel(NAMES)


def questions(num_rows=60, seed=0, ties=False):
    """Answers that know something, and gold labels of which one never occurs."""
    random = np.random.default_rng(seed)
    gold = (random.random((num_rows, 4)) < [0.4, 0.2, 0.1, 0.0]).astype(np.float32)
    scores = random.normal(size=(num_rows, 4)) + 1.5 * gold - 1
    scores = scores.round(0) if ties else scores
    return Answers(torch.tensor(scores).float()), Labels(gold)


def task_of(folder, rows, *overrides, name="rows.csv", columns=("text", "label")):
    """The task that a file of rows makes."""
    path = folder / name
    table = pd.DataFrame([(f"text {number}", *row) for number, row in enumerate(rows)], columns=columns)
    table.to_parquet(path) if name.endswith("parquet") else table.to_csv(path, index=False)
    settings = ("task=file", "task.kind=multi_label", f"task.train={path}", *overrides)
    return load_task(compose(*settings).task, Cache(folder / "cache"))


def matrix(task):
    """Every row's labels, whatever split it is in."""
    rows = {}
    for split in ("train", "validation", "test"):
        texts = getattr(task, split).first
        rows |= dict(zip(texts, task.kind.gold(task.labels(split)), strict=True))
    return [rows[f"text {number}"] for number in range(len(rows))]


SETS = [["joy", "love"], ["anger"], [], ["fear", "joy", "anger"]] * 5


@pytest.mark.parametrize(
    ("values", "overrides"),
    [
        ([",".join(row) for row in SETS], ()),
        ([" | ".join(row) for row in SETS], ("task.separator='|'",)),
        ([json.dumps(row) for row in SETS], ()),
        ([str(row) for row in SETS], ()),  # as pandas writes lists to CSV
        ([",".join(str(NAMES.index(label)) for label in row) for row in SETS], ("task.labels=[joy,anger,fear,love]",)),
    ],
)
def test_one_column_lists_them(tmp_path, values, overrides):
    task = task_of(tmp_path, [(value,) for value in values], *overrides)
    assert sorted(task.label_names) == sorted(NAMES)
    assert [set(row) for row in matrix(task)] == [set(row) for row in SETS]
    assert any("5 of" in line or "rows have no label" in line for line in task.announcements)


def test_lists_of_parquet_and_columns_of_zeros_and_ones(tmp_path):
    listed = task_of(tmp_path, [(row,) for row in SETS], name="rows.parquet")
    flags = [tuple(int(name in row) for name in NAMES) for row in SETS]
    overrides = ("task.label=[joy,anger,fear,love]",)
    apart = task_of(tmp_path, flags, *overrides, name="flags.csv", columns=("text", *NAMES))
    assert listed.kind.name == apart.kind.name == "multi_label"
    assert list(apart.label_names) == NAMES
    assert [set(row) for row in matrix(listed)] == [set(row) for row in matrix(apart)] == [set(row) for row in SETS]


@pytest.mark.parametrize(
    ("values", "overrides", "message"),
    [
        (["joy", "joy,joy"], (), r"^task.label: .*line 3: the label 'joy' stands there twice; list the labels"),
        (["0,1,0", "1,0,1"], (), r"line 2: the label '0' stands there twice; .* needs a column for each"),
        (["joy", "grief"], ("task.labels=[joy,fear]",), r"line 3: unknown label 'grief'; the labels are: joy, fear"),
        (["0", "2"], ("task.labels=[joy,fear]",), r"line 3: unknown label '2'"),
        (["joy|fear", "joy", "fear"], (), r"^task.separator: got ',', but 'joy\|fear' looks like several"),
        (["[joy", "fear"], (), r"line 2: cannot read \[joy; write a list as JSON"),
        (['["joy", {}]', "fear"], (), r"line 2: column 'label' holds {}, not a label"),
        (["", ""], (), r"no row has a label in column 'label'"),
        (["joy"] * 20, (), r"^task.train_size: .* no label is there in some and absent in others"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(tmp_path, values, overrides, message):
    with pytest.raises(UserError, match=message):
        task_of(tmp_path, [(value,) for value in values], *overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("task.kind=single_label", "task.label=[a,b]"), r"^task.label: names 2 columns, but a single_label task"),
        (
            ("task.kind=single_label", "task.separator='|'"),
            r"^task.separator: got '\|', but a single_label task has one",
        ),
        (("task.label=[a,b]", "task.separator='|'"), r"^task.separator: got '\|', but each column holds one label"),
        (("task.label=[a,c]",), r"^task.label: no column 'c'"),
        (("task.label=[a,text]",), r"^task.text: columns are named twice"),
        (("task.label=[a,b]", "task.labels=[x,y]"), r"^task.labels: got \[x, y\], but task.label names a column"),
        (("task.label=[a,b]",), r"line 3: column 'b' holds '2'; write 1 where"),
        (
            ("task.label=a", "task.primary_metric=accuracy"),
            r"^task.primary_metric: got accuracy, .*micro_f1, macro_f1",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        task_of(tmp_path, [(0, 1), (1, 2), *[(0, 1), (1, 0)] * 9], *overrides, columns=("text", "a", "b"))


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_are_those_of_scikit_learn(ties):
    for seed in range(20):
        answers, labels = questions(seed=seed, ties=ties)
        found, told = KIND.metrics(answers, labels), (answers.values > 0).numpy()
        gold, occurs = labels.values, (labels.values.any(axis=0) | told.any(axis=0))
        assert found["micro_f1"] == pytest.approx(f1_score(gold, told, average="micro"))
        macro = f1_score(gold[:, occurs], told[:, occurs], average="macro", zero_division=0)
        assert found["macro_f1"] == pytest.approx(macro)
        areas = [average_precision_score(gold[:, k], answers.values[:, k]) for k in range(4) if gold[:, k].any()]
        assert found["map"] == pytest.approx(np.mean(areas))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(answers.values, torch.tensor(gold))
        assert found["nll"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1", "map"])
def test_a_gain_is_that_of_the_metric_on_resampled_rows(metric):
    kind = KIND.with_primary(metric)
    labels = questions()[1]
    student, baseline = (
        kind.decided(answers, answers, labels) for answers in (questions()[0], questions(seed=3, ties=True)[0])
    )
    rows = np.random.default_rng(1).integers(0, 60, (50, 60))
    expected = [
        kind.metrics(student.take(sample), labels.take(sample))[metric]
        - kind.metrics(baseline.take(sample), labels.take(sample))[metric]
        for sample in rows
    ]
    assert kind.gain(student, baseline, labels, rows) == pytest.approx(expected)
    assert not kind.gain(student, student, labels, rows).any()


def test_thresholds_are_the_best_of_all_and_chosen_on_validation_alone():
    answers, labels = questions(ties=True)
    chosen = KIND.thresholds(answers, labels)
    assert len(set(chosen)) == 1  # one for all labels is best for micro-F1
    best = KIND.metrics(KIND.decided(answers, answers, labels), labels)["micro_f1"]
    candidates = np.arange(-6, 6, 0.25)
    scores = [
        KIND.metrics(Answers(answers.values, thresholds=np.full(4, candidate)), labels)["micro_f1"]
        for candidate in candidates
    ]
    assert best == pytest.approx(max(scores))
    own = KIND.with_primary("macro_f1").thresholds(answers, labels)
    assert own[3] == chosen[3]  # no row has this label: there is nothing to choose by
    for label in range(3):
        scores = [f1_score(labels.values[:, label], answers.values[:, label] > each) for each in candidates]
        assert f1_score(labels.values[:, label], answers.values[:, label].double().numpy() > own[label]) == max(scores)
    test, _ = questions(seed=9)
    assert (KIND.decided(test, answers, labels).thresholds == chosen).all()
    assert KIND.thresholds(*questions(num_rows=3)[:1], Labels(np.zeros((3, 4)))).tolist() == [0, 0, 0, 0]


def test_a_teacher_that_knows_no_more_than_frequencies_is_refused():
    answers, labels = questions(400)
    assert KIND.refuse_chance(answers, labels, "teacher") is None
    shuffled = Answers(answers.values[torch.randperm(400, generator=torch.Generator().manual_seed(0))])
    with pytest.raises(
        UserError, match=r"^teacher: has micro_f1 0\.\d+ on 400 rows, and against the labels of other rows 0\.\d+ \(p"
    ):
        KIND.refuse_chance(shuffled, labels, "teacher")


@pytest.mark.parametrize("share", [0.03, 0.99])
def test_a_perfect_teacher_of_labels_is_never_refused(share):
    """Where nearly every row has the same labels, the same answer to all of them is as good."""
    gold = np.zeros((100, 4))
    gold[: round(100 * share)] = 1
    said = KIND.refuse_chance(Answers(torch.from_numpy(8 * gold - 4)), Labels(gold), "teacher")
    assert said is None or said.endswith("too few rows to tell whether it is better than chance")


@pytest.mark.parametrize(("metric", "seed"), [("micro_f1", 18), ("macro_f1", 1), ("map", 0), ("map", 1)])
def test_a_teacher_that_guesses_labels_is_not_let_through(metric, seed):
    """Thresholds chosen on the rows that they are tested on, and rows drawn twice, make such guesses look good."""
    random = np.random.default_rng(seed)
    gold = (random.random((100, 4)) < 0.3).astype(float)
    guesses = Answers(torch.from_numpy(random.normal(size=gold.shape)))
    with pytest.raises(UserError, match="it has not learned the task, or its labels are in another order"):
        KIND.with_primary(metric).refuse_chance(guesses, Labels(gold), "teacher")


def test_agreement_compares_what_is_told():
    one, other = (
        Answers(torch.tensor([[1.0, 1, -1, -1], [-1.0] * 4])),
        Answers(torch.tensor([[1.0, -1, 1, -1], [-1.0] * 4])),
    )
    assert KIND.agreement(one, other) == pytest.approx((1 / 3 + 1) / 2)
    assert KIND.decisions(one) == [["joy", "anger"], []]


def test_the_hard_loss_is_transformers_own_and_skips_what_has_no_label():
    answers, labels = questions()
    logits, gold = answers.values, torch.tensor(labels.values)
    loss = KIND.hard_loss(logits, gold, num_examples=None, label_smoothing=0.0)
    own = torch.nn.functional.binary_cross_entropy_with_logits
    assert loss.item() == pytest.approx(own(logits, gold).item())
    gold[:30] = torch.tensor(KIND.unlabelled(30))
    half = KIND.hard_loss(logits, gold, num_examples=60, label_smoothing=0.0)
    assert half.item() == pytest.approx(own(logits[30:], gold[30:]).item() / 2)
    smoothed = KIND.hard_loss(logits[30:], gold[30:], num_examples=None, label_smoothing=0.2)
    assert smoothed.item() == pytest.approx(own(logits[30:], 0.8 * gold[30:] + 0.1).item())
    balanced = KIND.weighted("balanced", labels).hard_loss(
        logits[30:], gold[30:], num_examples=None, label_smoothing=0
    )
    num_yes = labels.values.sum(0)
    weights = torch.tensor(np.clip((60 - num_yes) / np.maximum(num_yes, 1), 0.01, 100)).float()
    assert balanced.item() == pytest.approx(own(logits[30:], gold[30:], pos_weight=weights).item(), rel=1e-5)


def test_the_logged_student_tells_the_same_labels(tmp_path):
    import mlflow.pyfunc
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=8, **sizes, max_position_embeddings=16, initializer_range=1.0, **KIND.head_config())
    model = BertForSequenceClassification(config).eval()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    texts = ["good film", "bad", "film film bad"]
    logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.detach()
    answers = Answers(logits, thresholds=logits.double().numpy().mean(axis=0))
    files = StudentFiles(tmp_path / "model", NAMES, 12, texts, "multi_label", KIND.served(answers))
    logged = SimpleNamespace(artifact_location=str(tmp_path / "to"), source_run_id="0" * 32, model_id="m-0")
    write_student(files, logged, tmp_path / "to")
    told = mlflow.pyfunc.load_model(str(tmp_path / "to")).predict(texts)
    assert told["labels"].tolist() == KIND.decisions(answers)
    assert any(told["labels"])
    assert told["probability_fear"].to_numpy() == pytest.approx(logits.sigmoid()[:, 2].numpy(), abs=1e-6)


def test_a_row_is_as_sure_as_what_is_told_of_its_least_sure_label():
    """A label that is told above a low threshold is not sure because its probability is low."""
    logits = torch.tensor([[-1.0, 3.0], [-3.0, 3.0]])
    told = Answers(logits, thresholds=np.array([-2.0, 0.0]))
    probability = 1 / (1 + np.exp(1))
    scores = MultiLabel(["a", "b"]).row_scores(told)
    assert scores == pytest.approx([probability, 1 / (1 + np.exp(-3))])
    served = pd.DataFrame({"labels": [["a", "b"], ["b"]], "probability_a": [probability, 1 / (1 + np.exp(3))],
                           "probability_b": [1 / (1 + np.exp(-3))] * 2})  # fmt: skip
    assert row_scores(served) == pytest.approx(scores)
