"""The embedded task `reviews`: product reviews in five ordered classes, written by a small grammar.

A review is one to five sentences about one product. Each opinion has a value on a scale where 1 to 3 (or -1 to
-3) is the strength of its word; the construction around the word multiplies it ("not" flips and softens,
"extremely" strengthens, "less ... than I feared" turns a complaint into mild praise), and the sentence gives it a
weight ("X, but Y" counts Y more, a verdict on the whole product counts double, what the reviewer says of another
product counts nothing). The weighted mean of the values is the score of the review, and four cuts turn the score
into a class. So the words alone tell a good part of the label, and the composition tells the rest.

Texts have 8 to 45 words, 17 on average. Shares of the classes, from terrible to excellent: about 13, 30, 11, 32
and 14 %.

Everything comes from `random.Random.random()`, whose sequence for a seed is the same on every machine and Python.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TypeVar

LABELS = ["terrible", "bad", "mixed", "good", "excellent"]

# A review with a score closer than MARGIN to a cut is drawn again: a person could not place it either.
CUTS = (-2.1, -0.7, 0.7, 2.1)
MARGIN = 0.3

# Removal of duplicates goes in this order, so that the test split never depends on the others.
SPLIT_ORDER = ("test", "validation", "train", "transfer")

ASPECTS = {
    "camera": ("lens", "viewfinder", "autofocus", "screen", "menu", "strap", "battery life", "flash"),
    "phone": (
        "screen",
        "speaker",
        "camera",
        "charger",
        "keyboard",
        "battery life",
        "fingerprint reader",
        "case",
    ),
    "laptop": ("keyboard", "screen", "trackpad", "hinge", "fan", "battery life", "webcam", "speaker"),
    "headset": ("sound", "cable", "microphone", "cushion", "bass", "battery life", "fit", "volume control"),
    "hotel": ("room", "breakfast", "pool", "lobby", "bed", "view", "bathroom", "front desk", "queue"),
    "restaurant": (
        "soup",
        "dessert",
        "bread",
        "wine list",
        "waiter",
        "terrace",
        "main course",
        "kitchen",
        "queue",
    ),
    "novel": ("plot", "ending", "dialogue", "prose", "hero", "opening chapter", "cover", "translation"),
    "film": ("plot", "ending", "dialogue", "acting", "soundtrack", "pacing", "camera work", "script"),
    "blender": ("motor", "jug", "lid", "blade", "manual", "noise level", "base", "handle"),
    "jacket": ("zip", "lining", "hood", "fabric", "collar", "fit", "pocket", "colour"),
    "tour": ("guide", "bus", "lunch", "museum", "route", "timing", "view", "queue"),
    "course": ("teacher", "textbook", "homework", "exam", "pace", "forum", "final project", "video"),
    "bicycle": ("saddle", "frame", "chain", "brake", "gear", "lamp", "handlebar", "paint"),
    "game": ("story", "music", "tutorial", "difficulty", "controller", "map", "ending", "loading time"),
}
SHARED_ASPECTS = ("price", "quality", "customer service", "delivery time", "design", "packaging")

# Words whose direction depends on what they describe: a long battery life is good, a long queue is not.
BY_ASPECT: dict[str, dict[int, tuple[str, ...]]] = {
    "price": {-2: ("high", "steep"), 2: ("low", "modest")},
    "quality": {-2: ("low", "modest"), 2: ("high",)},
    "noise level": {-2: ("high",), 2: ("low", "modest")},
    "battery life": {-2: ("short", "limited"), 2: ("long",), 3: ("endless",)},
    "queue": {-3: ("endless",), -2: ("long",), 2: ("short", "limited")},
    "delivery time": {-3: ("endless",), -2: ("long",), 2: ("short",)},
    "loading time": {-3: ("endless",), -2: ("long",), 2: ("short",)},
}

# fmt: off
WORDS: dict[int, tuple[str, ...]] = {
    3: ("excellent", "superb", "outstanding", "brilliant", "fantastic", "wonderful", "flawless", "magnificent",
        "stunning", "exceptional", "terrific", "marvellous"),
    2: ("good", "great", "lovely", "impressive", "solid", "delightful", "charming", "reliable", "clever", "elegant",
        "convincing", "satisfying", "enjoyable", "polished"),
    1: ("decent", "fine", "pleasant", "acceptable", "adequate", "okay", "passable", "tolerable", "agreeable",
        "reasonable"),
    -1: ("mediocre", "bland", "dull", "ordinary", "forgettable", "clumsy", "plain", "uneven", "dated", "stiff"),
    -2: ("bad", "poor", "disappointing", "annoying", "flimsy", "sloppy", "frustrating", "careless", "unpleasant",
         "unreliable", "shabby", "messy", "awkward", "lousy"),
    -3: ("terrible", "awful", "horrible", "dreadful", "abysmal", "atrocious", "appalling", "disgusting",
         "unbearable", "disastrous", "pathetic", "hideous"),
}
# fmt: on
VERBS: dict[int, tuple[str, ...]] = {
    3: ("loved", "adored", "treasured"),
    2: ("liked", "enjoyed", "appreciated"),
    1: ("accepted", "respected"),
    -1: ("questioned", "overlooked"),
    -2: ("disliked", "resented", "regretted"),
    -3: ("hated", "loathed", "despised"),
}

# What follows "was": (construction, factor on the value of the word, sign that the word must have or 0, share of
# use).
PREDICATES: tuple[tuple[str, float, int, float], ...] = (
    ("{}", 1.0, 0, 45),
    ("very {}", 1.4, 0, 4),
    ("extremely {}", 1.4, 0, 4),
    ("slightly {}", 0.5, 0, 4),
    ("somewhat {}", 0.5, 0, 4),
    ("not {}", -0.4, 0, 9),
    ("hardly {}", -0.4, 0, 4),
    ("not at all {}", -1.0, 0, 4),
    ("anything but {}", -1.0, 0, 5),
    ("far from {}", -1.0, 0, 5),
    ("less {} than I feared", -0.4, -1, 4),
    ("less {} than I had hoped", -0.4, 1, 4),
    ("every bit as {} as promised", 1.4, 1, 4),
)

# Two opinions in one sentence: (construction, weight of the first, weight of the second, whether they should
# disagree).
PAIRS: tuple[tuple[str, float, float, bool], ...] = (
    ("{0} and {1}", 1.0, 1.0, False),
    ("{0}, {1}", 1.0, 1.0, False),
    ("{0} but {1}", 0.5, 1.5, True),
    ("although {0}, {1}", 0.5, 1.5, True),
    ("{0}, even if {1}", 1.5, 0.5, True),
)

# Opinions that do not use "was": (construction, factor).
REMARKS: tuple[tuple[str, float], ...] = (
    ("I {verb} the {thing}", 1.0),
    ("we all {verb} the {thing}", 1.0),
    ("nobody {verb} the {thing}", -1.0),
    ("my {person} called the {thing} {word} and I agree", 1.0),
    ("my {person} called the {thing} {word} and I disagree", -1.0),
    ("there is something {word} about the {thing}", 1.0),
    ("there is nothing {word} about the {thing}", -1.0),
)

# Opinions about something else: they weigh nothing, whatever their words say.
ELSEWHERE = (
    "my old {product} was {word}",
    "the {product} of my {person} is {word}",
    "last year we had {a_word} {product}",
    "the {thing} of another {product} was {word}",
)
VERDICTS = (
    "overall {a_word} {product}",
    "all in all {a_word} {product}",
    "in short, {a_word} {product}",
    "to sum up, the {product} is {predicate}",
    "as a whole the {product} was {predicate}",
)
NEUTRAL = (
    "I chose this {product} in {month}",
    "my {person} gave me this {product}",
    "it was the second {product} of the year for me",
    "we read about the {product} in a magazine",
    "the {product} came with a printed receipt",
    "I am writing this after {number} weeks",
    "my {person} was with me in {month}",
    "we paid by card",
)
PEOPLE = (
    "sister",
    "brother",
    "neighbour",
    "boss",
    "uncle",
    "friend",
    "mother",
    "colleague",
    "daughter",
    "partner",
)
MONTHS = ("January", "March", "April", "June", "July", "September", "October", "December")
NUMBERS = ("two", "three", "four", "five", "six", "ten")

Item = TypeVar("Item")
Text = TypeVar("Text")


def generate_splits(sizes: Mapping[str, int], *, seed: int, label_noise: float) -> dict[str, list[tuple[str, int]]]:
    """Write reviews for each split, as (text, label) with the label an index into `LABELS`.

    Splits share no text. A larger split begins with the rows of a smaller one, and a split does not change with
    the size of another, except where a text that the other now holds is left out of it: test keeps its texts
    against all others, then validation, then train.

    Args:
        sizes: Rows per split, of test, validation, train and transfer; a split left out has none.
        seed: Two seeds give unrelated data.
        label_noise: Share of the labels of the train split that are replaced, mostly by a neighbouring class.
            Every other split keeps its true labels, so a perfect model would be right on all of it. The texts
            do not depend on it.
    """
    return disjoint_splits(
        write_review, lambda random, label: noisy_label(random, label, label_noise), sizes, f"reviews/{seed}"
    )


def disjoint_splits(
    write_example: Callable[[Random], tuple[Text, int]],
    corrupt: Callable[[Random, int], int],
    sizes: Mapping[str, int],
    stream: str,
) -> dict[str, list[tuple[Text, int]]]:
    """Fill each split of `sizes` from its own random stream; `corrupt` is applied to the train labels."""
    seen: set[Text] = set()
    splits: dict[str, list[tuple[Text, int]]] = {}
    for split in SPLIT_ORDER:
        random = Random(f"{stream}/{split}")
        rows: list[tuple[Text, int]] = []
        while len(rows) < sizes.get(split, 0):
            text, label = write_example(random)
            # Before the check for duplicates: a text left out must not shift the stream of those that follow.
            label = corrupt(random, label) if split == "train" else label
            if text not in seen:
                seen.add(text)
                rows.append((text, label))
        splits[split] = rows
    return splits


def noisy_label(random: Random, label: int, label_noise: float) -> int:
    """Replace the label with probability `label_noise`: by a neighbour (four in five) or any other class."""
    # All three are drawn whatever the outcome, so that the texts do not depend on the noise.
    chance, kind, place = random.random(), random.random(), random.random()
    if chance >= label_noise:
        return label
    others = [other for other in range(len(LABELS)) if other != label]
    neighbours = [other for other in others if abs(other - label) == 1]
    candidates = neighbours if kind < 0.8 else others
    return candidates[int(place * len(candidates))]


def write_review(random: Random) -> tuple[str, int]:
    """Draw reviews until one has a score that is clear of the cuts; return its text and class."""
    while True:
        text, score = _draw_review(random)
        if 8 <= len(text.split()) <= 45 and min(abs(score - cut) for cut in CUTS) >= MARGIN:
            return text, sum(score > cut for cut in CUTS)


def pick(random: Random, items: Sequence[Item]) -> Item:
    """One of them. Not `random.choice`, whose draws may differ between releases of Python."""
    return items[int(random.random() * len(items))]


def _draw_review(random: Random) -> tuple[str, float]:
    """Return a review and its score, the weighted mean of its opinions."""
    product = pick(random, tuple(ASPECTS))
    things = ASPECTS[product] + SHARED_ASPECTS
    ambivalent = random.random() < 0.12
    mood = 0.0 if ambivalent else 7.0 * random.random() - 3.5
    spread = 2.4 if ambivalent else 0.8

    sentences: list[str] = []
    opinions: list[tuple[float, float]] = []  # (weight, value)
    for _ in range(1 + int(2 * random.random())):
        target = mood + spread * (random.random() + random.random() - 1.0)
        text, values = _draw_opinion(random, things, target)
        sentences.append(text)
        opinions += values
    if random.random() < 0.4:
        target = mood + spread * (random.random() + random.random() - 1.0)
        text, value = _draw_verdict(random, product, target)
        sentences.append(text)
        opinions.append((2.0, value))
    for patterns, chance in ((ELSEWHERE, 0.15), (NEUTRAL, 0.25)):
        if random.random() < chance:
            word = pick(random, WORDS[pick(random, tuple(WORDS))])
            text = pick(random, patterns).format(
                product=product,
                person=pick(random, PEOPLE),
                thing=pick(random, things),
                word=word,
                a_word=with_article(word),
                month=pick(random, MONTHS),
                number=pick(random, NUMBERS),
            )
            sentences.insert(int(random.random() * (len(sentences) + 1)), text)
    score = sum(weight * value for weight, value in opinions) / sum(weight for weight, _ in opinions)
    return " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in sentences), score


def _draw_opinion(random: Random, things: Sequence[str], target: float) -> tuple[str, list[tuple[float, float]]]:
    """Return a sentence of a value about `target`, and the (weight, value) of each opinion in it."""
    thing = pick(random, things)
    kind = random.random()
    if kind < 0.4:
        predicate, value = _draw_predicate(random, target, thing)
        return f"the {thing} was {predicate}", [(1.0, value)]
    if kind < 0.6:
        pattern, first_weight, second_weight, disagree = pick(random, PAIRS)
        other = pick(random, [other for other in things if other != thing])
        # The opinion that weighs less is the one that disagrees.
        first_target = -target if disagree and first_weight < second_weight else target
        second_target = -target if disagree and first_weight > second_weight else target
        first, first_value = _draw_predicate(random, first_target, thing)
        second, second_value = _draw_predicate(random, second_target, other)
        text = pattern.format(f"the {thing} was {first}", f"the {other} was {second}")
        return text, [(first_weight, first_value), (second_weight, second_value)]
    pattern, factor = pick(random, REMARKS)
    level = _nearest_level(target / factor)
    text = pattern.format(
        thing=thing,
        person=pick(random, PEOPLE),
        word=pick(random, WORDS[level]),
        verb=pick(random, VERBS[level]),
    )
    return text, [(1.0, factor * level)]


def _draw_verdict(random: Random, product: str, target: float) -> tuple[str, float]:
    """Return the closing sentence on the product as a whole, and its value."""
    level = _nearest_level(target)
    predicate, value = _draw_predicate(random, target, product)
    pattern = pick(random, VERDICTS)
    text = pattern.format(a_word=with_article(pick(random, WORDS[level])), product=product, predicate=predicate)
    return text, value if "{predicate}" in pattern else level


def _draw_predicate(random: Random, target: float, thing: str) -> tuple[str, float]:
    """Return what follows "was" and its value, with the sign of `target` and about its size."""
    while True:
        place = random.random() * sum(share for *_, share in PREDICATES)
        for pattern, factor, sign, share in PREDICATES:  # noqa: B007 (the row where the loop stops)
            place -= share
            if place < 0:
                break
        level = _nearest_level(target / factor)
        if sign * level >= 0:
            break
    if thing in BY_ASPECT and random.random() < 0.7:
        levels = [other for other in BY_ASPECT[thing] if other * level > 0]
        level = pick(random, levels)
        return pattern.format(pick(random, BY_ASPECT[thing][level])), factor * level
    return pattern.format(pick(random, WORDS[level])), factor * level


def _nearest_level(target: float) -> int:
    """Round to the nearest strength of a word: -3, -2, -1, 1, 2 or 3."""
    strength = min(3, max(1, round(abs(target))))
    return strength if target > 0 else -strength


def with_article(word: str) -> str:
    """`a film`, `an actor`."""
    return f"a {word}" if word[0] not in "aeiou" or word.startswith("us") else f"an {word}"
