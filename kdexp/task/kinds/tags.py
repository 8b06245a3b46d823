"""Tags of words as files hold them, and the entities that they spell.

Four ways of writing are read: BIO (IOB2), IOB1 (where `B-` only parts neighbours of one type), BIOES (and BILOU, which
says `L` and `U` for `E` and `S`), and plain tags, such as parts of speech or entity types without a prefix.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

OUTSIDE = "O"

_PREFIXED = re.compile(r"([BIESLU])-(.+)")
_BEGINS, _ENDS = frozenset("BSU"), frozenset("ESLU")


class Scheme(StrEnum):
    """How tags spell entities."""

    bio = "BIO"
    bioes = "BIOES"
    plain = "plain"


def scheme_of(names: Iterable[str]) -> Scheme:
    """How a set of tags spells entities."""
    inside = [_PREFIXED.fullmatch(name) for name in names if name != OUTSIDE]
    if not inside or not all(inside):
        return Scheme.plain
    prefixes = {match[1] for match in inside if match}
    return Scheme.bio if prefixes <= {"B", "I"} else Scheme.bioes


def ordered_tags(tags: Iterable[str]) -> list[str]:
    """`O` first, then by type; of BIO both tags of every type, though a small file may lack one."""
    found = set(tags)
    if scheme_of(found) == Scheme.bio:
        found |= {f"{prefix}-{tag[2:]}" for tag in found - {OUTSIDE} for prefix in "BI"}
        return sorted(found, key=lambda tag: (tag != OUTSIDE, tag[2:], tag))
    return sorted(found, key=lambda tag: (tag != OUTSIDE, tag))


def with_beginnings(tags: Sequence[str]) -> list[str]:
    """A row of BIO or IOB1 tags in which every entity begins with `B-`."""
    return [
        f"B-{tag[2:]}" if tag[:2] == "I-" and _other_type(before, tag) else tag
        for before, tag in zip([OUTSIDE, *tags], tags, strict=False)
    ]


def _other_type(before: str, tag: str) -> bool:
    return before == OUTSIDE or before[2:] != tag[2:]


@dataclass(frozen=True)
class Beginnings:
    """How the entities of a BIO or IOB1 column begin.

    Attributes:
        counts: `B` and `I`, where no entity of the same type stands before: there the two ways of writing differ.
        first: Row and word of the first `I-`, counted from 0; None where there is none.
    """

    counts: Counter[str]
    first: tuple[int, int] | None

    @classmethod
    def of(cls, rows: Iterable[Sequence[str]]) -> "Beginnings":
        counts: Counter[str] = Counter()
        first = None
        for row, tags in enumerate(rows):
            for place, (before, tag) in enumerate(zip([OUTSIDE, *tags], tags, strict=False)):
                if tag != OUTSIDE and _other_type(before, tag):
                    counts[tag[0]] += 1
                    first = (row, place) if first is None and tag[0] == "I" else first
        return cls(counts, first)

    @property
    def is_iob1(self) -> bool:
        return self.counts["I"] > 0 and not self.counts["B"]


def as_bio(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """The same entities as BIO spells them, whatever is strange about the tags of a row.

    An `I-` that nothing of its type precedes begins an entity, as conlleval reads it. Of plain tags, neighbours that
    are equal are one entity.
    """
    match scheme:
        case Scheme.bio:
            return list(tags)
        case Scheme.bioes:
            return list(_from_bioes(tags))
        case Scheme.plain:
            return [
                tag if tag == OUTSIDE else f"{'I' if tag == before else 'B'}-{tag}"
                for before, tag in zip([OUTSIDE, *tags], tags, strict=False)
            ]


def _from_bioes(tags: Sequence[str]) -> Iterator[str]:
    before = OUTSIDE
    for tag in tags:
        begins = tag[0] in _BEGINS or before[0] in _ENDS or before[2:] != tag[2:]
        yield tag if tag == OUTSIDE else f"{'B' if begins else 'I'}-{tag[2:]}"
        before = tag
