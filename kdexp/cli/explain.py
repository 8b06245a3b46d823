"""One line for what Hydra and OmegaConf refuse: what, got, and the legal choices."""

import re
import shlex
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any

from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from kdexp.cli.help import GROUPS, options
from kdexp.cli.parts import PARTS, by_name, explain_part
from kdexp.cli.schema import field_types, in_words
from kdexp.cli.suggest import INTERNAL, did_you_mean, known_settings, meant_setting
from kdexp.errors import UserError

_RENAMED = {"train.keep": "train.select=best"}
"""Settings of earlier versions, also below `teacher`, and what they are now."""


def explain(error: BaseException) -> UserError:
    """A refused composition in the words of kdexp's own errors."""
    if isinstance(error, MissingConfigException) and "/" in str(error.missing_cfg_file):
        return _unknown_option(error)
    if isinstance(error, OverrideParseException):
        return _unreadable_word(error.override)
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, OmegaConfBaseException):
        return _explain_setting(cause)
    message = " ".join(str(error).split())
    if isinstance(error, ConfigCompositionException) and cause is not None:
        message = f"{message} {' '.join(str(cause).split())}"
    for parts in PARTS:
        in_file = re.search(rf"full_key: {parts.path}\.(\w+).* object_type={parts.kind.__name__}", message)
        if in_file:
            return parts.undeclared(in_file.group(1))
    if "Could not override" in message and "No match in the defaults list" in message:
        found = re.search(r"override '?([\w/@.]+)'?", message)
        name = found.group(1) if found else "override"
        return UserError(name, "no such group", f"expected one of {', '.join(GROUPS)}{did_you_mean(name, GROUPS)}")
    several = re.search(r"Ambiguous value for argument '([^=]+)=(.*?)' 1\.", message)
    if several:
        setting, values = several.groups()
        remedy = (
            f"compare them with -m (--multirun), or write {setting}=[{values}] for a list, "
            f"or {quoted(setting, values)} for one value"
        )
        return UserError(setting, f"got several values, {values}", remedy)
    return _in_other_words(message) or UserError("command line", message, "see python -m kdexp --help")


def _in_other_words(message: str) -> UserError | None:
    """What Hydra and OmegaConf say in words of their own."""
    if found := re.search(r"Could not delete from config\. '([\w./@]+)' does not exist", message):
        name = found[1]
        if name in known_settings():
            return UserError(f"~{name}", "has nothing to remove", f"set it with {name}=<value>, or leave it out")
        return UserError(f"~{name}", "no such setting", f"see --cfg job{meant_setting(name, known_settings(), '')}")
    if found := re.search(r"Could not append to config\. An item is already at '([\w./@]+)'", message):
        return UserError(f"+{found[1]}", "is a setting already", f"write it without +: {found[1]}=<value>")
    if found := re.search(r"Cannot find primary config '([^']*)'", message):
        return UserError("--config-name", f"no file {found[1]}.yaml", "leave it out: conf/config.yaml is used")
    if found := re.search(r"Environment variable '(\w+)' not found", message):
        remedy = f"set it, or give a default: ${{oc.env:{found[1]},<default>}}"
        return UserError(f"${{oc.env:{found[1]}}}", f"the environment variable {found[1]} is not set", remedy)
    if found := re.search(r"Interpolation key '([^']*)' not found", message):
        problem = "refers to no setting"
        return UserError(f"${{{found[1]}}}", problem, f"see --cfg job{meant_setting(found[1], known_settings(), '')}")
    if found := re.search(r"Unsupported interpolation type (\S+)", message):
        return UserError(f"${{{found[1]}:...}}", "no such resolver", "expected ${oc.env:<variable>} or ${<setting>}")
    return None


