"""What runs found, and how it is shown. One reporting stack; it knows no study."""

import logging

# Before anything here imports it: it tells of its font cache, and of another place for that where HOME is read-only.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
