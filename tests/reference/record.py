"""Record what kdexp computes, as what `test_reference.py` compares with.

    python tests/reference/record.py --runs    # runs.json: the configurations below, a sweep, a cross-family study
    python tests/reference/record.py --keys    # keys.json: hashes of configurations, the keys of a small run's cache
    python tests/reference/record.py --store   # store.tar.xz, store.json: an MLflow store with a sweep and a student

What is recorded is what a person gets: the runs in MLflow, their artifacts and what is printed. Nothing of kdexp is
imported. Record anew only what is meant to change, and say why in the commit: the keys with a change of version, the
runs with one of numerics, the store never, since its worth is that an earlier kdexp wrote it.
"""

import argparse
import csv
import json
import os
import random
import re
import sqlite3
import sys
import tarfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))  # this is run by hand too
from command_line import ROOT, CommandLine, ForkServer  # noqa: E402

os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"

# A teacher that has learnt something, and students that begin to: of models near chance many changes would not show.
BASE = (
    "task.validation_size=100",
    "task.test_size=200",
    "teacher.train.batch_size=16",
    # Schedules are said in whole, so that what is recorded stays when a default changes.
    "teacher.train.epochs=4",
    "teacher.train.learning_rate=2e-3",
    "teacher.chance_check=false",
    "train.epochs=2",
    "train.learning_rate=1e-2",
    "hardware=cpu",
    "hardware.num_threads=1",
    "tracking.log_model=false",
)
REVIEWS = (*BASE, "task.train_size=1500", "task.transfer_size=100", "task.label_noise=0")
INFERENCE = (*BASE, "task=inference", "task.train_size=600", "task.transfer_size=0", "task.label_noise=0")
SINGLE = (*BASE, "task=file", "task.train=single.csv", "task.text=text", "task.label=kind", "train.batch_size=16")
PAIRS = (
    *BASE,
    *("task=file", "task.train=pairs.csv", "task.validation=pairs_validation.csv", "task.test=pairs_test.csv"),
    *("task.text=[premise,hypothesis]", "task.label=label", "train.batch_size=8"),
    *("teacher.train.batch_size=8", "student.hidden_size=48", "student.num_layers=2"),
)
FEW_STEPS = ("train.max_steps=20", "baseline=false")

CASES: dict[str, tuple[str, ...]] = {
    "kd": REVIEWS,
    "ce": (*REVIEWS, "loss=ce"),
    **{
        loss: (*SINGLE, f"loss={loss}")
        for loss in ("soft_ce", "mse", "reverse_kl", "jsd", "tvd", "dkd", "nkd", "dist", "logit_std")
    },
    **{preset: (*REVIEWS, f"loss={preset}") for preset in ("tinybert", "pkd", "minilm", "fastformers")},
    **{
        f"term_{term}": (*REVIEWS, f"terms=[{term}]")
        for term in ("hidden", "attention", "minilm", "pkd", "rkd", "cka")
    },
    "pooling": (*REVIEWS, "terms=[pkd]", "loss.terms.pkd.pooling=mean"),
    "uncentered": (*SINGLE, "loss=mse", "loss.centered=false"),
    "ramps": (
        *(*REVIEWS, "terms=[hidden]", "loss.alpha=0.9", "loss.alpha_end=0.1"),
        *("loss.terms.hidden.weight=1", "loss.terms.hidden.weight_end=0"),
    ),
    "accumulation": (*REVIEWS, "train.gradient_accumulation=2", "train.batch_size=16"),
    "schedule": (
        *(*REVIEWS, "train.label_smoothing=0.1", "train.group_by_length=false", "train.keep=last"),
        *("train.max_steps=40", "train.warmup_ratio=0.3", "train.weight_decay=0.1", "seed=3"),
    ),
    "transfer": (*REVIEWS, "train.use_transfer=true"),
    "several_teachers": (
        *(*REVIEWS, "more_teachers=[roberta]", "more_teachers.roberta.weight=2"),
        *(setting.replace("teacher", "more_teachers.roberta", 1) for setting in BASE if setting.startswith("teacher")),
    ),
    "cross_family": (*REVIEWS, "teacher=roberta"),
    "cross_family_words": (*REVIEWS, "teacher=roberta", "terms=[hidden,attention]", "teacher.cache_hidden=null"),
    "cross_family_position": (
        *(*REVIEWS, "teacher=roberta", "terms=[hidden]", "loss.terms.hidden.alignment=position"),
        "loss.terms.hidden.layers=last",
    ),
    "student_ids": (*REVIEWS, "teacher=roberta", "tokenization=student_ids"),
    "inference": INFERENCE,
    "file_single": SINGLE,
    "file_pairs": PAIRS,
    **{
        f"student_{family}": (*REVIEWS, f"student={family}", *FEW_STEPS)
        for family in ("roberta", "distilbert", "electra", "xlm_roberta", "albert", "deberta", "modernbert")
    },
}
SWEEP_SCHEDULE = ("train.batch_size=8", "train.epochs=1")
SWEEP = ("-m", "study=sweep", *SINGLE, *SWEEP_SCHEDULE, "loss.alpha=0.3,1", "loss.temperature=1,4", "seed=0,1")
CROSS_FAMILY = ("experiment=cross_family", *SINGLE, "seed=0,1", "teacher.vocab_size=400", "student.vocab_size=350")

