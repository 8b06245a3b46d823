"""What MLflow's page of a run says before its numbers: what was asked, what came out, and how to ask again."""

from collections.abc import Sequence

from kdexp.results.record import RunRecord
from kdexp.results.report import BulletList, Heading, Paragraph, Preformatted, markdown_text
from kdexp.results.run_report import result_blocks


def run_note(record: RunRecord, notices: Sequence[str], command: str) -> str:
    """The description of a finished run, in Markdown.

    Args:
        notices: What was said of the data and the models, a line each.
        command: "" where a program asked.
    """
    table, facts, *files = result_blocks(record)
    # MLflow shows the name above it, and folds all but the first lines: the gain comes first.
    blocks = [facts, table, *files]
    if notices:
        blocks += [Heading("Notices"), BulletList(notices)]
    if command:
        blocks += [Heading("Command"), Preformatted(command)]
    return markdown_text(blocks)


def unfinished_note(command: str) -> str:
    """The description of a run that has not come to its end."""
    asked = [Preformatted(command)] if command else []
    return markdown_text([Paragraph("Not finished: results stand here at the end."), *asked])
