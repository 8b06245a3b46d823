"""The Hugging Face hub: whether it answers (its clients retry for half a minute first), and what its refusals mean."""

import ssl
import time
import urllib.error
import urllib.request

from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

_PATIENCE_SECONDS = 3.0
_REMEMBERED_SECONDS = 30.0
_silent_since: dict[str, float] = {}


def is_reachable() -> bool:
    """Ask the hub for anything at all; any HTTP answer will do. False when offline mode is asked for.

    That it does not answer is remembered for half a minute: a run asks several times.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    silent_since = _silent_since.get(constants.ENDPOINT)
    if silent_since is not None and time.monotonic() - silent_since < _REMEMBERED_SECONDS:
        return False
    _silent_since.pop(constants.ENDPOINT, None)
    if _answers():
        return True
    _silent_since[constants.ENDPOINT] = time.monotonic()
    return False


def _answers() -> bool:
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        # Certificates are the business of the real client, which may have others than Python's.
        return isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False
    return True


def refusal(error: BaseException, revision: str) -> tuple[str, str] | None:
    """What the hub said no to, and what to do about it; None where it did not say.

    Args:
        revision: The setting that names one.
    """
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case GatedRepoError():
                remedy = "accept its terms on its page, and set HF_TOKEN in the environment"
                return "the hub gives it to known accounts only", remedy
            case RevisionNotFoundError():
                return "there is no such revision of it", f"check {revision}: a commit, branch or tag that it has"
            case RepositoryNotFoundError():
                remedy = "check the name; for a private one set HF_TOKEN in the environment"
                return "the hub has no such repository, or does not show it without a token", remedy
        cause = cause.__cause__ or cause.__context__
    return None
