"""What a run found of the files that its student ships as."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdexp.results.metric_names import gain_metrics, stored_gain
from kdexp.results.roles import file_name, file_role
from kdexp.results.statistics import Gain

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
                metrics |= gain_metrics(f"{file_role(name)}/{interval}", found)
        metrics |= {f"{file_role(name)}/{fact}": value for fact, value in item.facts.items()}
    return metrics


def stored_shipped(metrics: Mapping[str, float]) -> dict[str, Shipped]:
    """Read it back."""
    values: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        role, _, fact = key.rpartition("/")
        name = file_name(role)
        if name and "/" not in name:  # what has one more part is its score on a split
            values.setdefault(name, {})[fact] = value
    return {name: _read(found) for name, found in values.items()}


def _read(found: Mapping[str, float]) -> Shipped:
    facts = {name: found[name] for name in _FACTS if name in found}
    return Shipped(stored_gain(found, "gain"), stored_gain(found, "against_float32"), facts)
