"""Hydra's folder of a command: what it is called, and that a refused command leaves none."""

import os
import re
import shutil
from pathlib import Path

from omegaconf import OmegaConf

_MAX_CHARACTERS = 100


def folder_name(study: object) -> str:
    """A study's name as the name of one folder: none that leads elsewhere, whatever a person calls a study."""
    name = re.sub(r"[^\w.,+= -]", "_", str(study)).strip(". ")
    return name[:_MAX_CHARACTERS] or "study"


def study_name(default: str) -> str:
    """The experiment that MLflow's own environment names, or else a default."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or default


def register_resolvers() -> None:
    """Let configuration files say `${kdexp.study:distillation}` and `${kdexp.folder:${study}}`."""
    OmegaConf.register_new_resolver("kdexp.study", study_name, replace=True)
    OmegaConf.register_new_resolver("kdexp.folder", folder_name, replace=True)


def discard(folder: Path) -> None:
    """Remove what Hydra wrote of a command that was refused: its settings and its log, if there is nothing else.

    Folders above it go too where they are left empty and lie in the working folder.
    """
    if not folder.is_dir() or any(not _is_hydras(path.relative_to(folder)) for path in folder.rglob("*")):
        return
    here = Path.cwd()
    shutil.rmtree(folder, ignore_errors=True)
    for parent in folder.absolute().parents:
        if here not in parent.parents or any(parent.iterdir()):
            return
        parent.rmdir()


def _is_hydras(path: Path) -> bool:
    if path.parts[0] == ".hydra":
        return len(path.parts) == 1 or (len(path.parts) == 2 and path.suffix == ".yaml")
    return path.as_posix() in ("kdexp.log", "multirun.yaml")
