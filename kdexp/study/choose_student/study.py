"""The study of which student to ship: students against one teacher, each exported and measured as it ships."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kdexp.config import Config
from kdexp.errors import UserError
from kdexp.results import wording
from kdexp.results.record import RunRecord
from kdexp.results.report import (
    Block,
    BulletList,
    FigureBlock,
    Heading,
    Paragraph,
    TableBlock,
)
from kdexp.results.statistics import PairedDifference
from kdexp.results.terminal import print_blocks
from kdexp.study.about import log_report
from kdexp.study.choose_student.rules import Option, choose, front, options
from kdexp.study.launch import Job, Launch
from kdexp.study.sweep import open_sweep
from kdexp.tracking.run import TrackedRun

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SWEPT = ("student", "student.num_layers", "student.hidden_size", "student.init")
_TITLE = "Which student to ship"
_COSTS = {"latency_ms": "ms, one text on one thread", "size_mb": "MB on disk"}


def candidate_overrides(config: Config) -> dict[str, list[str]]:
    """What each candidate of the study overrides, by its name.

    Raises:
        UserError: There is none, nothing is exported, or there is no baseline to say what distillation is worth.
    """
    if not config.candidates:
        raise UserError(
            "candidates", "is empty", "name students: 'candidates=[\"student=bert student.num_layers=1\"]'"
        )
    if not config.export:
        raise UserError("export", "is none, and the study chooses among files", "choose export=onnx, or a list")
    if not config.baseline:
        raise UserError("baseline", "is false, and the study says what distillation is worth", "remove baseline=false")
    for candidate in config.candidates:
        if wrong := [word for word in candidate.split() if not word.startswith("student")]:
            raise UserError(
                "candidates", f"got {wrong[0]}", "expected settings of the student: student=, student.<...>="
            )
    return {_name(candidate): candidate.split() for candidate in config.candidates}


def _name(candidate: str) -> str:
    """`bert 2 layers 64 wide` of what a person would type, read without the setting's path."""
    values = dict(word.partition("=")[::2] for word in candidate.split())
    parts = [values.pop("student", "")]
    parts += [f"{values.pop('student.num_layers')} layers"] if "student.num_layers" in values else []
    parts += [f"{values.pop('student.hidden_size')} wide"] if "student.hidden_size" in values else []
    parts += [f"{name.removeprefix('student.')}={value}" for name, value in values.items()]
    return " ".join(filter(None, parts)).replace("1 layers", "1 layer")


def run_choose_student(jobs: Mapping[str, Sequence[Job]], swept: Sequence[str], launch: Launch) -> None:
    """Run the study and report it.

    Args:
        jobs: Of each candidate, one a seed (and a value of whatever else is swept).

    Raises:
        UserError: No job is legal, or nothing is tracked: the report is read from MLflow.
        SweepError: Some jobs failed; what the others found is reported.
    """
    all_jobs = [job for candidate in jobs.values() for job in candidate]
    config = next((job.config for job in all_jobs if job.config), None)
    if config and not config.tracking.enabled:
        raise UserError("tracking", "is off, and the study is read from it", "remove tracking=none")
    with open_sweep(all_jobs, swept, "choose_student") as sweep:
        sweep.run(sweep.distinct_jobs(), launch)
        runs = {run.config_hash: run for run in sweep.finished_runs()}
        records = {}
        for name, candidate in jobs.items():
            hashes = dict.fromkeys(job.config_hash for job in candidate if job.config and not job.refusal)
            found = [RunRecord.from_stored(runs[key]) for key in hashes if key in runs]
            if found:
                records[name] = found
        if records:
            report(records, sweep.parent, config or sweep.base)


def report(records: Mapping[str, Sequence[RunRecord]], parent: TrackedRun, config: Config) -> None:
    """Log report, pictures and table to the parent run, and print the findings."""
    metric = next(iter(records.values()))[0].metric
    found = options(records)
    chosen = choose(found, config.budget.latency_ms, config.budget.size_mb)
    table = _table(found, metric)
    figures = {cost: front_figure(found, cost, metric, chosen) for cost in _COSTS}
    verdict: list[Block] = [Heading(_TITLE), BulletList(_findings(found, chosen, config, wording.points_of(metric)))]
    blocks: list[Block] = [*verdict, Heading("Every file of every student"), TableBlock(table), Paragraph(_LIMITS)]
    for cost, figure in figures.items():
        parent.log_figure(figure, f"choose_student/{cost}.png")
        blocks.append(FigureBlock(figure, f"{metric} against {_COSTS[cost]}; the line joins what no other file beats"))
    log_report(_TITLE, blocks, parent, "choose_student")
    parent.log_table(table, "choose_student/options.csv")
    parent.set_tags({"kdexp.chosen_student": chosen.name if chosen else "nothing is within the budget"})
    print_blocks([*verdict, TableBlock(table)])


