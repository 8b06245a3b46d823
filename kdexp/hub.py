"""Whether the Hugging Face hub answers: without a network its clients retry for half a minute first."""

import ssl
import urllib.error
import urllib.request

from huggingface_hub import constants


def is_reachable() -> bool:
    """Ask the hub for anything at all; any HTTP answer will do. False when offline mode is asked for."""
    if constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=constants.HF_HUB_ETAG_TIMEOUT).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        # Certificates are the business of the real client, which may have others than Python's.
        return isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False
    return True
