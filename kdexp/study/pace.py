"""How far a sweep is, and how long the rest will take."""

import statistics
from collections.abc import Sequence


def progress_line(place: int, num_jobs: int, seconds: Sequence[float]) -> str:
    """`job 3 of 8, about 4 min left`.

    Args:
        place: From 1.
        seconds: What the finished jobs took, in their order. The first one computes what all share, so that it counts
            only as long as nothing else is known.
    """
    line = f"job {place} of {num_jobs}"
    if not seconds:
        return line
    seconds_per_job = statistics.median(seconds[1:] or seconds)
    return f"{line}, about {duration((num_jobs - place + 1) * seconds_per_job)} left"


def duration(seconds: float) -> str:
    """`40 s`, `4 min`, `2 h 10 min`"""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
