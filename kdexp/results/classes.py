"""What becomes of single classes: accuracy hides a class that is lost, and a model that says one class only."""

from collections import Counter
from collections.abc import Mapping, Sequence

from kdexp.results.record import ClassCount
from kdexp.results.roles import FULL_VOCAB, GOLD, PSEUDO_LABELS, TUNED, TUNED_BASELINE, Role

_NAMES: dict[Role, str] = {
    "baseline": "baseline student",
    "student": "distilled student",
    "teacher": "teacher",
    PSEUDO_LABELS: "student of pseudo-labels",
    GOLD: "student of gold labels on all text",
    TUNED: "tuned student",
    TUNED_BASELINE: "tuned baseline",
    FULL_VOCAB: "student with all tokens",
}
_NUM_NAMED = 6
_FEWEST_RIGHT = 3
_FEWEST_LOST = 6
"""So many rows that one of two models has right, and the other none, are 5 % by chance (McNemar, exact)."""


def count_classes(gold: Sequence[str], answers: Sequence[str]) -> dict[str, ClassCount]:
    """Rows, right answers and answers by class, of the classes that occur in either."""
    rows, answered = Counter(gold), Counter(answers)
    right = Counter(label for label, answer in zip(gold, answers, strict=True) if label == answer)
    return {name: ClassCount(rows[name], right[name], answered[name]) for name in sorted({*rows, *answered})}


def summed(counts: Sequence[Mapping[str, ClassCount]]) -> dict[str, ClassCount]:
    """Those of several runs together."""
    names = sorted({name for run in counts for name in run})
    none = ClassCount(0, 0, 0)
    found = {name: [run.get(name, none) for run in counts] for name in names}
    return {
        name: ClassCount(
            sum(item.rows for item in items), sum(item.right for item in items), sum(item.answered for item in items)
        )
        for name, items in found.items()
    }


def class_notices(classes: Mapping[Role, Mapping[str, ClassCount]]) -> list[str]:
    """Which models say one class only, and which classes distillation loses; docs/statistics.md has the rule."""
    notices = [notice for role, counts in classes.items() if (notice := _single_answer_notice(role, counts))]
    return notices + _lost(classes.get("baseline", {}), classes.get("student", {}))


def recall_line(classes: Mapping[Role, Mapping[str, ClassCount]]) -> str:
    """`negative 81.0% -> 83.0%, ...` of baseline and distilled student; of many classes those that differ most."""
    baseline, student = classes.get("baseline", {}), classes.get("student", {})
    names = [name for name, count in student.items() if count.rows and name in baseline]
    differences = {name: abs(student[name].recall - baseline[name].recall) for name in names}
    shown = names
    if len(names) > _NUM_NAMED:
        shown = [name for name in sorted(names, key=lambda name: -differences[name])[:_NUM_NAMED] if differences[name]]
    recalls = [
        f"{name:.40} {baseline[name].recall:.1%} -> {student[name].recall:.1%}" for name in names if name in shown
    ]
    if not recalls:
        return f"by class: distilled and baseline alike in each of {len(names)} classes" if names else ""
    rest = f" (of {len(names)} classes those that differ most)" if len(names) > len(shown) else ""
    return f"by class, baseline -> distilled{rest}: {', '.join(recalls)}"


def same_answer(role: Role, answer: str, unit: str) -> str:
    """What to say of a model that gives the same answer whatever it reads.

    Args:
        unit: What it answers: `row` or `word`.
    """
    return f"the {_NAMES.get(role, role)} answers '{answer:.40}' on every test {unit}, whatever it reads"


def single_answer(counts: Mapping[str, ClassCount]) -> str | None:
    """The class that a model answers on every row, of rows that have several."""
    said = [name for name, count in counts.items() if count.answered]
    has_several = sum(count.rows > 0 for count in counts.values()) > 1
    return said[0] if len(said) == 1 and has_several else None


def _single_answer_notice(role: Role, counts: Mapping[str, ClassCount]) -> str | None:
    said = single_answer(counts)
    if said is None:
        return None
    count, total = counts[said], sum(item.rows for item in counts.values())
    return (
        f"the {_NAMES.get(role, role)} answers '{said:.40}' on every test row: its accuracy is the share of that "
        f"class, {count.rows:,} of {total:,}"
    )


def _lost(baseline: Mapping[str, ClassCount], student: Mapping[str, ClassCount]) -> list[str]:
    found = []
    for name, before in baseline.items():
        after = student.get(name, ClassCount(before.rows, 0, 0))
        has_none = not after.right and before.right >= _FEWEST_RIGHT
        has_half = 2 * after.right <= before.right and before.right - after.right >= _FEWEST_LOST
        if has_none or has_half:
            found.append(f"'{name:.40}' ({before.right:,} of {before.rows:,} test rows right, now {after.right:,})")
    more = f" and {len(found) - _NUM_NAMED} more" if len(found) > _NUM_NAMED else ""
    return [f"distillation loses {', '.join(found[:_NUM_NAMED])}{more}"] if found else []
