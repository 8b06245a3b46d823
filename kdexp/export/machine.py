"""On which CPU something was measured: int8 depends on its instructions as on nothing else."""

import platform
import re
from functools import lru_cache
from pathlib import Path

# What kernels choose by, in the order in which they came.
_INSTRUCTIONS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni",
    "avx512_bf16", "amx_int8", "amx_bf16", "neon", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip


@lru_cache(maxsize=1)
def cpu() -> dict[str, str]:
    """Its `name`, and the `instructions` that matter for speed."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        text = ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    there = set(flags[1].split()) if flags else set()
    return {
        "name": name[1].strip() if name else platform.processor() or platform.machine(),
        "instructions": " ".join(item for item in _INSTRUCTIONS if item in there) or "unknown",
    }
