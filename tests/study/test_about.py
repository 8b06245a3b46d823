"""A report says what was run."""

import sys

from kdexp.results.report import Facts, Preformatted, html_page
from kdexp.study.about import about_blocks
from kdexp.tracking.store import StoredRun


def stored(number, **params):
    common = {
        **{"task.name": "reviews", "loss.name": "kd", "loss.temperature": "4", "loss.alpha": str(number / 10)},
        **{"teacher.name": "roberta", "teacher.family": "roberta", "teacher.checkpoint": "None"},
        **{"student.name": "bert", "student.family": "bert", "student.checkpoint": "my/bert", "seed": str(number)},
        **{"train.epochs": "4", "train.batch_size": "32", "train.learning_rate": "0.003", "hardware.name": "cpu"},
    }
    metrics = {"cost/teacher_parameters": 164101.0, "cost/student_parameters": 30317.0}
    tags = {"kdexp.train_rows": "1500", "kdexp.validation_rows": "500", "kdexp.test_rows": "2000"}
    started = 1_700_000_000_000 + number * 86_400_000
    return StoredRun(str(number), "run", "FINISHED", started, common | params, metrics, tags)


def test_everything_that_was_run_is_named(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kdexp", "-m", "study=a b", "loss.alpha=0.1,1"])
    blocks = about_blocks([stored(10), stored(1)])
    (facts,) = [dict(block.facts) for block in blocks if isinstance(block, Facts)]
    assert facts["task"] == "reviews; rows: train 1500, validation 500, test 2000"
    assert facts["teacher"] == "roberta: compact roberta, 164,101 parameters"
    assert facts["student"] == "bert: my/bert, 30,317 parameters"
    assert facts["loss"] == "kd, alpha 0.1, 1.0, temperature 4"
    assert facts["training"] == "epochs 4, batches of 32, learning rate 0.003, seeds 1, 10"
    assert facts["date"] == "2023-11-15 22:13 UTC to 2023-11-24 22:13 UTC"
    assert {"kdexp", "torch", "transformers", "Python"} <= {each.split()[0] for each in facts["versions"].split(", ")}
    assert Preformatted("python -m kdexp -m 'study=a b' loss.alpha=0.1,1") in blocks
    assert "164,101" in html_page("t", blocks)


def test_a_person_s_own_file_and_a_number_of_steps_are_named():
    runs = [stored(1, **{"task.name": "file", "task.train": "mine.csv", "train.max_steps": "3"}), stored(2)]
    (facts,) = [dict(block.facts) for block in about_blocks(runs) if isinstance(block, Facts)]
    assert facts["task"].startswith("file, reviews (mine.csv); rows")
    assert facts["training"].startswith("epochs 4, steps 3, batches of 32")
    (facts,) = [dict(block.facts) for block in about_blocks(runs[:1]) if isinstance(block, Facts)]
    assert facts["training"].startswith("steps 3, batches of 32")


def test_many_values_and_runs_of_an_earlier_kdexp():
    blocks = about_blocks([StoredRun(str(n), "r", "FINISHED", 0, {"seed": str(n)}, {}, {}) for n in range(20)])
    (facts,) = [dict(block.facts) for block in blocks if isinstance(block, Facts)]
    assert "seeds 0, 1, 2, 3, 4, 5, 6, 7, and 12 more" in facts["training"]
    assert "rows: not known" in facts["task"]
    assert about_blocks([]) == []
