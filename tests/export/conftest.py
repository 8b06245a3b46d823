"""A run that exports both formats, once for all tests of exports."""

from types import SimpleNamespace

import pytest
from command_line import SMALL

from kdexp import compose, distil


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        # How fast they are is not looked at.
        patch.setattr("kdexp.export.speed.NUM_TEXTS", 20)
        patch.setattr("kdexp.export.speed.NUM_BATCHES", 2)
        config = compose(*SMALL, "export=[onnx,onnx_int8]", f"cache_dir={folder}/cache")
        yield SimpleNamespace(folder=folder, config=config, record=distil(config))
