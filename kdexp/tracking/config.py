"""What can be set of tracking."""

import re
from dataclasses import dataclass

from kdexp.errors import UserError
from kdexp.ranges import Checked, later

_MAX_CHARACTERS = 200  # MLflow takes 256; that of a file is longer than the student's


@dataclass(kw_only=True)
class TrackingConfig(Checked):
    """Where a run is logged.

    Attributes:
        uri: MLflow's tracking URI; None is sqlite:///mlflow.db in the working folder, as plain `mlflow ui` opens it.
        log_model: Whether the student is kept as an MLflow model.
        log_text: Whether texts of the task stand beside the predictions, and as examples beside the student.
        register: The name under which the student becomes a version in MLflow's model registry; None registers
            nothing. A file is registered as `<name>_<format>`.
    """

    enabled: bool = True
    uri: str | None = None
    log_model: bool = True
    log_text: bool = True
    register: str | None = later(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.register is None:
            return
        # MLflow refuses / and :, and what reads as a path; a quote would end its filters.
        if not re.fullmatch(r"\w([\w .-]*\w)?", self.register) or len(self.register) > _MAX_CHARACTERS:
            expected = f"expected at most {_MAX_CHARACTERS} letters, digits, '-', '_', '.' and blanks"
            raise UserError("register", f"got {self.register!r}", expected)
        if not (self.enabled and self.log_model):
            cause = "nothing is tracked" if not self.enabled else "log_model is false"
            remedy = "choose tracking=mlflow" if not self.enabled else "add tracking.log_model=true"
            raise UserError("register", f"got {self.register}, but {cause}", f"leave it out, or {remedy}")