def _unreadable_word(word: str) -> UserError:
    """A word of the command line that is not in Hydra's grammar, and how its value has to be quoted."""
    setting, equals, value = word.partition("=")
    if not equals or not setting.strip():
        return UserError("command line", f"got {word!r}", "expected setting=value, such as seed=1")
    if value.startswith("[") and "]" not in value:
        return UserError(setting, f"cannot read {value}", f"close the bracket: {shlex.quote(f'{setting}=[a,b]')}")
    remedy = f"write it with both kinds of quotes: {quoted(setting, value)}"
    return UserError(setting, f"cannot read {value} without quotes", remedy)


def quoted(setting: str, value: str) -> str:
    """An override as a shell, and then Hydra, takes it literally; of a list, each of its elements."""
    if value.startswith("[") and value.endswith("]"):
        elements = ",".join(_literal(element.strip()) for element in value[1:-1].split(","))
        return shlex.quote(f"{setting}=[{elements}]")
    return shlex.quote(f"{setting}={_literal(value)}")


def _literal(value: str) -> str:
    """In Hydra's double quotes, in which a backslash counts only before a quote."""
    if value[:1] in ("'", '"'):  # one that was never closed, or closed too early
        value = value.strip(value[0])
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    num_last = len(escaped) - len(escaped.rstrip("\\"))
    return f'"{escaped}{num_last * chr(92)}"'


def unknown_setting(setting: str, known: Iterable[str]) -> UserError:
    """Of a setting that is not there: what to use in its place."""
    for old_name, new_name in _RENAMED.items():
        if f".{setting}".endswith(f".{old_name}"):
            return UserError(setting, "was renamed", f"use {new_name}")
    known = [name for name in known if name not in INTERNAL]
    prefix, dot, name = setting.rpartition(".")
    expected = f"expected one of {', '.join(known)}" if known else "there is nothing to set"
    remedy = f"{expected}{meant_setting(name, known, prefix + dot)}"
    return UserError(setting, "no such setting", remedy)


def _unknown_option(error: MissingConfigException) -> UserError:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    # Hydra does not say what there is where a list of options was asked for.
    choices = error.options or list(options(group))
    choices = [name for name in choices if name != "default"] or choices
    remedy = f"expected one of {', '.join(choices)}{did_you_mean(option, choices)}"
    return UserError(f"{group}={option}", "no such option", remedy)


def _explain_setting(error: OmegaConfBaseException) -> UserError:
    setting = error.full_key or str(error.key)
    if refusal := explain_part(setting, error):
        return refusal
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        return unknown_setting(setting, _siblings(error))
    if isinstance(error, ValidationError):
        expected = by_name(setting) or in_words(_type_of(error))
        return UserError(setting, _refused_value(str(error.msg)), f"expected {expected}")
    message = " ".join(str(error.msg or error).split())
    if "Cannot merge DictConfig with ListConfig" in message:
        expected = by_name(setting) or "settings by name"
        return UserError(setting, "got a list", f"expected {expected}")
    return _in_other_words(message) or UserError(setting, message, "see python -m kdexp --help")


def _siblings(error: OmegaConfBaseException) -> list[str]:
    """What could have been set in place of a key that is not there."""
    schema: Any = error.object_type
    if isinstance(schema, type) and is_dataclass(schema):
        return [item.name for item in fields(schema)]
    if error.parent_node is not None and OmegaConf.is_dict(error.parent_node):
        return [str(key) for key in error.parent_node]
    return ["the settings that --cfg job shows"]


def _refused_value(message: str) -> str:
    """What a person gave, from OmegaConf's sentence on it; of a value of a wrong kind it names the kind alone."""
    value = re.search(r"[Vv]alue '(.*?)'", message, re.DOTALL)
    kind = re.search(r"(?:assigned:|Cannot assign) (\w+) ", message)
    if value:
        return f"got {value.group(1)!r}"
    return f"got a value of type {kind.group(1)}" if kind else "got null"


def _type_of(error: OmegaConfBaseException) -> Any:
    """The type of the refused setting, as the class that holds it says."""
    holder: Any = error.object_type
    known = field_types(holder) if isinstance(holder, type) and is_dataclass(holder) else {}
    return known.get(str(error.key), error.ref_type)
