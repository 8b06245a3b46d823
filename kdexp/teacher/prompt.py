"""What a language model is asked about a text, and the words that mean the classes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdexp.errors import UserError
from kdexp.task.tables.table import shorten

_FIELD = re.compile(r"\{(text|text_pair|classes)\}")


class Prompt:
    """A template, filled in for a text or a pair.

    `{text}` and `{text_pair}` stand for the texts, `{classes}` for the verbalizers; other braces are text.

    Args:
        template: Of the settings.
        verbalizers: In the order of the classes.
    """

    def __init__(self, template: str, verbalizers: Sequence[str]) -> None:
        self.template, self.verbalizers = template, list(verbalizers)

    @classmethod
    def of(
        cls, role: str, template: str, verbalizers: Mapping[str, str] | None, names: Sequence[str], *, is_pair: bool
    ) -> "Prompt":
        """
        Args:
            verbalizers: By class; None takes the classes' names.
            names: Of the classes.

        Raises:
            UserError: The template lacks a text, or a class its word.
        """
        found = set(_FIELD.findall(template))
        needed = {"text", "text_pair"} if is_pair else {"text"}
        if missing := sorted(needed - found):
            problem = f"does not say where the text stands: no {{{missing[0]}}} in {template!r:.80}"
            raise UserError(
                f"{role}.prompt", problem, f"write {' and '.join(f'{{{name}}}' for name in sorted(needed))}"
            )
        if "text_pair" in found and not is_pair:
            raise UserError(f"{role}.prompt", "has {text_pair}, but the task has single texts", "remove it")
        words = [_word(role, name, verbalizers, names) for name in names]
        alike = [word for word in words if words.count(word) > 1]
        if alike:
            raise UserError(f"{role}.verbalizers", f"two classes have the word '{alike[0]}'", "give each its own")
        return cls(template, words)

    def refuse_prefixes(self, role: str) -> None:
        """Refuse words of which one begins another: the beginning of an answer would not tell them apart.

        Raises:
            UserError: There are such.
        """
        words = [word.strip().casefold() for word in self.verbalizers]
        for place, word in enumerate(words):
            other = next((each for at, each in enumerate(words) if at != place and each.startswith(word)), None)
            if other is not None:
                problem = f"'{other}' begins with '{word}': an answer's beginning does not tell them apart"
                raise UserError(f"{role}.verbalizers", problem, "give words that begin differently, such as A, B, C")

    def fill(self, text: str, pair: str | None = None) -> str:
        values = {
            "text": text,
            "text_pair": pair or "",
            "classes": ", ".join(word.strip() for word in self.verbalizers),
        }
        return _FIELD.sub(lambda found: values[found[1]], self.template)


def _word(role: str, name: str, verbalizers: Mapping[str, Any] | None, names: Sequence[str]) -> str:
    if verbalizers is None:
        return name
    unknown = [given for given in verbalizers if given not in names]
    if unknown:
        raise UserError(f"{role}.verbalizers", f"no class '{unknown[0]}'", f"the classes are: {shorten(names)}")
    if name not in verbalizers:
        raise UserError(f"{role}.verbalizers", f"no word for the class '{name}'", "give one for each class")
    word = str(verbalizers[name])
    if not word.strip():
        raise UserError(f"{role}.verbalizers", f"the word for the class '{name}' is empty", "give a word")
    return word