_LIMITS = (
    "Fronts and choice are by the mean on validation; scores, gains and intervals are on test (paired t over seeds). "
    "Students are compared by means over few seeds: neighbours on the front may be equal."
)


def _findings(found: Sequence[Option], chosen: Option | None, config: Config, points: str) -> list[str]:
    lines = [
        f"no other file is better on validation at no more {meaning}: "
        + "; ".join(option.name for option in front(found, cost))
        for cost, meaning in _COSTS.items()
    ]
    limits = {"latency_ms": config.budget.latency_ms, "size_mb": config.budget.size_mb}
    told = ", ".join(f"{name}={limit:g}" for name, limit in limits.items() if limit is not None)
    within = f"within the budget ({told})" if told else "without a budget (budget.latency_ms=, budget.size_mb=)"
    if chosen is None:
        cheapest = {cost: min(getattr(option, cost) for option in found) for cost in limits}
        least = ", ".join(f"{cost}={value:.2g}" for cost, value in cheapest.items())
        return [*lines, f"nothing is {within}: the least are {least}"]
    return [
        *lines,
        f"chosen on validation {within}: {chosen.name} ({chosen.latency_ms:.2f} ms, {chosen.size_mb:.1f} MB)",
        f"it costs {_shown(chosen.behind_teacher())} {points} against the teacher, on test",
        f"of these the smaller model alone costs {_shown(chosen.smaller_model())}; {_worth(chosen.gain())}",
    ]


def _worth(gain: PairedDifference) -> str:
    if gain.interval is None:
        return f"distillation gives {_shown(gain)} (one seed, or seeds that do not differ: no interval)"
    if gain.interval.low > 0:
        return f"distillation gives back {_shown(gain)}"
    if gain.interval.high < 0:
        return f"distillation costs more: {_shown(gain)}"
    return f"that distillation makes a difference is not shown: {_shown(gain)}"


def _shown(difference: PairedDifference) -> str:
    interval = difference.interval
    return wording.points(difference.mean) + (f" {wording.interval(interval.low, interval.high)}" if interval else "")


def _table(found: Sequence[Option], metric: str) -> "pd.DataFrame":
    import pandas as pd

    fronts = {cost: {option.name for option in front(found, cost)} for cost in _COSTS}
    ordered = sorted(found, key=lambda option: -option.mean_validation)
    return pd.DataFrame(
        {
            "student": option.student,
            "file": option.file,
            "ms": f"{option.latency_ms:.2f}",
            "MB": f"{option.size_mb:.1f}",
            f"validation {metric}": wording.score(option.mean_validation, metric),
            f"test {metric}": wording.score(option.mean_test, metric),
            f"against the teacher, {wording.points_of(metric)}": _shown(option.behind_teacher()),
            f"gain, {wording.points_of(metric)}": _shown(option.gain()),
            "seeds": len(option.test),
            "front": " ".join(cost.partition("_")[0] for cost in _COSTS if option.name in fronts[cost]),
        }
        for option in ordered
    )


def front_figure(found: Sequence[Option], cost: str, metric: str, chosen: Option | None) -> "Figure":
    """Test score against a cost, on a logarithmic axis, with the front drawn and the chosen one ringed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for file, marker in zip(dict.fromkeys(option.file for option in found), "os^D", strict=False):
        shown = [option for option in found if option.file == file]
        axes.plot(
            [getattr(option, cost) for option in shown], [100 * option.mean_test for option in shown], marker,
            label=file,
        )  # fmt: skip
    best = front(found, cost)
    axes.plot([getattr(option, cost) for option in best], [100 * option.mean_test for option in best], "-", alpha=0.5)
    for option in best:
        axes.annotate(option.student, (getattr(option, cost), 100 * option.mean_test), fontsize=8)
    if chosen:
        axes.plot(getattr(chosen, cost), 100 * chosen.mean_test, "o", markersize=14, fillstyle="none", label="chosen")
    axes.set_xscale("log")
    axes.set_xlabel(_COSTS[cost])
    axes.set_ylabel(f"test {wording.heading(metric) if wording.is_share(metric) else wording.points_of(metric)}")
    axes.legend()
    return figure
