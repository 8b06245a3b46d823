"""What kdexp uses of Hydra that Hydra does not document. A test of each fails when a release moves it."""

import logging
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from hydra.version import VersionBase, setbase
from omegaconf import DictConfig

VERSION_BASE = "1.3"


def compose(config_dir: Path, config_name: str, overrides: Sequence[str]) -> DictConfig:
    """What `hydra.compose` returns, with Hydra's own settings under `hydra`, and no global state changed.

    `hydra.initialize_config_dir` is refused inside of another `hydra.initialize`, and changes the version base of the
    whole process.
    """
    version = VersionBase.instance()
    before = version.version_base
    try:
        setbase(VERSION_BASE)
        loader = ConfigLoaderImpl(create_config_search_path(str(config_dir)))
        return loader.load_configuration(config_name, list(overrides), RunMode.RUN, from_shell=False)
    finally:
        version.version_base = before


def share_types() -> None:
    """Let all compositions read one store of types, which each would copy whole; what they take of it is a copy."""
    ConfigStore.__deepcopy__ = lambda store, memo: store


def register_sweeper(sweeper: type[Sweeper], module: str) -> None:
    """Let Hydra find a sweeper that lies in this package.

    Hydra instantiates only what is called `hydra_plugins.<...>`, by which it means installed plugins, and looks the
    name up as a module: the class gets that name, and so does the module that it lies in.

    Args:
        module: `hydra_plugins.<name>`.
    """
    if module not in sys.modules:
        if find_spec("hydra_plugins") is None:  # no plugin is installed
            sys.modules["hydra_plugins"] = namespace = ModuleType("hydra_plugins")
            namespace.__path__ = []
        sys.modules[module] = sys.modules[sweeper.__module__]
        sweeper.__module__ = module
    Plugins.instance().register(sweeper)


@contextmanager
def first_of_swept(groups: Collection[str]) -> Iterator[None]:
    """Let Hydra compose what all jobs of a sweep have in common with the first of the options that a group varies.

    It takes the group's default, which need not have the settings that all of these options have.
    """
    made = config_loader_impl.create_defaults_list

    def create_defaults_list(overrides_list: list[Override], **named: Any) -> Any:
        chosen = [
            first_option(override) if override.key_or_group in groups else override for override in overrides_list
        ]
        return made(overrides_list=chosen, **named)

    config_loader_impl.create_defaults_list = create_defaults_list
    try:
        yield
    finally:
        config_loader_impl.create_defaults_list = made


@contextmanager
def mode_of_flags() -> Iterator[None]:
    """Let the flags alone say whether a command is one run or many.

    Hydra composes all of it a first time to see whether the config says so.
    """
    asked = Hydra.get_mode
    Hydra.get_mode = lambda self, config_name, overrides: None
    try:
        yield
    finally:
        Hydra.get_mode = asked


def first_option(override: Override) -> Override:
    """The same group with the first of the options that it varies."""
    if not override.is_sweep_override() or not override.is_discrete_sweep():
        return override
    first = next(iter(override.sweep_string_iterator()), None)
    if first is None:
        return override
    return OverridesParser.create().parse_override(f"{override.get_key_element()}={first}")


def returned(job: JobReturn) -> Any:
    """What a job returned, or the exception that it raised; `JobReturn.return_value` would raise it."""
    return job._return_value


def is_sequential(launcher: Launcher) -> bool:
    """Whether it is Hydra's own launcher, which runs jobs in this process, one after the other."""
    return type(launcher).__name__ == "BasicLauncher"


@contextmanager
def one_job_at_a_time(launcher: Launcher) -> Iterator[None]:
    """Keep Hydra's own launcher from saying "Launching 1 jobs locally" before each job."""
    logger = logging.getLogger(type(launcher).__module__)

    def is_wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Launching ")

    logger.addFilter(is_wanted)
    try:
        yield
    finally:
        logger.removeFilter(is_wanted)
