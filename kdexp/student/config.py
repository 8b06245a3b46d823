"""What can be set of a student."""

from dataclasses import dataclass

from kdexp.model.config import ModelConfig


@dataclass
class StudentConfig(ModelConfig):
    """A student."""
