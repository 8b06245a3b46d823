"""Where conf/ lies. Apart from the schemas, so that the help screen need not import Hydra."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "conf"  # a wheel ships conf/ inside the package
CONF_DIR = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "conf"
