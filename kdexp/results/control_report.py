"""What the controls of a run say: the names of their models, and what the gain is made of."""

from kdexp.results import wording
from kdexp.results.record import PSEUDO_LABELS, Role, RunRecord
from kdexp.results.statistics import Gain

NAMES: dict[Role, str] = {PSEUDO_LABELS: "student of pseudo-labels"}
"""The controls' models as tables call them."""


def control_facts(record: RunRecord) -> list[tuple[str, str]]:
    """What to say below the gain."""
    facts = []
    if "text" in record.contrasts:
        parts = [
            f"{_points(record.contrasts['text'])} {text_part(record.settings.get('terms', 'none'))} "
            "(pseudo-labels minus baseline)",
            f"{_points(record.contrasts['soft'])} soft labels (distilled minus pseudo-labels)",
        ]
        facts += [("made of", parts[0]), ("", parts[1])]
    return facts


def text_part(terms: str) -> str:
    """The part of the gain that is no softness.

    Args:
        terms: Feature terms of the loss as params say them: the student of pseudo-labels has them too.
    """
    return "text and repaired labels" if terms == "none" else f"text, repaired labels and {terms}"


def _points(gain: Gain) -> str:
    return f"{wording.points(100 * gain.value)} {wording.interval(100 * gain.low, 100 * gain.high)}"
