"""A logged model, fetched from the store."""

from functools import partial
from pathlib import Path

from kdexp.deadline import DOWNLOAD_SECONDS, TooLateError, within
from kdexp.errors import UserError
from kdexp.tracking.adapter import import_mlflow, quiet
from kdexp.tracking.client import told
from kdexp.tracking.secrets import redact
from kdexp.tracking.store import connect
from kdexp.tracking.uri import SETTING, check_reachable, resolve_uri


def fetch_model(model_uri: str, uri: str | None) -> Path | None:
    """The folder of a model, where it lies or downloaded; None where the store has no such model.

    Raises:
        UserError: The store cannot be used.
    """
    resolved = resolve_uri(uri)
    check_reachable(resolved)
    import_mlflow()
    import mlflow
    from mlflow.exceptions import MlflowException

    connect(resolved)
    with told(resolved), quiet("mlflow"):
        mlflow.set_tracking_uri(resolved)
        try:
            return Path(within(DOWNLOAD_SECONDS, partial(mlflow.artifacts.download_artifacts, artifact_uri=model_uri)))
        except TooLateError as error:
            raise UserError(SETTING, f"{redact(resolved)} does not send {model_uri} ({error})", "try again") from None
        except (MlflowException, OSError):
            return None
