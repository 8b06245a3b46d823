"""matplotlib says nothing about where it keeps its fonts."""

import os
import subprocess
import sys

import pytest

CODE = """
import logging
logging.basicConfig(level="INFO")
from kdexp.results.figures import curves_figure
import io
curves_figure({"a": [(0, 1.0), (1, 2.0)]}, "accuracy").savefig(io.BytesIO())
"""


@pytest.mark.parametrize("variables", [["HOME"], ["XDG_CONFIG_HOME", "XDG_CACHE_HOME"], ["MPLCONFIGDIR"]])
def test_a_figure_is_drawn_in_silence_where_nothing_can_be_kept(variables, tmp_path):
    (tmp_path / "file").touch()  # below a file nobody can write, root neither
    nowhere = {name: str(tmp_path / "file" / "folder") for name in variables}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPL"))}
    result = subprocess.run(
        [sys.executable, "-c", CODE], env=kept | nowhere, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
