"""The result in the terminal: one short table, what it means, and where to look further."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdexp.results.record import Comparison, Scores
from kdexp.run import RunResult
from kdexp.tracking.uri import ui_command


def print_result(result: RunResult, tracking_uri: str | None, cache_dir: str) -> None:
    """Print what a person wants to know at the end of a run, to standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        # What is piped into a file must not be cut to the width of a terminal that is not there.
        console = Console(highlight=False, width=120)
    comparison = result.comparison
    console.print()
    console.print(_table(result.name, comparison))
    for line in _meaning(comparison, len(result.task.test)):
        console.print(Text(line), soft_wrap=True)
    console.print()
    console.print(
        Text(f"done in   {result.seconds:.0f} s; teacher's weights unchanged: {_yes(result.teacher_unchanged)}")
    )
    if result.run_url:
        command = ui_command(tracking_uri)
        browse = f"{command}   then open" if not command.startswith("http") else "open"
        console.print(Text(f"browse    {browse} {result.run_url}"), soft_wrap=True)
        console.print(Text(f"compare   {result.experiment_url}"), soft_wrap=True)
    console.print(Text(f"kept in   {cache_dir} (teachers, their logits, students)"), soft_wrap=True)


def print_line(result: RunResult) -> None:
    """Print one line for one job of a sweep."""
    comparison = result.comparison
    metric = comparison.primary_metric
    gain = f", gain {100 * comparison.gain.value:+.2f} points" if comparison.gain else ""
    line = (
        f"{result.name}: validation {comparison.student.validation[metric]:.2%}, "
        f"test {comparison.student.test[metric]:.2%}{gain} ({result.seconds:.0f} s)"
    )
    Console(highlight=False).print(Text(line), soft_wrap=True)


def _table(name: str, comparison: Comparison) -> Table:
    table = Table(title=name, title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column(f"test {comparison.primary_metric}", justify="right")
    table.add_column("macro-F1", justify="right")
    table.add_column("NLL", justify="right")
    table.add_column("ECE", justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("agreement", justify="right")

    def row(who: str, scores: Scores, agreement: float | None) -> None:
        table.add_row(
            who,
            f"{scores.test[comparison.primary_metric]:.2%}",
            f"{scores.test['macro_f1']:.2%}",
            f"{scores.test['nll']:.3f}",
            f"{scores.test['ece']:.3f}",
            f"{scores.num_parameters:,}",
            "" if agreement is None else f"{agreement:.1%}",
        )

    for name, scores in comparison.teachers.items():
        row(f"teacher {name}", scores, comparison.agreements[name])
    row("teachers together" if comparison.teachers else "teacher", comparison.teacher, None)
    if comparison.baseline is not None:
        row("baseline student", comparison.baseline, comparison.baseline_agreement)
    row("distilled student", comparison.student, comparison.agreement)
    return table


def _meaning(comparison: Comparison, num_test_rows: int) -> list[str]:
    lines = []
    gain = comparison.gain
    if gain is not None:
        if gain.low > 0:
            verdict = "distillation helped on this test set"
        elif gain.high < 0:
            verdict = "distillation hurt on this test set"
        else:
            verdict = "no difference that this test set can tell from chance"
        lines.append(
            f"gain      {100 * gain.value:+.2f} points over the same student without a teacher "
            f"(95 % [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}] over {num_test_rows:,} test rows): {verdict}"
        )
        lines.append("          one seed; repeat with -m seed=0,1,2,3,4 before you believe it")
    lines.append(
        f"agreement {comparison.agreement:.1%} of test rows answered as the teacher answers them; "
        "ECE is the calibration error"
    )
    lines.append(f"retention {comparison.retention:.1%} of the teacher's {comparison.primary_metric}")
    return lines


def _yes(value: bool) -> str:
    return "yes (SHA-256 before and after)" if value else "NO"
