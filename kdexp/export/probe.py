"""What a file costs a process that has nothing else: run as a program of its own, without kdexp, torch or a tokenizer."""

import json
import subprocess
import sys
import time
from pathlib import Path

_NUM_LOADS = 3


def probe(file: Path, shape: tuple[int, int]) -> dict[str, float]:
    """Size on disk, the time until a file can be asked, and the memory of a process that asks it once.

    Args:
        shape: Rows and tokens of what is asked.
    """
    command = [sys.executable, "-I", __file__, str(file), *map(str, shape)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"size_mb": _size(file) / 2**20, **json.loads(output)}


def _size(file: Path) -> int:
    """With what a large graph keeps beside itself."""
    return sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))


def _main(file: str, rows: str, tokens: str) -> None:
    import resource

    import numpy as np
    import onnxruntime

    seconds = []
    for _ in range(_NUM_LOADS):
        started = time.perf_counter()
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        seconds.append(time.perf_counter() - started)
    inputs = {
        item.name: np.ones((int(rows), int(tokens)), dtype=np.int64) for item in session.get_inputs()
    }
    session.run(None, inputs)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    sys.stdout.write(json.dumps({"load_ms": sorted(seconds)[1] * 1e3, "peak_memory_mb": peak}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
