"""What the controls of a run say: the names of their models, and what the gain is made of."""

from kdexp.results import wording
from kdexp.results.record import Choice, RunRecord
from kdexp.results.roles import FULL_VOCAB, GOLD, PSEUDO_LABELS, TUNED, TUNED_BASELINE, Role
from kdexp.results.statistics import Gain

NAMES: dict[Role, str] = {
    PSEUDO_LABELS: "student of pseudo-labels",
    FULL_VOCAB: "the same with all tokens",
    GOLD: "gold labels on all text",
    TUNED_BASELINE: "tuned baseline",
    TUNED: "tuned student",
}
"""The controls' models as tables call them."""

CONTRAST_NAMES = {"text": "text and labels", "soft": "soft labels", "tuned": "gain, both tuned"}
"""The contrasts as tables call them."""


def control_facts(record: RunRecord) -> list[tuple[str, str]]:
    """What to say below the gain."""
    facts: list[tuple[str, str]] = []
    if "text" in record.contrasts:
        parts = [
            f"{_points(record.contrasts['text'])} {text_part(record.settings.get('terms', 'none'))} "
            "(pseudo-labels minus baseline)",
            f"{_points(record.contrasts['soft'])} soft labels (distilled minus pseudo-labels)",
        ]
        facts += [("made of", parts[0]), ("", parts[1])]
    if GOLD in record.scores:
        ceiling = wording.score(record.scores[GOLD].test[record.metric], record.metric)
        facts.append(("", f"{ceiling} with gold labels on all text: the ceiling"))
    if "tuned" in record.contrasts:
        best = f"{_points(record.contrasts['tuned'])} best against best (tuned student minus tuned baseline)"
        chosen = [f"{NAMES[role]}: {_chosen(choice)}" for role, choice in record.choices.items()]
        facts += [("tuned", best), ("", "; ".join(chosen))]
    return facts


def _chosen(choice: Choice) -> str:
    edge = ", on the grid's edge" if choice.is_on_edge else ""
    return f"learning rate {choice.learning_rate:g}, {choice.num_steps:,} steps{edge}"


def text_part(terms: str) -> str:
    """The part of the gain that is no softness.

    Args:
        terms: Feature terms of the loss as params say them: the student of pseudo-labels has them too.
    """
    return "text and repaired labels" if terms == "none" else f"text, repaired labels and {terms}"


def _points(gain: Gain) -> str:
    return f"{wording.points(100 * gain.value)} {wording.interval(100 * gain.low, 100 * gain.high)}"
