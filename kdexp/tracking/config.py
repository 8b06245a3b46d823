"""What can be set of tracking."""

from dataclasses import dataclass


@dataclass
class TrackingConfig:
    enabled: bool = True
    uri: str | None = None
    log_model: bool = True