STORED_SWEEP = ("-m", "study=stored_sweep", *SINGLE, *SWEEP_SCHEDULE, "loss.alpha=0.3,1", "seed=0,1")
STORED_STUDENT = (*SINGLE, "train.batch_size=8", "train.epochs=3", "tracking.log_model=true")
STORE_PLACE, CODE_PLACE = "/recorded/store", "/recorded/code"
"""Where the recorded store lies, as far as the store knows: MLflow writes down absolute places."""
TEXTS = ["the radio is superb", "the kalomi lamp is average, I used it 9 days", "a useless bag", ""]

HASHED = ("kd", "cross_family_words", "several_teachers", "file_single")
DEFAULTS = (
    *("study=keys", "cache_dir=keys", "task.train_size=300", "task.validation_size=100", "task.test_size=200"),
    *("teacher.train.epochs=1", "teacher.train.learning_rate=2e-3", "teacher.chance_check=false"),
    *("train.epochs=1", "train.learning_rate=3e-3"),
    *("hardware=cpu", "hardware.num_threads=1", "tracking.log_model=false"),
)

TAGS = ("pairing", "tokenization", "alignment", "primary_metric", "validation_split", "test_split")
PARAMS = ("teacher.family", "student.family", "more_teachers", "terms", "task.name", "train.epochs", "seed")


def write_files(folder: Path) -> None:
    """The files of the cases `file_...`: class names hold what a CSV, a metric's name or a URL might stumble over."""
    draw = random.Random(0)
    kinds = {
        'très "bon"': ["superb", "lovely", "excellent"],
        "so-so, 50 %": ["average", "ordinary", "middling"],
        "mauvais/awful": ["dreadful", "broken", "useless"],
    }
    things = ["phone", "lamp", "chair", "coat", "kettle", "radio", "bag", "clock"]
    brands = ["".join(draw.choices(["ka", "lo", "mi", "ru", "ten", "vas", "zo"], k=3)) for _ in range(80)]

    def single() -> list[str]:
        kind = draw.choice(list(kinds))
        thing = f"{draw.choice(brands)} {draw.choice(things)}"
        text = f"the {thing} is {draw.choice(kinds[kind])}, I used it {draw.randint(2, 99)} days"
        return [text, kind if draw.random() < 0.8 else draw.choice(list(kinds))]

    def pair() -> list[str]:
        thing, follows = draw.choice(things), draw.random() < 0.5
        second = f"one can see a {thing}" if follows else f"there is nothing like a {thing}"
        return [f"a {thing} and a {draw.choice(things)} stand here", second, "yes & true" if follows else "no / faux"]

    for name, header, row, number in (
        ("single", ["text", "kind"], single, 600),
        ("pairs", ["premise", "hypothesis", "label"], pair, 500),
        ("pairs_validation", ["premise", "hypothesis", "label"], pair, 100),
        ("pairs_test", ["premise", "hypothesis", "label"], pair, 200),
    ):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *(row() for _ in range(number))])


def runs_of(folder: Path, study: str) -> list[Run]:
    """The study's runs, the latest first."""
    client = store(folder)
    experiment = client.get_experiment_by_name(study)
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])


