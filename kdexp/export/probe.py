"""What a file costs a process that has nothing else: a program of its own, without kdexp, torch or a tokenizer."""

import json
import subprocess
import sys
import time
from pathlib import Path

_NUM_LOADS = 3


def probe(file: Path, rows: int, tokens: int) -> dict[str, float]:
    """Size on disk, the time until a file can be asked, and the memory of a process that asks it once.

    Args:
        rows, tokens: Of what is asked.
    """
    command = [sys.executable, "-I", __file__, str(file), str(rows), str(tokens)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"size_mb": _size(file) / 2**20, **json.loads(output)}


def _size(file: Path) -> int:
    """With what a large graph keeps beside itself."""
    return sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))


def _main(file: str, rows: str, tokens: str) -> None:
    import numpy as np
    import onnxruntime

    seconds = []
    for _ in range(_NUM_LOADS):
        started = time.perf_counter()
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        seconds.append(time.perf_counter() - started)
    inputs = {item.name: np.ones((int(rows), int(tokens)), dtype=np.int64) for item in session.get_inputs()}
    session.run(None, inputs)
    sys.stdout.write(json.dumps({"load_ms": sorted(seconds)[1] * 1e3, "peak_memory_mb": _peak_mb()}))


def _peak_mb() -> float:
    """Not as `getrusage` counts, which begins with what the parent process held when it started this one."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource  # not Linux

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


if __name__ == "__main__":
    _main(*sys.argv[1:])
