"""A logged model, fetched from the store."""

from pathlib import Path

from kdexp.tracking.adapter import import_mlflow, quiet
from kdexp.tracking.client import told
from kdexp.tracking.store import connect
from kdexp.tracking.uri import check_reachable, resolve_uri


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
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=model_uri))
        except (MlflowException, OSError):
            return None
