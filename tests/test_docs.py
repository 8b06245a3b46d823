"""What README.md and docs/ show is true: commands compose, links lead somewhere, names and paths exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from command_line import ROOT, SMALL

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "multirun/README.md", *sorted(ROOT.glob("docs/**/*.md"))]

# What a reader puts in the place of these.
VARIABLES = {
    "DATA": "data",
    "BERT": "encoders/bert",
    "ROBERTA": "encoders/roberta",
    "ROBERTA_TOKENIZER": "tokenizers/roberta",
}
PLACEHOLDER = re.compile(r"<[^<>|&;]+>")

NOT_RUN = {
    r"python3 -m venv|\. \.venv/bin/activate|pip install": "needs a package index; .ci/run does it",
    r"\.ci/run|ruff |mypy$|lint-imports$|(KDEXP_MATRIX=1 )?python -m pytest": "the checks themselves",
    r"mlflow (ui|server)": "a server that runs until it is stopped; tests/tracking/test_tracking.py starts them",
    r"mlflow models|curl": "the same; tests/tracking/test_serving.py starts it and asks",
    r"python tests/benchmarks/": "measures for minutes",
    r"python -m kdexp predict": "needs a run that logged its student; tests/export/test_predict.py runs it",
    r"python -m kdexp transplant": "needs an encoder and a tokenizer; tests/model/test_transplant.py runs it",
}
"""Commands that are shown and that no test here runs, by how they begin, with the reason."""

SHORT_RUNS = {
    "python -m kdexp": SMALL,
    "python -m kdexp 'terms=[hidden,rkd]' loss.terms.hidden.weight=0.1 loss.terms.rkd.weight=0.5": SMALL,
    "python -m kdexp task=file task.train=pairs.jsonl task.text=[premise,hypothesis] task.label=label": SMALL[3:],
    "python -m kdexp -m loss.alpha=0,0.5,1 loss.temperature=1,4 seed=0,1,2": (
        *SMALL,
        "seed=0",
        "study=alpha_temperature",
    ),
    "python -m kdexp summary alpha_temperature": (),
}
"""Commands that are run as they are shown, with these settings appended that make them small."""


def blocks(*languages: str) -> Iterator[tuple[Path, str]]:
    """Every fenced block in one of these languages, with its page."""
    for page in PAGES:
        for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            if language in languages:
                yield page, text


def shown_commands() -> list[str]:
    """Every command of the shell blocks, every indented `python -m kdexp`, and those within a sentence."""
    commands = []
    for _, text in blocks("sh", "bash", "console"):
        lines = re.sub(r"\\\n\s*", "", text).splitlines()
        without_comments = (re.sub(r"(^|\s+)# .*$", "", line).removeprefix("$ ") for line in lines)
        commands += [part.strip() for line in without_comments for part in line.split(" && ") if part.strip()]
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", page.read_text("utf-8"))
        commands += re.findall(r"`(python -m kdexp[^`\n]*)`", text)
        commands += re.findall(r"^ {4}(python -m kdexp.*?)(?: +# .*)?$", text, re.MULTILINE)
    return list(dict.fromkeys(commands))


def words(command: str) -> list[str]:
    """The command's words as a shell passes them on, without the variables that are set for it."""
    for name, value in sorted(VARIABLES.items(), reverse=True):
        command = command.replace(f"${name}", value)
    split = shlex.split(PLACEHOLDER.sub("placeholder", command))
    return [word for place, word in enumerate(split) if place or not re.match(r"[A-Z_]+=", word)]


def test_every_command_is_composed_or_has_a_reason_not_to_be():
    assert len(shown_commands()) > 40
    reasons_used = set()
    for command in shown_commands():
        reasons = [pattern for pattern in NOT_RUN if re.match(pattern, command)]
        reasons_used |= set(reasons)
        is_kdexp = words(command)[:3] == ["python", "-m", "kdexp"]
        assert reasons or is_kdexp, f"{command}: neither a command of kdexp nor listed in NOT_RUN"
    assert reasons_used == set(NOT_RUN), "NOT_RUN lists what no page shows"
    assert set(SHORT_RUNS) <= set(shown_commands()), "SHORT_RUNS lists what no page shows"


def composed_commands() -> list[str]:
    found = [command for command in shown_commands() if words(command)[:3] == ["python", "-m", "kdexp"]]
    return [command for command in found if not any(re.match(pattern, command) for pattern in NOT_RUN)]


@pytest.mark.parametrize("command", composed_commands())
def test_command_composes(command):
    from kdexp.cli.help import help_text

    _, _, _, *arguments = words(command)
    if arguments[:1] == ["summary"]:
        assert all(re.match(r"(study|tracking\.uri|cache_dir)=|\w+$", argument) for argument in arguments[1:])
        return
    if arguments == ["--help"]:
        assert "teacher=" in help_text()
        return
    for overrides in jobs(arguments):
        compose_job(overrides)


