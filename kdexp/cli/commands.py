"""`python -m kdexp <command> ...`: what is not a run. Whatever it needs is imported only when it is asked for."""

from collections.abc import Callable, Sequence

from kdexp.cli.flags import COMMANDS
from kdexp.fingerprint import own_version

Command = Callable[[Sequence[str]], None]


def answer_without_hydra(arguments: Sequence[str]) -> str | None:
    """The help screen, the version, or what a TAB asks for; None where that is not the question."""
    if "--version" in arguments:
        return f"kdexp {own_version()}\n"
    if any(argument in ("-h", "--help") for argument in arguments):
        if arguments[0] in COMMANDS:
            return f"{_usage(arguments[0])}\n"
        from kdexp.cli.help import help_text

        return help_text(arguments)
    if arguments[:1] == ["-sc"]:
        from kdexp.cli.completion import answer

        return answer(arguments[1:])
    return None


def _usage(name: str) -> str:
    """How a command is called, and the page that tells more."""
    match name:
        case "predict":
            from kdexp.export.predict import USAGE

            return f"{USAGE}\nWhat a student answers: docs/export.md"
        case "summary":
            usage = "kdexp summary [<study>] [tracking.uri=<uri>] [cache_dir=<folder>]"
            return f"usage: {usage}\nWhat a study found, as far as it is: docs/sweeps.md"
        case _:
            usage = "kdexp transplant <checkpoint> <tokenizer> <target folder>"
            return f"usage: {usage}\nAn encoder with another model's tokens: docs/cross_family.md"


def find_command(name: str) -> Command | None:
    """The command of that name, which takes the words after its own; None where there is none."""
    match name:
        case "summary":
            from kdexp.study.summary.report import main as summary

            return summary
        case "predict":
            from kdexp.export.predict import main as predict

            return predict
        case "transplant":
            from kdexp.model.transplanted import main as transplant

            return transplant
    return None
