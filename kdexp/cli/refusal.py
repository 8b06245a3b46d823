"""How a person's mistake is told."""

import sys
from typing import NoReturn

USAGE_ERROR = 2


def refuse(message: str) -> NoReturn:
    """Tell a person's mistake, once for all processes of a training, and exit."""
    from kdexp.processes import Processes

    if Processes.current().is_main:
        sys.stderr.write(f"error: {message}\n")
    sys.exit(USAGE_ERROR)
