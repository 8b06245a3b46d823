"""What a settings class says of its fields."""

import typing
from dataclasses import fields, is_dataclass
from enum import EnumType
from types import UnionType
from typing import Any


def field_types(settings: Any) -> dict[str, Any]:
    """The type of every field by name; of one that may be None, the other type."""
    hints = typing.get_type_hints(settings)
    return {field.name: _without_none(hints[field.name]) for field in fields(settings)}


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def has_parts(kind: Any) -> bool:
    """Whether settings stand below it."""
    return is_dataclass(kind) or typing.get_origin(kind) is dict


def legal_values(kind: Any) -> list[str]:
    """The values of a type that has few, as a person types them; empty where it has many."""
    if kind is bool:
        return ["true", "false"]
    return list(kind.__members__) if isinstance(kind, EnumType) else []


def in_words(kind: Any) -> str:
    """What is expected of a value."""
    if isinstance(kind, EnumType):
        return f"one of {', '.join(legal_values(kind))}"
    if is_dataclass(kind):
        return "settings by name"
    words: dict[Any, str] = {
        float: "a number",
        int: "a whole number",
        bool: "true or false",
        str: "text",
        list: "a list",
        dict: "settings by name",
    }
    return words.get(typing.get_origin(kind) or kind, "another value")
