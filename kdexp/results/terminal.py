"""The result in the terminal: one short table, what it means, and where to look further."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdexp.results.record import RunRecord
from kdexp.tracking.uri import ui_command


def print_result(record: RunRecord, tracking_uri: str | None, cache_dir: str) -> None:
    """Print what a person wants to know at the end of a run, to standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        # What is piped into a file must not be cut to the width of a terminal that is not there.
        console = Console(highlight=False, width=120)
    console.print()
    console.print(_table(record))
    for line in _meaning(record):
        console.print(Text(line), soft_wrap=True)
    console.print()
    console.print(
        Text(
            f"done in   {record.costs['seconds']:.0f} s; teacher's weights unchanged: {_yes(record.teacher_unchanged)}"
        )
    )
    if record.url:
        command = ui_command(tracking_uri)
        browse = f"{command}   then open" if not command.startswith("http") else "open"
        console.print(Text(f"browse    {browse} {record.url}"), soft_wrap=True)
        console.print(Text(f"compare   {record.experiment_url}"), soft_wrap=True)
    console.print(Text(f"kept in   {cache_dir} (teachers, their logits, students)"), soft_wrap=True)


def print_line(record: RunRecord) -> None:
    """Print one line for one job of a sweep."""
    gain = f", gain {100 * record.gain.value:+.2f} points" if record.gain else ""
    line = (
        f"{record.name}: validation {record.score('validation'):.2%}, "
        f"test {record.score('test'):.2%}{gain} ({record.costs['seconds']:.0f} s)"
    )
    Console(highlight=False).print(Text(line), soft_wrap=True)


def _table(record: RunRecord) -> Table:
    table = Table(title=record.name, title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column(f"test {record.metric}", justify="right")
    table.add_column("macro-F1", justify="right")
    table.add_column("NLL", justify="right")
    table.add_column("ECE", justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("agreement", justify="right")
    members = [role for role in record.scores if role.startswith("teacher_")]
    names = {role: f"teacher {role.removeprefix('teacher_')}" for role in members}
    names |= {"teacher": "teachers together" if members else "teacher"}
    names |= {"baseline": "baseline student", "student": "distilled student"}
    for role, name in names.items():
        if role not in record.scores:
            continue
        scores, agreement = record.scores[role], record.agreement.get(role)
        table.add_row(
            name,
            f"{scores.test[record.metric]:.2%}",
            f"{scores.test['macro_f1']:.2%}",
            f"{scores.test['nll']:.3f}",
            f"{scores.test['ece']:.3f}",
            f"{scores.num_parameters:,}",
            "" if agreement is None else f"{agreement:.1%}",
        )
    return table


def _meaning(record: RunRecord) -> list[str]:
    lines = []
    gain = record.gain
    if gain is not None:
        if gain.low > 0:
            verdict = "distillation helped on this test set"
        elif gain.high < 0:
            verdict = "distillation hurt on this test set"
        else:
            verdict = "no difference that this test set can tell from chance"
        lines.append(
            f"gain      {100 * gain.value:+.2f} points over the same student without a teacher "
            f"(95 % [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}] over {record.num_test_rows:,} test rows): "
            f"{verdict}"
        )
        lines.append("          one seed; repeat with -m seed=0,1,2,3,4 before you believe it")
    lines.append(
        f"agreement {record.agreement['student']:.1%} of test rows answered as the teacher answers them; "
        "ECE is the calibration error"
    )
    lines.append(f"retention {record.retention:.1%} of the teacher's {record.metric}")
    return lines


def _yes(value: bool) -> str:
    return "yes (SHA-256 before and after)" if value else "NO"
