"""The embedded task `inference`: does the premise entail the hypothesis, contradict it, or neither?

The world is small: people who handle things, places and their state, animals that meet, quantities, the order of
events. The hypothesis is drawn without looking at the label, and the premise is then written so that the label
is true. So the hypothesis alone tells nothing about the label, and a negation in either sentence tells nothing
alone: both have to be read together. The premise also holds up to two sentences about something else. The three
classes are equally frequent.

What decides the label: same or another person, kinds (a pear is a fruit, a fruit need not be a pear), negation
("did not buy any fruit"), quantities ("all" implies "some"), opposites ("not open" is "closed"), active and
passive, before and after.

Everything comes from `random.Random.random()`, whose sequence for a seed is the same on every machine and Python.
"""

from collections.abc import Mapping, Sequence
from random import Random

from kdexp.task.embedded.reviews import Item, disjoint_splits, pick, with_article

LABELS = ["entailment", "neutral", "contradiction"]
ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)

PEOPLE = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ines", "Jonas", "Karen", "Leo")
PLACES = (
    "kitchen",
    "garden",
    "office",
    "station",
    "market",
    "library",
    "park",
    "cellar",
    "school",
    "harbour",
)
KINDS = {
    "animal": ("dog", "cat", "horse", "goat", "rabbit"),
    "fruit": ("pear", "plum", "lemon", "melon", "cherry"),
    "tool": ("hammer", "saw", "drill", "spade", "brush"),
    "vehicle": ("car", "truck", "tractor", "van", "bus"),
}
DEEDS = {
    "bought": "buy",
    "sold": "sell",
    "found": "find",
    "cleaned": "clean",
    "painted": "paint",
    "carried": "carry",
}
MEETINGS = {"chased": "chase", "followed": "follow", "watched": "watch", "pushed": "push", "helped": "help"}
OPPOSITES = (("open", "closed"), ("clean", "dirty"), ("empty", "full"), ("warm", "cold"), ("bright", "dark"))
GROUPS = ("guests", "pupils", "nurses", "drivers", "players", "singers", "tourists", "farmers")
GROUP_DEEDS = ("smiled", "left", "slept", "danced", "cheered", "waited")
EVENTS = (
    "bell rang",
    "train left",
    "rain began",
    "lamp broke",
    "music stopped",
    "door closed",
    "guests arrived",
)

# For each quantity in the hypothesis, the quantities in the premise that make each label true. "Two" is read as
# "at least two", so that "three" leaves no doubt about it.
QUANTITIES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "some": (("all", "most", "two", "three"), (), ("none",)),
    "all": (("all",), ("some", "two", "three"), ("none", "only some")),
    "most": (("all", "most"), ("some", "two", "three"), ("none",)),
    "none": (("none",), (), ("all", "most", "some", "two", "three")),
    "two": (("two", "three"), ("some",), ("none",)),
}

ASIDES = (
    "{person} likes old music",
    "{person} wore a green coat",
    "{person} speaks two languages",
    "{person} has a sister in the city",
    "the newspaper came late",
    "it was a quiet week",
    "the coffee was strong",
    "the radio played a waltz",
)


def generate_splits(
    sizes: Mapping[str, int], *, seed: int, label_noise: float
) -> dict[str, list[tuple[str, str, int]]]:
    """Write pairs for each split, as (premise, hypothesis, label) with the label an index into `LABELS`.

    Splits share no pair. A larger split begins with the rows of a smaller one, and a split does not change with
    the size of another, except where a pair that the other now holds is left out of it.

    Args:
        sizes: Rows per split, of test, validation, train and transfer; a split left out has none.
        seed: Two seeds give unrelated data.
        label_noise: Share of the labels of the train split that are replaced by one of the other two.
            Every other split keeps its true labels.
    """
    splits = disjoint_splits(
        write_pair, lambda random, label: _noisy_label(random, label, label_noise), sizes, f"inference/{seed}"
    )
    return {split: [(*pair, label) for pair, label in rows] for split, rows in splits.items()}


def write_pair(random: Random) -> tuple[tuple[str, str], int]:
    """Return ((premise, hypothesis), label)."""
    label = int(3 * random.random())
    frame = pick(random, (_deed, _deed, _place, _state, _quantity, _meeting, _order))
    fact, hypothesis = frame(random, label)
    sentences = [fact]
    for _ in range(int(3 * random.random())):
        aside = pick(random, ASIDES).format(person=pick(random, PEOPLE))
        sentences.insert(int(random.random() * (len(sentences) + 1)), aside)
    return (_text(sentences), _text([hypothesis])), label


# Each frame draws a hypothesis first, without the label, and then a fact that gives it the label; it returns
# (fact, hypothesis).


def _deed(random: Random, label: int) -> tuple[str, str]:
    """Who did what to a thing of which kind: "Ben bought a pear" entails "Ben bought a fruit"."""
    person, past, kind = pick(random, PEOPLE), pick(random, tuple(DEEDS)), pick(random, tuple(KINDS))
    thing = pick(random, KINDS[kind])
    by_kind, negated = _coin(random), _coin(random)
    hypothesis = _deed_sentence(random, person, past, kind if by_kind else thing, negated)
    if label == NEUTRAL:
        if _coin(random):
            # Another person's deed, whatever it is, settles nothing.
            other = _another(random, PEOPLE, person)
            return _deed_sentence(random, other, past, pick(random, (kind, thing)), _coin(random)), hypothesis
        # "Bought a fruit" leaves the pear open; "did not buy a pear" leaves the fruit open.
        fact = _deed_sentence(random, person, past, thing if by_kind else kind, by_kind)
        return fact, hypothesis
    fact_negated = negated == (label == ENTAILMENT)
    # A negative fact must be as general as the hypothesis or more, a positive one as specific or more.
    if fact_negated:
        what = kind if by_kind else pick(random, (kind, thing))
    else:
        what = pick(random, (kind, thing)) if by_kind else thing
    return _deed_sentence(random, person, past, what, fact_negated), hypothesis


