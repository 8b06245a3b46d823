"""The embedded task `entities`: persons, places and groups in short news, tagged word by word.

Names are made of the same 240 stems, whatever their type: what a name is, only the words around it tell ("doctor
Velda", "the road to Velda", "shares of Velda"), sometimes from afar. A name has one to three words, of which some tell
the type as well ("Port Velda", "Velda Motors") and some are no part of it ("the", "mayor"). Words in capitals that are
no names (days, beginnings of sentences) are there too.

Texts have 5 to 31 words, 14 on average; three words in ten belong to a name. Tags are BIO, and words are separated by
one space, punctuation included.

Everything comes from `random.Random.random()`, whose sequence for a seed is the same on every machine and Python.
"""

import re
from collections.abc import Mapping
from random import Random
from typing import Any

from kdexp.task.embedded.reviews import disjoint_splits, pick

TYPES = ("group", "person", "place")
LABELS = ["O", *(f"{prefix}-{name}" for name in TYPES for prefix in "BI")]

# fmt: off
BEGINNINGS = ("Bel", "Bro", "Dor", "Fen", "Gal", "Hul", "Jas", "Kan", "Lu", "Mar", "Ni", "Pel", "Rin", "Ser", "Sta",
              "Tos", "Tre", "Vel", "Wes", "Zor")
ENDINGS = ("da", "gard", "kel", "li", "mo", "nik", "rin", "ro", "sha", "ster", "ton", "van")
# fmt: on

# What a name is made of, by type: (words, share of use); `*` is a stem.
NAMES: dict[str, tuple[tuple[str, float], ...]] = {
    "person": (("*", 45), ("* *", 40), ("*-*", 15)),
    "place": (("*", 55), ("Port *", 8), ("New *", 8), ("Mount *", 8), ("* Valley", 7), ("* Bay", 7), ("*-*", 7)),
    "group": (("*", 45), ("* Motors", 9), ("* Bank", 9), ("* Union", 9), ("* & *", 14), ("University of *", 14)),
}

CLAUSES = (
    "{person} lives in {place}",
    "{person} was born near {place}",
    "{person} married {person} on {day}",
    "{person} has resigned from {group}",
    "{person} will sing in {place} on {day}",
    "{person} , {number} , was seen in {place}",
    "{title} {person} could not be reached",
    "{title} {person} flew to {place}",
    "{title} {person} spoke with {title} {person}",
    "the police arrested {person} and {person}",
    "nobody in {place} knows {person}",
    "her brother {person} works for {group}",
    "his aunt {person} moved from {place} to {place}",
    "the road to {place} is closed",
    "the train from {place} to {place} was late",
    "snow fell in {place} and {place}",
    "houses in {place} became cheaper",
    "the river near {place} rose by {number} metres",
    "{place} has {number} schools",
    "{place} lies north of {place}",
    "the harbour of {place} was empty",
    "shares of {group} fell on {day}",
    "shares of {group} and {group} rose",
    "{group} sold {number} factories to {group}",
    "{group} hired {person} as its lawyer",
    "{group} will open an office in {place}",
    "{group} reported a loss for the year",
    "members of {group} met in {place}",
    "the board of {group} elected {title} {person}",
    "a spokesman for {group} called {person} a liar",
    "workers at {group} went on strike",
    "{group} owes {number} millions to {group}",
    "banks were closed on {day}",
    "the union of the miners was silent",
    "prices rose again in the valley",
)
LINKS = (" , and ", " , but ", " while ", " because ", " . ", " . ", " ; ")
OPENINGS = ("on {day} ", "last week ", "according to {person} , ", "in {place} , ", "as {group} said , ")
SLOTS = {
    "title": ("doctor", "mayor", "judge", "captain", "Mr", "Mrs", "professor"),
    "day": ("Monday", "Tuesday", "Friday", "Sunday", "May Day", "Easter"),
    "number": ("two", "three", "five", "12", "40", "700"),
}

_SLOT = re.compile(r"\{(\w+)\}")


Row = tuple[str, tuple[int, ...]]
"""A text, and a label for each of its words."""


def generate_splits(sizes: Mapping[str, int], *, seed: int, label_noise: float) -> dict[str, list[Row]]:
    """Write texts for each split, as (text, a label for each word) with labels as indices into `LABELS`.

    Splits share no text. A larger split begins with the rows of a smaller one, and a split does not change with
    the size of another, except where a text that the other now holds is left out of it.

    Args:
        sizes: Rows per split, of test, validation, train and transfer; a split left out has none.
        seed: Two seeds give unrelated data.
        label_noise: Share of the names of the train split that are mistagged: half as another type, half as no name.
            Every other split keeps its true tags. The texts do not depend on it.
    """
    fill: Any = disjoint_splits  # typed for rows with one label; a row's labels are only handed on
    filled: dict[str, list[Row]] = fill(
        write_text, lambda random, labels: _noisy(random, labels, label_noise), sizes, f"entities/{seed}"
    )
    return filled


def write_text(random: Random) -> Row:
    """Return a text and the label of each of its words."""
    pattern = pick(random, OPENINGS) if random.random() < 0.2 else ""
    pattern += pick(random, CLAUSES)
    while random.random() < 0.35 and len(pattern.split()) < 16:
        pattern += pick(random, LINKS) + pick(random, CLAUSES)
    words: list[str] = []
    labels: list[int] = []
    for part in f"{pattern} .".split():
        slot = _SLOT.fullmatch(part)
        filling = [part] if slot is None else _filling(random, slot[1])
        begins = not words or words[-1] == "."
        words += [filling[0][0].upper() + filling[0][1:] if begins else filling[0], *filling[1:]]
        labels += _labels(slot[1] if slot else "", len(filling))
    return " ".join(words), tuple(labels)


def _labels(slot: str, num_words: int) -> list[int]:
    if slot not in TYPES:
        return [0] * num_words
    return [LABELS.index(f"B-{slot}"), *[LABELS.index(f"I-{slot}")] * (num_words - 1)]


def _filling(random: Random, slot: str) -> list[str]:
    """The words that stand in a slot."""
    if slot in SLOTS:
        return pick(random, SLOTS[slot]).split()
    place = random.random() * sum(share for _, share in NAMES[slot])
    for pattern, share in NAMES[slot]:  # noqa: B007 (the row where the loop stops)
        place -= share
        if place < 0:
            break
    return [re.sub(r"\*", lambda _: _stem(random), word) for word in pattern.split()]


def _stem(random: Random) -> str:
    return pick(random, BEGINNINGS) + pick(random, ENDINGS)


def _noisy(random: Random, labels: tuple[int, ...], label_noise: float) -> tuple[int, ...]:
    """Mistag each name with the probability `label_noise`."""
    noisy: list[int] = []
    shift, is_dropped = 0, False
    for label in labels:
        if LABELS[label].startswith("B-"):
            # Both are drawn whatever the outcome, so that the texts do not depend on the noise.
            chance, kind = random.random(), random.random()
            is_wrong = chance < label_noise
            is_dropped = is_wrong and kind < 0.5
            shift = (2 if kind < 0.75 else 4) if is_wrong else 0  # as many places as a type, or two, has
        noisy.append(0 if not label or is_dropped else (label - 1 + shift) % (len(LABELS) - 1) + 1)
    return tuple(noisy)
