"""Credentials in addresses: what is shown in their place, and where they are kept meanwhile."""

import os
import re

_KEPT = "KDEXP_TRACKING_URI"
_NAMES = r"[\w-]*(?:pass|pwd|token|secret|key|auth|credential|signature)[\w-]*"
# `user:pass/word@host` too: who did not encode the slash gave a password all the same. A port is none.
_USER = re.compile(r"(\w://)(?:[^/\s'\"<>]*@|[^/\s'\"<>:]+:(?!\d+(?:[/,\s]|$))[^\s'\"<>]*@)")
_QUERY = re.compile(rf"(?i)([?&;]{_NAMES}=)[^&;\s'\"]*")


def redact(text: str) -> str:
    """Replace the credentials in the URIs of a text (`http://user:password@host`, `?token=...`) by `***`."""
    return _QUERY.sub(r"\1***", _USER.sub(r"\1***@", text))


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of that name holds a secret: `MLFLOW_TRACKING_PASSWORD`, `HF_TOKEN`."""
    return re.fullmatch(_NAMES, name, re.IGNORECASE) is not None


def hide_uri(uri: str) -> str:
    """What can be shown of a URI; one with credentials is kept in the environment, which jobs inherit."""
    shown = redact(uri)
    if shown != uri:
        os.environ[_KEPT] = uri
    return shown


def reveal_uri(shown: str) -> str:
    """The URI that `hide_uri` made this of, or the same where it hid nothing."""
    kept = os.environ.get(_KEPT, "")
    return kept if kept and redact(kept) == shown else shown
