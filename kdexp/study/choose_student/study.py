"""The study of which student to ship: students against one teacher, each exported and measured as it ships."""

import shlex
from collections.abc import Collection, Mapping, Sequence

from kdexp.config import Config
from kdexp.errors import UserError
from kdexp.results.record import RunRecord
from kdexp.results.report import Block, BulletList, FigureBlock, Heading, Paragraph, Preformatted, TableBlock
from kdexp.results.terminal import print_blocks
from kdexp.study.about import about_blocks, log_report
from kdexp.study.choose_student.report import COSTS, LIMITS, findings, front_figure, options_table
from kdexp.study.choose_student.rules import choose_option, complete, options
from kdexp.study.launch import Job, Launch
from kdexp.study.sweep import open_sweep
from kdexp.tracking.run import TrackedRun
from kdexp.tracking.store import StoredRun

SWEPT = ("student", "student.num_layers", "student.hidden_size", "student.init")
_TITLE = "Which student to ship"


def run_choose_student(jobs: Mapping[str, Sequence[Job]], swept: Sequence[str], launch: Launch) -> None:
    """Run the study and report it.

    Args:
        jobs: Of each student with all of its settings but the seed, one a seed.

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
        found = {name: made for name, candidate in jobs.items() if (made := _of_jobs(candidate, runs))}
        if found:
            report(
                {name: [RunRecord.from_stored(run) for run in made] for name, made in found.items()},
                sweep.parent,
                config or sweep.base,
                planned={str(job.config.seed) for job in all_jobs if job.config},
                commands={name: _command(jobs[name][0]) for name in found},
                about=about_blocks([run for made in found.values() for run in made]),
            )


def _of_jobs(jobs: Sequence[Job], runs: Mapping[str, StoredRun]) -> list[StoredRun]:
    """Those that are finished."""
    hashes = dict.fromkeys(job.config_hash for job in jobs if job.config and not job.refusal)
    return [runs[key] for key in hashes if key in runs]


def _command(job: Job) -> str:
    """What makes a student alone, and keeps it; the file that is wished for is added."""
    of_the_study = ("experiment=", "candidates=", "budget.", "export=", "hydra.", "hydra/", "tracking.log_model=")
    words = [word for word in job.overrides if not word.startswith(of_the_study)]
    return shlex.join(["python", "-m", "kdexp", *words])


def report(
    records: Mapping[str, Sequence[RunRecord]],
    parent: TrackedRun,
    config: Config,
    *,
    planned: Collection[str] = (),
    commands: Mapping[str, str] | None = None,
    about: Sequence[Block] = (),
) -> None:
    """Log report, pictures and table to the parent run, and print the findings.

    Args:
        records: Of each student, one a seed.
        planned: The seeds that each was to have.
        commands: What makes each student alone.
        about: What was run, at the end of the report.
    """
    metric = next(iter(records.values()))[0].metric
    found = options(records)
    competing = complete(found, planned)
    chosen = choose_option(competing, config.budget, planned)
    lines = findings(competing, chosen, config.budget, metric)
    if late := [option.name for option in found if option not in competing]:
        lines.append(f"not compared, since not finished on every seed: {'; '.join(late)}")
    verdict: list[Block] = [Heading(_TITLE), BulletList(lines)]
    if chosen and commands:
        command = f"{commands[chosen.option.student]} export={chosen.option.file}"
        verdict += [Paragraph("Made and kept by:"), Preformatted(command)]
    table = options_table(found, competing, metric)
    blocks: list[Block] = [*verdict, Heading("Every file of every student"), TableBlock(table), Paragraph(LIMITS)]
    for cost, meaning in COSTS.items():
        figure = front_figure(competing, cost, metric, chosen.option if chosen else None)
        parent.log_figure(figure, f"choose_student/{cost}.png")
        blocks.append(FigureBlock(figure, f"{metric} against {meaning}; the line joins what no other file beats"))
    log_report(_TITLE, [*blocks, *about], parent, "choose_student")
    parent.log_table(table, "choose_student/options.csv")
    parent.set_tags({"kdexp.chosen_student": chosen.option.name if chosen else "nothing is within the budget"})
    print_blocks([*verdict, TableBlock(table)])
