"""What can be set of a student."""

from dataclasses import dataclass

from kdexp.model.config import ModelConfig


@dataclass(kw_only=True)
class StudentConfig(ModelConfig):
    """A student."""
