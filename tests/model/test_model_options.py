"""Every model of conf/model can be a teacher and a student, and says what it is."""

import re
from pathlib import Path

import pytest
import yaml

from kdexp.cli.conf_dir import CONF_DIR
from kdexp.model.families import FAMILIES

GROUPS = ("model", "teacher", "student")


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


def read(group: str, option: str) -> dict:
    return yaml.safe_load(_path(group, option).read_text(encoding="utf-8"))


def _path(group: str, option: str) -> Path:
    return CONF_DIR / group / f"{option}.yaml"


def test_every_model_is_a_teacher_and_a_student():
    assert options("model")
    others = {role: set(options(role)) - set(options("model")) for role in ("teacher", "student")}
    assert others["student"] == {"static"}
    # Teachers that are no encoder name the schema of their own.
    for option in others["teacher"]:
        assert read("teacher", option)["defaults"][0] != "/schema/teacher/encoder@_here_"
    assert all(set(options("model")) <= set(options(role)) for role in others)


def test_every_family_has_a_compact_model_of_its_name():
    for family in FAMILIES:
        assert read("model", family) == {"name": family, "family": family}


@pytest.mark.parametrize("option", options("model"))
def test_model_is_described_completely(option):
    model = read("model", option)
    assert model["name"] == option
    assert model["family"] in FAMILIES
    if option not in FAMILIES:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", model["checkpoint"])
        # null is written out: whoever adds a model has to decide.
        assert model["revision"] is None or re.fullmatch(r"[0-9a-f]{40}", model["revision"])


@pytest.mark.parametrize("option", options("model"))
def test_roles_only_refer_to_the_model(option):
    model = f"/model/{option}@_here_"
    assert read("teacher", option) == {"defaults": ["/schema/teacher/encoder@_here_", model]}
    assert read("student", option) == {"defaults": [model]}


@pytest.mark.parametrize("option", options("model"))
def test_first_line_is_the_purpose_that_help_prints(option):
    purposes = {_path(group, option).read_text(encoding="utf-8").partition("\n")[0] for group in GROUPS}
    assert len(purposes) == 1, "the same model is described in two ways"
    assert re.fullmatch(r"# \S.{5,88}", purposes.pop())


def test_unpinned_models_say_so():
    unpinned = [name for name in options("model") if "revision: null" in _path("model", name).read_text()]
    for name in unpinned:
        assert "# not pinned: " in _path("model", name).read_text()
