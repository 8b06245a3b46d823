"""What can be set of tracking."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class TrackingConfig:
    """Where a run is logged.

    Attributes:
        uri: MLflow's tracking URI; None is sqlite:///mlflow.db in the working folder, as plain `mlflow ui` opens it.
        log_model: Whether the student is kept as an MLflow model.
        log_text: Whether texts of the task stand beside the predictions, and as examples beside the student.
    """

    enabled: bool = True
    uri: str | None = None
    log_model: bool = True
    log_text: bool = True
