"""The cross-family study: which jobs it has, and what its report is made of.

It takes apart what the warning against crossing families mixes up (FastFormers, https://arxiv.org/abs/2010.13382):
another family's teacher, the student's ids fed to it, and hidden states matched by word or by position.
"""

import itertools
import logging
from collections.abc import Sequence

import pandas as pd

from kdexp.config import Config
from kdexp.errors import UserError
from kdexp.results.record import RunRecord
from kdexp.results.roles import PSEUDO_LABELS
from kdexp.results.terminal import print_blocks
from kdexp.study.about import about_blocks, log_report
from kdexp.study.cross_family.report import (
    TITLE,
    forest_figure,
    matrix_figure,
    report_blocks,
    table,
    verdict_blocks,
)
from kdexp.study.cross_family.rules import HIDDEN_POSITION, HIDDEN_WORDS, OWN_TOKENS, STUDENT_IDS, judge
from kdexp.study.cross_family.wording import mechanism_claim
from kdexp.study.launch import Job, Launch
from kdexp.study.summary.choice import Candidate, choose
from kdexp.study.summary.evidence import PREDICTIONS, correctness
from kdexp.study.sweep import open_sweep
from kdexp.tracking.run import TrackedRun
from kdexp.tracking.store import StoredRun, Study

logger = logging.getLogger(__name__)

CROSS_CONDITIONS = (OWN_TOKENS, STUDENT_IDS, HIDDEN_WORDS, HIDDEN_POSITION)
# Teacher and student of one family read the same tokens: their ids are the teacher's own, and the same
# position holds the same word.
SAME_CONDITIONS = (OWN_TOKENS, HIDDEN_WORDS)


def pair_overrides(config: Config) -> list[list[str]]:
    """What each pair and condition of the study overrides.

    Raises:
        UserError: Fewer than two families, or one that has no model.
    """
    families = config.families
    if len(set(families)) < 2:
        raise UserError("families", f"got {families}", "name two or more, such as families=[bert,roberta]")
    overrides = []
    for teacher, student in itertools.product(dict.fromkeys(families), repeat=2):
        for condition in SAME_CONDITIONS if teacher == student else CROSS_CONDITIONS:
            lines = [f"teacher={teacher}", f"student={student}", f"condition={condition}"]
            for role, family, checkpoints in (
                ("teacher", teacher, config.cross_family.teachers or {}),
                ("student", student, config.cross_family.students or {}),
            ):
                if family in checkpoints:
                    lines.append(f"{role}.checkpoint='{checkpoints[family]}'")
            overrides.append(lines)
    return overrides


def run_cross_family(jobs: Sequence[Job], swept: Sequence[str], launch: Launch) -> None:
    """Run the study and report it.

    Raises:
        UserError: No job is legal, or nothing is tracked: the report is read from MLflow.
        SweepError: Some jobs failed; what the others found is reported.
    """
    config = next((job.config for job in jobs if job.config), None)
    if config and not config.tracking.enabled:
        raise UserError("tracking", "is off, and the study is read from it", "remove tracking=none")
    with open_sweep(jobs, swept, "cross_family") as sweep:
        sweep.run(sweep.distinct_jobs(), launch)
        assert sweep.study
        report_study(sweep.study, sweep.finished_runs(), sweep.parent, config or sweep.base)


def report_study(study: Study, runs: Sequence[StoredRun], parent: TrackedRun, config: Config) -> None:
    """Judge what was measured, log report, figures and tables to the parent run, and print the findings."""
    records = [RunRecord.from_stored(run) for run in runs]
    frame = tidy(study, records)
    if frame.empty:
        return
    margin = config.cross_family.margin
    verdict = judge(frame, margin=margin)
    blocks = report_blocks(
        verdict,
        frame,
        metric=records[0].metric,
        data=f"{config.task.name} ({frame['num_test_rows'].iloc[0]:,} test rows)",
        tokenizers={record.settings["teacher.family"]: record.diagnostics.tokenizers["teacher"] for record in records},
        calibrations={
            record.settings["teacher.family"]: record.diagnostics.calibration
            for record in records
            if record.settings["condition"] == OWN_TOKENS and record.diagnostics.calibration
        },
        notes=_limits(config),
        about=about_blocks(runs),
    )
    log_report(TITLE, blocks, parent, "cross_family")
    parent.log_table(table(verdict.comparisons, margin), "cross_family/comparisons.csv")
    for condition in dict.fromkeys(frame["condition"]):
        parent.log_figure(matrix_figure(verdict.gains, condition), f"cross_family/matrix_{condition}.png")
    parent.log_figure(forest_figure(verdict.comparisons, margin), "cross_family/forest.png")
    parent.set_tags(
        {
            f"kdexp.verdict.{mechanism.question}": f"{mechanism.support}: {mechanism_claim(mechanism, margin)}"
            for mechanism in verdict.mechanisms
        }
    )
    print_blocks(verdict_blocks(verdict))


def tidy(study: Study, records: Sequence[RunRecord]) -> pd.DataFrame:
    """One row per pair, condition and seed, as `rules.judge` takes them.

    Where a pair was run with several settings (alpha, temperature), the one that is chosen on validation stands for
    it; see `kdexp.study.summary.choice`.
    """
    rows = []
    for record in records:
        assert record.run_id
        predictions = study.table_artifact(record.run_id, PREDICTIONS)
        assert predictions is not None
        settings = record.settings
        rows.append(
            {
                "teacher_family": settings["teacher.family"],
                "student_family": settings["student.family"],
                "condition": settings["condition"],
                "seed": int(settings["seed"]),
                "setting": f"{settings.get('loss.alpha')} {settings.get('loss.temperature')}",
            }
            | {
                f"{role}_{split}": record.score(split, role)
                for role in ("student", "baseline", "teacher", PSEUDO_LABELS)
                for split in ("validation", "test")
            }
            | {"num_test_rows": len(predictions)}
            | {f"{role}_correct": right for role, right in correctness(record, predictions).items()}
        )
    if not rows:
        return pd.DataFrame()
    frame = pd.DataFrame(rows)
    pairs = frame.groupby(["teacher_family", "student_family", "condition"], sort=False)
    return pd.concat([_chosen(pair) for _, pair in pairs], ignore_index=True)


def _chosen(pair: pd.DataFrame) -> pd.DataFrame:
    """The rows of the setting that stands for a pair."""
    settings = [rows for _, rows in pair.groupby("setting", sort=False)]
    candidates = [Candidate(dict(zip(rows["seed"], rows["student_validation"], strict=True))) for rows in settings]
    return settings[choose(candidates, set(pair["seed"])).winner]


def _limits(config: Config) -> list[str]:
    notes = ["One teacher per family: how teachers of the same recipe differ by chance is not in the intervals."]
    if getattr(config.teacher, "checkpoint", None) is None and not config.cross_family.teachers:
        notes.append("Teachers are compact models trained from scratch: nothing here is about pretrained encoders.")
    if config.student.checkpoint is None and not config.cross_family.students:
        notes.append("Students are compact models trained from scratch.")
    notes.append("Loss weights are the same for all pairs and were not tuned, unless a grid was given.")
    return notes
