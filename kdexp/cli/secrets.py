"""Passwords and tokens are taken off the command line before Hydra writes it down.

Hydra prints every job's overrides and keeps them in `.hydra/*.yaml`, and launchers pickle them. What a person gives
with a password is therefore kept in the environment of this process, which its jobs inherit, and everybody else sees
`***`.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from kdexp.tracking.secrets import hide_uri, is_secret_name, redact

_URI = re.compile(r"(\+{0,2}tracking\.uri=)(['\"]?)(.*?)\2", re.DOTALL)
_ADDRESS = re.compile(r"(\+{0,2}(?:teacher|more_teachers\.\w+)\.url=)(.*)", re.DOTALL)
_ENVIRONMENT = re.compile(r"\+{0,2}hydra\.job\.env_set\.(\w+)=(['\"]?)(.*?)\2", re.DOTALL)
_COPIES = re.compile(r"(\+{0,2}hydra\.job\.env_copy=)\[(.*)\]", re.DOTALL)


def hide_secrets(arguments: Sequence[str]) -> list[str]:
    """The arguments without passwords; what they stood for is set in the environment."""
    shown = []
    for argument in arguments:
        if uri := _URI.fullmatch(argument):
            name, quote, value = uri.groups()
            shown.append(f"{name}{quote}{hide_uri(value)}{quote}")
        elif address := _ADDRESS.fullmatch(argument):  # refused, but not before Hydra has written it down
            shown.append(address[1] + redact(address[2]))
        elif (setting := _ENVIRONMENT.fullmatch(argument)) and _is_secret(setting[1], setting[3]):
            os.environ[setting[1]] = setting[3]
        elif copies := _COPIES.fullmatch(argument):
            names = [name.strip() for name in copies[2].split(",")]
            kept = [name for name in names if not _is_secret(name, os.environ.get(name, ""))]
            shown.append(f"{copies[1]}[{','.join(kept)}]")
        else:
            shown.append(argument)
    return shown


def _is_secret(name: str, value: str) -> bool:
    return is_secret_name(name) or redact(value) != value


class HideSecrets(Callback):
    """The same for what configuration files say, before Hydra writes the composed config down."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        hide_in_config(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        hide_in_config(config)


def hide_in_config(config: DictConfig) -> None:
    """Replace what is secret in a composed config."""
    raw = OmegaConf.to_container(config.tracking, resolve=False)
    uri = raw.get("uri") if isinstance(raw, dict) else None
    if isinstance(uri, str) and redact(uri) != uri:
        config.tracking.uri = hide_uri(uri)
    settings = OmegaConf.to_container(config.hydra.job.env_set, resolve=False)
    assert isinstance(settings, dict)
    with open_dict(config):
        for name, value in settings.items():
            if _is_secret(str(name), str(value)):
                os.environ[str(name)] = str(value)
                del config.hydra.job.env_set[name]
