"""`python -m kdexp <command> ...`: what is not a run. Each takes the words after its own."""

from collections.abc import Callable, Sequence

Command = Callable[[Sequence[str]], None]


def find_command(name: str) -> Command | None:
    """The command of that name, or None; its module is imported only now."""
    match name:
        case "summary":
            from kdexp.study.summary_report import main as summary

            return summary
        case "transplant":
            from kdexp.model.transplanted import main as transplant

            return transplant
    return None
