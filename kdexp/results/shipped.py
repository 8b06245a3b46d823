"""What a run found of the files that its student ships as."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdexp.results.statistics import Gain

_PREFIX = "export/"
# What `export/<name>/` holds beside the metrics by split and the two intervals.
_FACTS = (
    "largest_logit_difference",
    "changed_predictions",
    "p50_ms",
    "p99_ms",
    "texts_per_second",
    "p50_ms_all_threads",
    "p99_ms_all_threads",
    "texts_per_second_all_threads",
    "size_mb",
    "load_ms",
    "peak_memory_mb",
)


@dataclass(frozen=True)
class Shipped:
    """One exported file; or `torch`, the student as it was trained, and a teacher, of which only the speed is known.

    Attributes:
        gain: The file minus the baseline, on test; None without a baseline.
        against_float32: The file minus the student as it was trained, on test.
        facts: Numbers by name: how far it answers as torch does, how fast, how large.
    """

    gain: Gain | None = None
    against_float32: Gain | None = None
    facts: Mapping[str, float] = field(default_factory=dict)


def shipped_metrics(shipped: Mapping[str, Shipped]) -> dict[str, float]:
    """All of it under MLflow's names: `export/onnx/p50_ms`."""
    metrics: dict[str, float] = {}
    for name, item in shipped.items():
        for interval, found in (("gain", item.gain), ("against_float32", item.against_float32)):
            if found is not None:
                metrics |= {
                    f"{_PREFIX}{name}/{interval}": found.value,
                    f"{_PREFIX}{name}/{interval}_low": found.low,
                    f"{_PREFIX}{name}/{interval}_high": found.high,
                }
        metrics |= {f"{_PREFIX}{name}/{fact}": value for fact, value in item.facts.items()}
    return metrics


def stored_shipped(metrics: Mapping[str, float]) -> dict[str, Shipped]:
    """Read it back."""
    values: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        if key.startswith(_PREFIX) and key.count("/") == 2:
            _, name, fact = key.split("/")
            values.setdefault(name, {})[fact] = value
    return {name: _read(found) for name, found in values.items()}


def _read(found: Mapping[str, float]) -> Shipped:
    def interval(name: str) -> Gain | None:
        return Gain(found[name], found[f"{name}_low"], found[f"{name}_high"]) if name in found else None

    facts = {name: found[name] for name in _FACTS if name in found}
    return Shipped(interval("gain"), interval("against_float32"), facts)
