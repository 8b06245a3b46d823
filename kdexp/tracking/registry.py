"""MLflow's model registry: students under a name of a person's choice, version after version."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kdexp.errors import UserError
from kdexp.tracking.adapter import version_tags
from kdexp.tracking.secrets import redact
from kdexp.tracking.store import connect, shorten
from kdexp.tracking.uri import reason, resolve_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

logger = logging.getLogger(__name__)

SETTING = "tracking.register"
_MAX_DESCRIPTION_CHARACTERS = 5000  # MLflow's limit
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Stores that always have a registry: MLflow makes its tables with the others."""


@dataclass(frozen=True)
class Registration:
    """What a student is registered as.

    Attributes:
        about: Of the name, where it is new.
        description, tags: Of the version.
    """

    name: str
    about: str
    description: str
    tags: Mapping[str, str] = field(default_factory=dict)


def check_registry(uri: str | None, name: str) -> None:
    """Refuse a store that registers nothing, before anything is trained.

    Raises:
        UserError: It has no registry, or lets us not ask it.
    """
    resolved = resolve_uri(uri)
    if resolved.partition(":")[0].partition("+")[0] in _DATABASES:
        return
    client = connect(resolved)
    from mlflow.exceptions import MlflowException

    try:
        client.search_registered_models(filter_string=f"name = '{name}'", max_results=1)
    except MlflowException as error:
        problem = f"got {name}, but {redact(resolved)} has no model registry ({reason(error)})"
        raise UserError(SETTING, problem, "leave it out, or name another store in tracking.uri") from None


def register(client: "MlflowClient", registration: Registration, logged: "LoggedModel") -> None:
    """Make a logged model the next version of a registered one.

    Done again it changes nothing: a model becomes one version of a name.

    Raises:
        MlflowException: The store does not take it.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(registration.name, description=registration.about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = client.search_model_versions(f"name = '{registration.name}' and run_id = '{logged.source_run_id}'")
    if any(version.source == logged.artifact_location for version in known):
        return
    version = client.create_model_version(
        registration.name,
        logged.artifact_location,
        run_id=logged.source_run_id,
        tags=dict(registration.tags),
        description=shorten(registration.description, _MAX_DESCRIPTION_CHARACTERS),
        model_id=logged.model_id,
    )
    client.set_logged_model_tags(logged.model_id, version_tags(registration.name, version.version))
    logger.info("registered: models:/%s/%s", registration.name, version.version)