def _deed_sentence(random: Random, person: str, past: str, what: str, negated: bool) -> str:
    passive = random.random() < 0.3
    if negated:
        return f"no {what} was {past} by {person}" if passive else f"{person} did not {DEEDS[past]} any {what}"
    return f"{with_article(what)} was {past} by {person}" if passive else f"{person} {past} {with_article(what)}"


def _place(random: Random, label: int) -> tuple[str, str]:
    """Where a person is: nobody is in two places at once."""
    person, place, negated = pick(random, PEOPLE), pick(random, PLACES), _coin(random)
    hypothesis = f"{person} is {'not ' if negated else ''}in the {place}"
    elsewhere = _another(random, PLACES, place)
    if label == NEUTRAL:
        if _coin(random):
            other = _another(random, PEOPLE, person)
            return f"{other} is {'not ' if _coin(random) else ''}in the {place}", hypothesis
        return f"{person} is not in the {elsewhere}", hypothesis
    if negated == (label == CONTRADICTION):
        return f"{person} is in the {place}", hypothesis
    return pick(random, (f"{person} is in the {elsewhere}", f"{person} is not in the {place}")), hypothesis


def _state(random: Random, label: int) -> tuple[str, str]:
    """How a place is, in pairs of opposites: what is not open is closed."""
    place, pair = pick(random, PLACES), pick(random, OPPOSITES)
    side, negated = int(2 * random.random()), _coin(random)
    hypothesis = f"the {place} is {'not ' if negated else ''}{pair[side]}"
    if label == NEUTRAL:
        word = pick(random, pair)
        if _coin(random):
            place = _another(random, PLACES, place)
        else:
            word = pick(random, _another(random, OPPOSITES, pair))
        return f"the {place} is {'not ' if _coin(random) else ''}{word}", hypothesis
    fact_side = int(2 * random.random())
    same = label == ENTAILMENT
    fact_negated = (fact_side == side) == (same == negated)
    return f"the {place} is {'not ' if fact_negated else ''}{pair[fact_side]}", hypothesis


def _quantity(random: Random, label: int) -> tuple[str, str]:
    """How many of a group did something."""
    group, deed, quantity = pick(random, GROUPS), pick(random, GROUP_DEEDS), pick(random, tuple(QUANTITIES))
    hypothesis = f"{quantity} of the {group} {deed}"
    options = QUANTITIES[quantity][label]
    if label == NEUTRAL and (not options or _coin(random)):
        fact_quantity = pick(random, tuple(QUANTITIES))
        if _coin(random):
            return f"{fact_quantity} of the {_another(random, GROUPS, group)} {deed}", hypothesis
        return f"{fact_quantity} of the {group} {_another(random, GROUP_DEEDS, deed)}", hypothesis
    return f"{pick(random, options)} of the {group} {deed}", hypothesis


def _meeting(random: Random, label: int) -> tuple[str, str]:
    """Which animal did something to which: the reverse may be true as well, so it is neutral."""
    first = pick(random, KINDS["animal"])
    second = _another(random, KINDS["animal"], first)
    past, negated = pick(random, tuple(MEETINGS)), _coin(random)
    hypothesis = _meeting_sentence(random, first, past, second, negated)
    if label == NEUTRAL:
        return _meeting_sentence(random, second, past, first, _coin(random)), hypothesis
    return _meeting_sentence(random, first, past, second, negated == (label == ENTAILMENT)), hypothesis


def _meeting_sentence(random: Random, first: str, past: str, second: str, negated: bool) -> str:
    if _coin(random):
        return f"the {second} was {'not ' if negated else ''}{past} by the {first}"
    return f"the {first} {'did not ' + MEETINGS[past] if negated else past} the {second}"


def _order(random: Random, label: int) -> tuple[str, str]:
    """Which of two events came first."""
    first = pick(random, EVENTS)
    second = _another(random, EVENTS, first)
    hypothesis = _order_sentence(random, first, second)
    if label == NEUTRAL:
        third = pick(random, [event for event in EVENTS if event not in (first, second)])
        known = pick(random, (first, second))
        return _order_sentence(random, *pick(random, ((known, third), (third, known)))), hypothesis
    fact = (first, second) if label == ENTAILMENT else (second, first)
    return _order_sentence(random, *fact), hypothesis


def _order_sentence(random: Random, first: str, second: str) -> str:
    return f"the {first} before the {second}" if _coin(random) else f"the {second} after the {first}"


def _noisy_label(random: Random, label: int, label_noise: float) -> int:
    # Both are drawn whatever the outcome, so that the texts do not depend on the noise.
    chance, shift = random.random(), 1 + int(2 * random.random())
    return (label + shift) % 3 if chance < label_noise else label


def _another(random: Random, items: Sequence[Item], item: Item) -> Item:
    return pick(random, [other for other in items if other != item])


def _coin(random: Random) -> bool:
    return random.random() < 0.5


def _text(sentences: Sequence[str]) -> str:
    return " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in sentences)
