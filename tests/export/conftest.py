"""Runs that export both formats, each once for all tests of exports."""

from types import SimpleNamespace

import pytest
from command_line import SMALL

from kdexp import compose, distil

FORMATS = "export=[onnx,onnx_int8]"


def run_that_exports(folder, *settings):
    """A run in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow itself sets it in its process
        # How fast they are is not looked at.
        patch.setattr("kdexp.export.speed.NUM_TEXTS", 20)
        patch.setattr("kdexp.export.speed.NUM_BATCHES", 2)
        config = compose(*SMALL, FORMATS, f"cache_dir={folder}/cache", *settings)
        return SimpleNamespace(folder=folder, config=config, record=distil(config))


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    return run_that_exports(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="session")
def exported_pairs(tmp_path_factory):
    return run_that_exports(tmp_path_factory.mktemp("pairs"), "task=inference")


@pytest.fixture(scope="session")
def exported_words(tmp_path_factory):
    """The student cannot read the last words of long texts."""
    return run_that_exports(tmp_path_factory.mktemp("words"), "task=entities", "student.max_length=20")
