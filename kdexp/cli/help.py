"""The help screen, from the first line of every YAML file: no import of Hydra or torch."""

from collections.abc import Sequence
from pathlib import Path

from kdexp.cli.conf_dir import CONF_DIR

_INTRODUCTION = """\
kdexp distils a teacher into a student, measures both beside the same student trained without a teacher,
and logs to MLflow.

usage: python -m kdexp [group=option ...] [setting=value ...]
       python -m kdexp -m loss.alpha=0.1,0.5,0.9 loss.temperature=1,2,4,8    (one run per combination)

examples:
  python -m kdexp                                        default run: nothing is downloaded
  python -m kdexp teacher=roberta student=bert           another family, each with its own tokenizer
  python -m kdexp loss.alpha=0.3 loss.temperature=2      alpha weights the gold labels: 1 = no teacher
  python -m kdexp task=file task.train=mine.csv task.text=question task.label=kind
  python -m kdexp teacher.checkpoint=<folder or hub id> student.checkpoint=<...> student.num_layers=2
  python -m kdexp experiment=alpha_temperature           a ready-made study
  python -m kdexp summary alpha_temperature              what a study found, also while it runs
  python -m kdexp predict <run id> texts.csv --out answers.csv
                                                         what a run's student answers (a folder or a model URI, too)
  python -m kdexp transplant <checkpoint> <tokenizer> <target folder>
                                                         one encoder reading another family's tokens
  mlflow ui                                              browse and compare the runs
"""

GROUPS = {
    "teacher": "the teacher",
    "more_teachers": "further teachers: 'more_teachers=[roberta,electra]' (same options)",
    "student": "the student (same models, and)",
    "task": "the data",
    "loss": "the loss",
    "terms": "feature terms, added to the loss: 'terms=[rkd,hidden]'",
    "controls": "what a gain is made of, trained beside it: 'controls=[pseudo_labels,tuned]'",
    "hardware": "the device",
    "train": "the student's schedule",
    "export": "the files that ship, measured again: 'export=[onnx,onnx_int8]'",
    "tracking": "where runs are logged",
    "condition": "what a run of experiment=cross_family compares (the study sets it)",
    "experiment": "ready-made studies, which carry their own sweep",
}

_ENDING = """\
settings of a run (defaults): tokenization=own baseline=true seed=0 study=distillation resume=true
                              cache_dir=~/.cache/kdexp (or $KDEXP_CACHE_DIR)

python -m kdexp <what you would run> --cfg job    show every setting of that run, and run nothing
python -m kdexp <what you would run> --plan       how many jobs, what is finished, how long the rest takes
python -m kdexp --hydra-help                      Hydra's own flags
eval "$(kdexp -sc install=bash)"                  tab completion for the `kdexp` command (bash; zsh, fish alike)
"""


def help_text(arguments: Sequence[str] = ()) -> str:
    """Groups, their options with one line each, and examples.

    Args:
        arguments: Of the command line, whose `--config-dir` adds options.
    """
    folder = _config_dir(arguments)
    added = [_added(folder)] if folder else []
    return "\n".join([_INTRODUCTION, *(_group(name) for name in GROUPS), *added, _ENDING])


def _config_dir(arguments: Sequence[str]) -> Path | None:
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name in ("--config-dir", "-cd"):
            return Path(value if equals else following)
    return None


def _added(folder: Path) -> str:
    """What a person's own folder adds, group by group."""
    lines = [f"in {folder}:"]
    files = sorted(folder.rglob("*.yaml"))
    width = max((len(_option(path, folder)) for path in files), default=0)
    lines += [f"  {_option(path, folder):<{width}}  {_purpose(path)}".rstrip() for path in files]
    return "\n".join([*lines, "" if files else "  nothing: expected <group>/<option>.yaml\n"])


def _option(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder)
    group = relative.parent.as_posix()
    return relative.stem if group == "." else f"{'' if group in GROUPS else '+'}{group}={relative.stem}"


def _purpose(path: Path) -> str:
    """The first comment that is not meant for Hydra (`# @package`), if there is one."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("#").strip() for line in lines if line.startswith("#") and "# @" not in line), "")


def _group(name: str) -> str:
    lines = [f"{name}=    {GROUPS[name]}"]
    purposes = options(name)
    if name in ("student", "more_teachers"):  # the teacher's list again would fill half a screen
        purposes = {option: purpose for option, purpose in purposes.items() if option not in options("teacher")}
    width = max((len(option) for option in purposes), default=0)
    lines += [f"  {option:<{width}}  {purpose}" for option, purpose in purposes.items()]
    return "\n".join(lines) + "\n"


def options(group: str) -> dict[str, str]:
    """Purpose of every option of a group: the first comment of its file that is not meant for Hydra (`# @package`)."""
    folder = "teacher" if group == "more_teachers" else group
    return {path.stem: _purpose(path) for path in sorted((CONF_DIR / folder).glob("*.yaml"))}
