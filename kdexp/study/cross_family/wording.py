"""The verdict of a cross-family study in words: each follows from a finding, and says no more than its intervals."""

from collections.abc import Sequence

from kdexp.results import verdict, wording
from kdexp.results.statistics import Interval
from kdexp.results.verdict import Finding
from kdexp.study.cross_family.rules import (
    HIDDEN_POSITION,
    HIDDEN_WORDS,
    OWN_TOKENS,
    STUDENT_IDS,
    Contrast,
    Mechanism,
    Question,
    Support,
    Verdict,
    explained_by_teachers,
)

CONDITION_NAMES = {
    OWN_TOKENS: "logits, each model reads its own tokens",
    STUDENT_IDS: "logits, the teacher is fed the student's ids",
    HIDDEN_WORDS: "own tokens and a hidden-state term aligned on words",
    HIDDEN_POSITION: "own tokens and a hidden-state term by position",
}
WARNINGS = {
    Question.crossing: "Crossing families, with logits only and each model reading its own tokens",
    Question.softness: "What soft labels add to the teacher's hard answers, across families against within one",
    Question.student_ids: "Feeding the student's token ids to the teacher, as FastFormers' released code does",
    Question.hidden_words: "A hidden-state term across families, aligned on words",
    Question.hidden_position: "A hidden-state term across families, position by position",
}
_SUBJECTS = {
    Question.gain: "distillation",
    Question.soft_labels: "the soft labels",
    Question.crossing: "crossing",
    Question.softness: "crossing",
    Question.student_ids: "feeding the student's ids",
    Question.hidden_words: "the hidden-state term aligned on words",
    Question.hidden_position: "the hidden-state term by position",
}


def mechanism_claim(mechanism: Mechanism, margin: float) -> str:
    """What the comparisons of one question say together, about the pairs of different families."""
    if mechanism.support == Support.not_measured:
        return "not measured"
    claims = []
    for finding in Finding:
        pairs = [contrast.pair for contrast in mechanism.clear if contrast.finding == finding]
        if pairs:
            named = f" ({', '.join(pairs)})" if len(mechanism.contrasts) > 1 else ""
            claims.append(f"{claim(mechanism.question, finding, margin)}{named}")
    unclear = [contrast.pair for contrast in mechanism.contrasts if contrast not in mechanism.clear]
    if unclear:
        claims.append(f"no claim for {', '.join(unclear)}, whose teachers differ")
    return "; ".join(claims)


def mechanism_sentences(mechanism: Mechanism, found: Verdict) -> list[str]:
    """What was measured, and what keeps it from being put down to crossing; the claim is `mechanism_claim`'s."""
    sentences = [_sentence(contrast, found.margin) for contrast in mechanism.contrasts]
    if mechanism.question in (Question.hidden_words, Question.hidden_position):
        worse = [contrast for contrast in mechanism.contrasts if contrast.finding == Finding.worse]
        sentences += [_beside_own_family(contrast, found.contrasts) for contrast in worse]
    return sentences


def claim(question: Question, finding: Finding, margin: float) -> str:
    """The few words that a finding allows."""
    return verdict.claim(finding, _SUBJECTS[question], margin)


def _sentence(contrast: Contrast, margin: float) -> str:
    """One comparison in words."""
    compared = {
        Question.crossing: f"A {contrast.student} student gains {{}} from the {contrast.teacher} teacher "
        f"than from that of its own family",
        Question.softness: f"The {contrast.teacher} teacher's soft labels add {{}} to its hard answers, for a "
        f"{contrast.student} student, than those of the student's own family",
        Question.student_ids: f"{contrast.pair}: the student gains {{}} when its ids are fed to the teacher",
        Question.hidden_words: f"{contrast.pair}: the student gains {{}} with the hidden-state term aligned on words",
        Question.hidden_position: f"{contrast.pair}: the student gains {{}} with the hidden-state term by position",
        Question.gain: f"{contrast.pair}, {contrast.condition}: {{}} than without a teacher",
    }[contrast.question]
    difference = contrast.difference
    measured = compared.format(f"{abs(difference.mean):.2f} points {'more' if difference.mean >= 0 else 'less'}")
    text = f"{measured} ({verdict.over_seeds(difference, contrast.bootstrap)})."
    if explained_by_teachers(contrast, margin):
        better = "better" if contrast.teacher_difference > 0 else "worse"
        text += (
            f" But the {contrast.teacher} teacher is itself {abs(contrast.teacher_difference):.2f} points {better} "
            "on validation, so this says nothing about crossing."
        )
    return text


def _beside_own_family(contrast: Contrast, contrasts: Sequence[Contrast]) -> str:
    """Whether a term that hurts across families hurts within the student's family as well."""
    own = next(
        (
            other
            for other in contrasts
            if other.question == contrast.question and (other.teacher, other.student) == (contrast.student,) * 2
        ),
        None,
    )
    pair = f"{contrast.student} -> {contrast.student}"
    if own is None:
        return f"Whether it hurts {pair} as well was not measured: it is not shown that crossing is the reason."
    match own.finding:
        case Finding.worse:
            return f"It hurts {pair} as well: crossing is not shown to be the reason."
        case Finding.unsettled:
            return f"Whether it hurts {pair} as well is not settled: it is not shown that crossing is the reason."
        case _:
            return f"It does not hurt {pair}."


def show_interval(interval: Interval | None) -> str:
    """In points; nothing where there is none."""
    return "" if interval is None else wording.interval(interval.low, interval.high)
