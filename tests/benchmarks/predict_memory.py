"""Memory of `kdexp predict` with 1,000 and with 100,000 texts: anonymous memory at its highest, and seconds.

python tests/benchmarks/predict_memory.py <run id | folder | model uri>    # in the folder of the run's store
"""

import csv
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

WORDS = ["the", "phone", "is", "good", "but", "its", "screen", "broke", "after", "a", "week", "of", "use"]


def write_texts(path: Path, number: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        for row in range(number):
            writer.writerow([row, " ".join(WORDS[(row * 7 + place) % len(WORDS)] for place in range(5 + row % 20))])


def measure(student: str, folder: Path, number: int) -> tuple[float, float]:
    """Megabytes of RssAnon at their highest, and seconds."""
    texts, out = folder / f"{number}.csv", folder / f"{number}.out.csv"
    write_texts(texts, number)
    started, most = time.monotonic(), 0
    command = [sys.executable, "-m", "kdexp", "predict", student, str(texts), "--out", str(out)]
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
            most = max([most, *map(int, found)])
            time.sleep(0.05)
    assert process.returncode == 0
    assert sum(1 for _ in out.open()) == number + 1
    return most / 1024, time.monotonic() - started


def main(student: str) -> None:
    with TemporaryDirectory() as folder:
        few, many = (measure(student, Path(folder), number) for number in (1_000, 100_000))
    sys.stdout.write(
        f"1,000 texts: {few[0]:.0f} MB, {few[1]:.0f} s; 100,000 texts: {many[0]:.0f} MB, {many[1]:.0f} s\n"
    )
    if many[0] > few[0] + 50:
        sys.exit("100,000 texts take more than 50 MB more")


if __name__ == "__main__":
    main(sys.argv[1])
