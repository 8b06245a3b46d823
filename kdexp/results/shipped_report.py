"""The files that a student ships as, in blocks: whether they are still the student, how fast, and how large."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kdexp.results import wording
from kdexp.results.report import Block, Facts, TableBlock
from kdexp.results.roles import file_role
from kdexp.results.shipped import Shipped
from kdexp.results.statistics import Gain

if TYPE_CHECKING:
    from kdexp.results.record import RunRecord


def shipped_blocks(record: "RunRecord") -> list[Block]:
    """What a run measured of its exported files; nothing where it exported none."""
    import pandas as pd

    files = {name: item for name, item in record.shipped.items() if file_role(name) in record.scores}
    if not files:
        return []
    quality = pd.DataFrame([_quality(record, name, item) for name, item in files.items()])
    ordered = {name: item for name, item in record.shipped.items() if name not in files} | files
    speed = pd.DataFrame([_speed(name, item.facts) for name, item in ordered.items()])
    cpu = record.settings.get("hardware.cpu_name", "this CPU")
    instructions = record.settings.get("hardware.cpu_instructions", "")
    facts = [
        (
            "timed",
            f"the models alone, one after another in one run on {cpu} ({instructions}); ms: one text, median and 99 % "
            "quantile; texts/s: in batches of 32; memory: of a process that has this file alone",
        )
    ]
    return [TableBlock(quality, "as shipped, on test"), TableBlock(speed, "speed and size"), Facts(facts)]


def _quality(record: "RunRecord", name: str, item: Shipped) -> dict[str, str]:
    score = record.score("test", file_role(name))
    against = item.against_float32
    row = {"": name, f"test {record.metric}": "" if score is None else wording.score(score, record.metric)}
    if item.gain is not None:
        row[f"gain, {wording.points_of(record.metric)}"] = _interval(item.gain)
    row[f"against torch, {wording.points_of(record.metric)}"] = (
        "" if against is None else wording.change(100 * against.value, 100 * against.low, 100 * against.high)
    )
    row["largest logit difference"] = _number(item.facts, "largest_logit_difference", ".1e")
    return row | {"changed answers": _number(item.facts, "changed_predictions", ".2%")}


def _interval(gain: Gain) -> str:
    return f"{wording.points(100 * gain.value)} {wording.interval(100 * gain.low, 100 * gain.high)}"


def _speed(name: str, facts: Mapping[str, float]) -> dict[str, str]:
    row = {"": "student in torch" if name == "torch" else name.replace("_", " ", 1) if "teacher" in name else name}
    for suffix, title in (("", "1 thread"), ("_all_threads", "all threads")):
        p50, p99 = (_number(facts, f"{quantile}_ms{suffix}", ".2f") for quantile in ("p50", "p99"))
        row[f"ms, {title}"] = f"{p50} / {p99}"
        row[f"texts/s, {title}"] = _number(facts, f"texts_per_second{suffix}", ",.0f")
    row["size, MB"] = _number(facts, "size_mb", ".1f")
    row["memory, MB"] = _number(facts, "peak_memory_mb", ".0f")
    return row | {"loads in, ms": _number(facts, "load_ms", ".0f")}


def _number(facts: Mapping[str, float], name: str, form: str) -> str:
    return f"{facts[name]:{form}}" if name in facts else ""
