"""The optional packages that an export needs."""

from collections.abc import Collection
from importlib.util import find_spec

from kdexp.errors import UserError

PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def refuse_missing_packages(formats: Collection[str]) -> None:
    """Refuse an export, before anything is trained, that this installation cannot do.

    Raises:
        UserError: With the command that installs what is missing.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if formats and missing:
        raise UserError("export", f"needs {', '.join(missing)}", "pip install 'kdexp[export]'")
