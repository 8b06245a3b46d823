"""The end of a run in blocks: one short table, what it means, and where to look further."""

from collections.abc import Mapping

from kdexp.results import verdict, wording
from kdexp.results.classes import recall_line, single_answer
from kdexp.results.control_report import NAMES, control_facts
from kdexp.results.record import RunRecord
from kdexp.results.report import Block, Facts, TableBlock
from kdexp.results.roles import Role, file_name
from kdexp.results.shipped_report import shipped_blocks

_SMALL_GAIN = 0.02


def result_blocks(record: RunRecord) -> list[Block]:
    """The models of a run side by side on test, and what that means."""
    import pandas as pd

    table = pd.DataFrame([_row(record, role, name) for role, name in _names(record).items()])
    return [TableBlock(table, record.name), Facts(_findings(record)), *shipped_blocks(record)]


def link_blocks(record: RunRecord, ui_command: str, cache_dir: str) -> list[Block]:
    """How the run went, and where to look further.

    Args:
        ui_command: What shows MLflow's pages: a command, or a server's URL.
    """
    unchanged = "yes (SHA-256 before and after)" if record.teacher_unchanged else "NO"
    facts = [("done in", f"{record.costs['seconds']:.0f} s; teacher's weights unchanged: {unchanged}")]
    if record.url:
        browse = "open" if ui_command.startswith("http") else f"{ui_command}   then open"
        facts += [("browse", f"{browse} {record.url}"), ("compare", f"{record.experiment_url}")]
    return [Facts([*facts, ("kept in", f"{cache_dir} (teachers, their logits, students)")])]


def job_line(record: RunRecord) -> str:
    """One job of a sweep in one line."""
    gain = ""
    if record.gain:
        gain = f", gain {wording.points(100 * record.gain.value)} {wording.points_of(record.metric)}"
    return (
        f"{record.name}: validation {_show(record.scores['student'].validation, record.metric)}, "
        f"test {_show(record.scores['student'].test, record.metric)}{gain} ({record.costs['seconds']:.0f} s)"
    )


def _names(record: RunRecord) -> dict[Role, str]:
    """Every role that was measured, in the order and with the name in which it is shown."""
    members = {
        role: f"teacher {role.removeprefix('teacher_')}" for role in record.scores if role.startswith("teacher_")
    }
    names = members | {
        "teacher": "teachers together" if members else "teacher",
        "baseline": "baseline student",
        "student": "distilled student",
    }
    names |= {role: NAMES.get(role, _file_name(role)) for role in record.scores if role not in names}
    return {role: name for role, name in names.items() if role in record.scores}


def _file_name(role: Role) -> str:
    """`onnx file` of an exported one; of another model its role."""
    file = file_name(role)
    return role if file is None else f"{file} file"


def _row(record: RunRecord, role: Role, name: str) -> dict[str, str]:
    scores, agreement = record.scores[role], record.agreement.get(role)
    row = {"": name, f"test {record.metric}": _show(scores.test, record.metric)}
    for metric in record.scores["student"].test:
        if metric != record.metric:
            row[wording.METRICS.get(metric, metric)] = _show(scores.test, metric)
    row["parameters"] = f"{scores.num_parameters:,}" if scores.num_parameters else ""
    return row | {"agreement": "" if agreement is None else f"{agreement:.1%}"}


def _show(values: Mapping[str, float], metric: str) -> str:
    return wording.score(values[metric], metric) if metric in values else ""


def _findings(record: RunRecord) -> list[tuple[str, str]]:
    facts = []
    if record.gain is not None and record.takes_nothing:
        facts.append(("gain", verdict.NOTHING_TAKEN))
    elif record.gain is not None:
        gain = record.gain
        rows = "test rows" if record.num_test_rows is None else f"{record.num_test_rows:,} test rows"
        facts += [
            (
                "gain",
                f"{wording.points(100 * gain.value)} {wording.points_of(record.metric)} over the same student without "
                "a teacher "
                f"(95 % {wording.interval(100 * gain.low, 100 * gain.high)} over {rows}): "
                f"{verdict.claim_of_one_seed(gain)}",
            ),
            *_other_gain(record),
            *control_facts(record),
            ("", verdict.ONE_SEED),
            *_where_it_pays(record),
        ]
    if recall := recall_line(record.classes):
        facts.append(("recall", recall))
    ece = "; ECE is the calibration error" if "ece" in record.scores["student"].test else ""
    if "student" in record.agreement:
        agreement = f"{record.agreement['student']:.1%} {_agreed(record)}{ece}"
        facts.append(("agreement", agreement))
    if record.retention is not None:
        facts.append(("retention", f"{record.retention:.1%} of the teacher's {record.metric}"))
    return facts


def _where_it_pays(record: RunRecord) -> list[tuple[str, str]]:
    """Of a student that had all the labels, and learned from them about as much alone."""
    assert record.gain
    has_more_text = record.settings.get("train.use_transfer") == "True"
    # Students that learned nothing say nothing about the teacher, nor about labels.
    has_learned = single_answer(record.classes.get("student", {})) is None
    if record.gain.value >= _SMALL_GAIN or has_more_text or not has_learned:
        return []
    found = "with all labels a teacher adds less than two points here; with few labels and more text it may do more: "
    return [("", f"{found}add experiment=few_labels to this command")]


def _agreed(record: RunRecord) -> str:
    """Of one class a share of rows or words; of several labels, or of numbers, how far the answers are alike."""
    metrics = record.scores["student"].test
    if "micro_f1" in metrics or "pearson" in metrics:
        return "with the teacher's answers on test"
    return f"of test {'words' if 'unread' in metrics else 'rows'} answered as the teacher answers them"


def _other_gain(record: RunRecord) -> list[tuple[str, str]]:
    """In macro-F1, where every class counts the same, beside a gain that counts rows; and the reverse."""
    facts = []
    for metric in wording.SHARES:
        scores = [record.scores[role].test.get(metric) for role in ("student", "baseline")]
        if metric != record.metric and scores[0] is not None and scores[1] is not None:
            facts.append(("", f"{wording.points(100 * (scores[0] - scores[1]))} points of {wording.METRICS[metric]}"))
    return facts