def jobs(arguments: list[str]) -> Iterator[list[str]]:
    """The overrides of some jobs of a command: together they have every value of every setting that is swept."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    is_sweep = "-m" in arguments
    arguments = [argument for argument in arguments if argument != "-m"]
    parser = OverridesParser.create()
    given = parser.parse_overrides(arguments)
    if any(override.key_or_group == "experiment" for override in given):
        study = compose_config([each.input_line for each in given if not each.is_sweep_override()]).hydra
        assert study.mode.name == "MULTIRUN"
        own = parser.parse_overrides([f"{name}={value}" for name, value in study.sweeper.params.items()])
        given = list({each.get_key_element(): each for each in [*own, *given]}.values())
    elif not is_sweep:
        yield arguments
        return
    swept = {each.get_key_element(): values(each) for each in given if each.is_sweep_override()}
    assert swept or not is_sweep, "-m without anything to sweep"
    fixed = [each.input_line for each in given if not each.is_sweep_override()]
    for place in range(max((len(found) for found in swept.values()), default=1)):
        yield fixed + [f"{name}={found[place % len(found)]}" for name, found in swept.items()]


def values(override) -> list[str]:
    """What a swept setting takes; of a searched range its ends, of the seeds one."""
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep

    match override.value():
        case IntervalSweep(start=low, end=high):
            return [str(low), str(high)]
        case RangeSweep(start=low, stop=above):
            return [str(low), str(above - 1)]
    found = list(override.sweep_string_iterator())
    return found[:1] if override.key_or_group == "seed" else found


def compose_config(overrides: list[str]):
    from hydra import compose, initialize_config_dir

    from kdexp.cli.composition import register_schemas
    from kdexp.cli.conf_dir import CONF_DIR

    register_schemas()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return compose("config", overrides, return_hydra_config=True)


def compose_job(overrides: list[str]) -> None:
    """Compose and resolve a job, as a run does before it starts."""
    from omegaconf import open_dict

    from kdexp.cli.composition import resolve

    composed = compose_config(overrides)
    with open_dict(composed):
        del composed["hydra"]
    resolve(composed)


@pytest.mark.slow
def test_short_commands_run_as_they_are_shown(kdexp, tmp_path):
    rows = [
        f'{{"premise": "the {a} is {b}", "hypothesis": "it is {c}", "label": "{b == c}"}}'
        for a in ("cat", "dog", "bird", "fish", "horse")
        for b in "abcdefgh"
        for c in "abcdefgh"
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    for command, settings in SHORT_RUNS.items():
        arguments = {key_of(word): word for word in [*words(command)[3:], *settings]}
        result = kdexp(*arguments.values())
        assert result.returncode == 0, f"{command}\n{result.stderr}"
    check_mlflow_names(tmp_path)
    check_logged_student(tmp_path)


def key_of(word: str) -> str:
    """What a word sets: a later word for the same takes the place of an earlier one."""
    return word.partition("=")[0]


def check_mlflow_names(folder: Path) -> None:
    """docs/mlflow.md names every metric, tag and artifact that the runs logged."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    metrics = {name for run in runs for name in run.data.metrics}
    tags = {name for run in runs for name in run.data.tags if name.startswith("kdexp.")}
    artifacts = {file.path for run in runs for file in list_files(client, run.info.run_id)}
    assert {"kd/gain", "train/hidden_loss", "best/test"} <= metrics
    assert {"predictions.parquet", "summary/heatmap.png"} <= artifacts
    documented = [
        re.compile(re.sub(r"<\w+>", r"[^/]+", re.escape(name)))
        for name in re.findall(r"`([^`\n]+)`", (ROOT / "docs/mlflow.md").read_text("utf-8"))
    ]
    missing = [
        name for name in sorted(metrics | tags | artifacts) if not any(known.fullmatch(name) for known in documented)
    ]
    assert not missing, f"docs/mlflow.md does not name {', '.join(missing)}"


def list_files(client, run_id: str, path: str | None = None) -> Iterator:
    for item in client.list_artifacts(run_id, path):
        if item.is_dir:
            yield from list_files(client, run_id, item.path)
        else:
            yield item