def parent_of(folder: Path, study: str) -> Run:
    """The run that a sweep's jobs are children of."""
    return next(run for run in runs_of(folder, study) if "mlflow.parentRunId" not in run.data.tags)


def store(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def artifact(folder: Path, run: Run, path: str) -> Path:
    return Path(store(folder).download_artifacts(run.info.run_id, path))


def execute(kdexp: CommandLine, name: str, overrides: Sequence[str]) -> Run:
    """Run one configuration, as the study `name`."""
    _printed(kdexp, (*overrides, f"study={name}"))
    return runs_of(kdexp.folder, name)[0]


def history(kdexp: CommandLine, run: Run, metric: str) -> list[tuple[int, float]]:
    return sorted(
        (point.step, point.value) for point in store(kdexp.folder).get_metric_history(run.info.run_id, metric)
    )


def predictions(kdexp: CommandLine, run: Run) -> dict[str, list[float]]:
    """Of the first rows, the teacher's and the student's class probabilities."""
    table = pd.read_parquet(artifact(kdexp.folder, run, "predictions.parquet")).head(5)
    return {key: table[key].tolist() for key in map(str, table) if re.match("(teacher|student)_probability_", key)}


def measure(kdexp: CommandLine, name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Run one configuration; return what is recorded of it."""
    run = execute(kdexp, name, overrides)
    data = run.data
    return {
        "overrides": overrides,
        "run_name": run.info.run_name,
        "tags": {f"kdexp.{key}": data.tags[f"kdexp.{key}"] for key in TAGS},
        "weights": {"kdexp.teacher_sha256": data.tags["kdexp.teacher_sha256"]},
        "params": {key: data.params[key] for key in sorted(data.params) if key in PARAMS or key.startswith("loss.")},
        "metrics": {key: value for key, value in data.metrics.items() if not key.startswith("cost/")},
        "first": {key: history(kdexp, run, key)[0] for key in data.metrics if key.startswith("train/")},
        "history": {"train/loss": history(kdexp, run, "train/loss")},
        "predictions": predictions(kdexp, run),
    }


def measure_sweep(kdexp: CommandLine) -> dict[str, Any]:
    """Run the sweep and read back its summary."""
    output = _printed(kdexp, SWEEP)
    parent = parent_of(kdexp.folder, "sweep")
    table = pd.read_csv(artifact(kdexp.folder, parent, "summary/settings.csv"))
    known = table.dropna(axis="columns", how="all")
    return {"overrides": SWEEP, "settings": known.to_dict("records"), "findings": findings(output)}


def measure_cross_family(kdexp: CommandLine) -> dict[str, Any]:
    """Run the cross-family study and read back its verdict."""
    output = _printed(kdexp, CROSS_FAMILY)
    parent = parent_of(kdexp.folder, "cross_family")
    table = pd.read_csv(artifact(kdexp.folder, parent, "cross_family/comparisons.csv"), dtype=str, na_filter=False)
    return {
        "overrides": CROSS_FAMILY,
        "comparisons": table.to_dict("records"),
        "verdict": list(_lines_after(output, "May families be crossed?")),
    }


def findings(output: str) -> list[str]:
    """The sentences below the table that a sweep, or `kdexp summary`, prints."""
    return list(_lines_after(output, "└"))


def _printed(kdexp: CommandLine, arguments: Sequence[str]) -> str:
    result = kdexp(*arguments)
    if result.returncode:
        raise RuntimeError(f"kdexp {' '.join(arguments)}: exit code {result.returncode}\n{result.stderr}")
    return result.stdout


def _lines_after(output: str, beginning: str) -> Iterator[str]:
    """The lines between the first one that begins so and the next empty one."""
    lines = iter(output.splitlines())
    next(line for line in lines if line.startswith(beginning))
    for line in lines:
        if not line.strip():
            return
        yield line


def measure_keys(kdexp: CommandLine) -> dict[str, Any]:
    """Hashes of configurations, and what a small run in a cache of its own leaves there."""
    hashes = {}
    for name in HASHED:
        hashes[name] = execute(kdexp, name, CASES[name]).data.tags["kdexp.config_hash"]
    _printed(kdexp, DEFAULTS)
    kept: dict[str, list[str]] = {}
    for path in sorted((kdexp.folder / "keys").glob("*/*")):
        kept.setdefault(path.parent.name, []).append(path.name)
    return {"versions": library_versions(), "config_hash": hashes, "cache": kept}


def library_versions() -> dict[str, str]:
    """Of the libraries that are part of the keys."""
    return {name: version(name) for name in ("torch", "transformers", "tokenizers")}


def write_store(kdexp: CommandLine) -> dict[str, Any]:
    """Pack the store of a sweep and of a run with its student; return what can be read from it."""
    folder = kdexp.folder
    output = _printed(kdexp, STORED_SWEEP)
    run = execute(kdexp, "stored_student", STORED_STUDENT)
    content = {"findings": findings(output), "run_id": run.info.run_id} | predict(
        kdexp.server, folder, run.info.run_id
    )
    for old, new in ((str(folder), STORE_PLACE), (str(ROOT), CODE_PLACE)):
        relocate(folder, old, new)
    with tarfile.open(HERE / "store.tar.xz", "w:xz", preset=9) as archive:
        for name in ("mlflow.db", "mlruns"):
            archive.add(folder / name, name, filter=_anonymous)
    return content


def relocate(folder: Path, old: str, new: str) -> None:
    """Replace a place by another one in all of a store: its database, and its artifacts that are text."""
    database = sqlite3.connect(folder / "mlflow.db")
    with database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for _, column, kind, *_ in database.execute(f"PRAGMA table_info({table})").fetchall():
                if kind.startswith(("VARCHAR", "TEXT")):
                    change = f'UPDATE {table} SET "{column}" = replace("{column}", ?, ?) WHERE instr("{column}", ?)'
                    database.execute(change, (old, new, old))
    database.execute("VACUUM")
    database.close()
    for file in (folder / "mlruns").rglob("*"):
        if file.suffix in (".yaml", ".json", ".html", ".csv", "") and file.is_file():
            file.write_bytes(file.read_bytes().replace(old.encode(), new.encode()))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without owner and date; pictures, which nothing reads again, are left out."""
    if member.name.endswith(".png"):
        return None
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


PREDICT = """
import json, sys
import mlflow, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

run_id, texts = sys.argv[1], json.loads(sys.argv[2])
rows = mlflow.pyfunc.load_model(f"runs:/{run_id}/student").predict(texts)
folder = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/student")
model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
transformers = {"labels": list(model.config.id2label.values()), "probabilities": logits.softmax(-1).tolist()}
json.dump({"pyfunc": rows.to_dict("list"), "transformers": transformers}, sys.stdout)
"""


def predict(server: ForkServer, folder: Path, run_id: str) -> dict[str, Any]:
    """What a logged student says to TEXTS, loaded by mlflow.pyfunc and by transformers."""
    words = ("-c", PREDICT, run_id, json.dumps(TEXTS))
    answer = server.call(folder, *words, MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def _rounded(value: Any) -> Any:
    """Floats with twelve digits."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _write(name: str, content: dict[str, Any]) -> None:
    text = json.dumps(_rounded(content), indent=1, ensure_ascii=False)
    # Numbers side by side: a list of short values takes one line.
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text)
    (HERE / name).write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for what in ("runs", "keys", "store"):
        parser.add_argument(f"--{what}", action="store_true", help=f"record {what}")
    chosen = parser.parse_args()
    if not any(vars(chosen).values()):
        parser.error("say what to record")
    os.environ["LOGNAME"] = "kdexp"  # what is recorded names nobody
    with ForkServer() as server, TemporaryDirectory() as first, TemporaryDirectory() as second:
        for folder in (first, second):
            write_files(Path(folder))
        kdexp, elsewhere = (CommandLine(server, Path(folder)) for folder in (first, second))
        if chosen.runs:
            cases = {}
            for name, overrides in CASES.items():
                sys.stderr.write(f"{name}\n")
                cases[name] = measure(kdexp, name, overrides)
            sweep, cross_family = measure_sweep(kdexp), measure_cross_family(kdexp)
            _write("runs.json", {"cases": cases, "sweep": sweep, "cross_family": cross_family})
        if chosen.keys:
            _write("keys.json", measure_keys(kdexp))
        if chosen.store:
            _write("store.json", write_store(elsewhere))


if __name__ == "__main__":
    main()