def check_logged_student(folder: Path) -> None:
    """The block that loads the student, of the last run."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    experiment = mlflow.get_experiment_by_name("alpha_temperature")
    runs = mlflow.MlflowClient().search_runs([experiment.experiment_id], "tags.`kdexp.config_hash` != ''")
    (code,) = (text for _, text in blocks("python") if "mlflow.pyfunc" in text)
    exec(code.replace("<run id>", runs[0].info.run_id), {})
    mlflow.set_tracking_uri(None)


@pytest.mark.slow
def test_python_blocks_run(tmp_path, monkeypatch):
    """All in one process, each with the names that its page says the reader has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDEXP_CACHE_DIR", str(tmp_path / "cache"))
    # A program with a command line of its own is run by tests/export, where only what it needs is installed.
    codes = [text for _, text in blocks("python") if "mlflow.pyfunc" not in text and "sys.argv" not in text]
    assert len(codes) >= 3
    for code in codes:
        small = ", ".join(repr(setting) for setting in SMALL)
        code = code.replace('distil(compose("teacher=roberta",', f'distil(compose("teacher=roberta", {small},')
        exec(code, readers_own())


def readers_own() -> dict[str, object]:
    """Models and data as the reader of the trainer's example has them: two families, two tokenizers."""
    import datasets
    import numpy as np
    from compact import build_compact_model

    from kdexp.model import families
    from kdexp.task.kinds.single_label import SingleLabel

    texts = ["good phone", "bad phone", "a very good film", "a very bad film"] * 8
    labels = [1, 0, 1, 0] * 8

    def model(family: str):
        tokenizer = families.train_tokenizer(family, texts, vocab_size=300, max_length=16)
        sizes = {"num_layers": 1, "hidden_size": 8, "num_heads": 2, "max_length": 16}
        config = families.compact_config(family, tokenizer, **sizes, head=SingleLabel(["bad", "good"]).head_config())
        return build_compact_model(config), tokenizer

    student_model, student_tokenizer = model("bert")
    teacher_model, teacher_tokenizer = model("roberta")
    rows = datasets.Dataset.from_dict({"text": texts, "labels": labels})
    rows = rows.map(lambda batch: student_tokenizer(batch["text"]), batched=True)

    def compute_metrics(prediction) -> dict[str, float]:
        return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}

    return {
        "student_model": student_model,
        "teacher_model": teacher_model,
        "student_tokenizer": student_tokenizer,
        "teacher_tokenizer": teacher_tokenizer,
        "train_dataset": rows,
        "eval_dataset": rows,
        "compute_metrics": compute_metrics,
    }


def test_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 8000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target}: no such page"
        assert linked.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(linked), f"{target}: no such heading"
    for path in re.findall(r"(?<![\w/.])(?:kdexp|conf|tests|docs|multirun)/[\w./]*\w", text):
        generated = path in ("kdexp/conf", "multirun/undelivered")
        assert generated or (ROOT / path).exists(), f"{path}: no such file"


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub makes links of them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_names_in_the_code_are_where_the_pages_say():
    found = [
        (name, path)
        for page in PAGES
        for name, path in re.findall(r"`(\w+)` in\s+`(kdexp/[\w/]+\.py)`", page.read_text("utf-8"))
    ]
    assert len(found) >= 6
    for name, path in found:
        defined = rf"^\s*((def|class) {name}\b|{name}\b *[:=])"
        assert re.search(defined, (ROOT / path).read_text("utf-8"), re.MULTILINE), (name, path)


@pytest.mark.parametrize(("group", "heading"), [("loss", "Losses"), ("terms", "Terms")])
def test_losses_and_their_defaults_are_documented(group, heading):
    page = (ROOT / "docs/losses.md").read_text("utf-8")
    section = re.search(rf"^## {heading}$(.*?)^## ", page, re.MULTILINE | re.DOTALL)[1]
    # The name of the option, what it does, its settings, its paper.
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in section.splitlines() if line[:3] == "| `"]
    table = {row[0]: row[2] for row in rows if len(row) == 4}
    options = sorted((ROOT / "conf" / group).glob("*.yaml"))
    assert {option.stem for option in options} <= set(table)
    for option in options:
        settings = yaml.safe_load(option.read_text("utf-8"))
        defaults = {k: v for k, v in settings.items() if k != "name" and not isinstance(v, dict | list)}
        shown = dict(word.split("=") for word in table[option.stem].split())
        assert {k: yaml.safe_load(v) for k, v in shown.items()} == defaults, option.stem


def test_pages_speak_of_the_product_alone():
    """No place outside of the repository is named, but for a disk that a reader may have."""
    for page in PAGES:
        text = page.read_text("utf-8")
        for place in re.findall(r"(?<![\w./])(?:\.\./)+[\w.-]+", text):
            assert (page.parent / place).resolve().is_relative_to(ROOT), (page, place)
            assert (page.parent / place).exists(), (page, place)
        places = re.findall(r"(?<![\w.*<>)}-])/\w+/", re.sub(r"(https?:/|models:|runs:)/\S+", "", text))
        assert set(places) <= {"/schema/", "/big/"}, page
