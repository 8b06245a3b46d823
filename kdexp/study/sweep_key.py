"""What a sweep is known by: what its jobs have in common, in settings, files and libraries.

The same command, one with other values of the same settings, and one that varies only some of them continue a sweep.
Where a file has changed, or a library, what was found before is about something else: a new sweep begins.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from kdexp.config import Config, dotted, flatten
from kdexp.fingerprint import library_versions
from kdexp.identity import input_digests
from kdexp.ranges import established
from kdexp.tracking.store import StoredRun, Study, date_of

logger = logging.getLogger(__name__)

_IRRELEVANT = (
    "tracking.",
    "hardware.num_",
    "cache_dir",
    "resume",
    "parent_run",
    "trial",
    "varied",
    "families",
    "cross_family.",
    "few_labels.",
    "candidates",
    "budget.",
)


@dataclass(frozen=True)
class SweepKey:
    """What the jobs of a sweep have in common.

    Attributes:
        kind: `grid`, `search`, `cross_family`, `few_labels` or `choose_student`.
        swept: Settings that the sweep varies.
        settings: Digest of the others.
        digest: The same, with the content of files and the versions of libraries.
    """

    kind: str
    swept: tuple[str, ...]
    settings: str
    digest: str

    @classmethod
    def of(cls, base: Config, swept: Sequence[str], kind: str) -> "SweepKey":
        """
        Args:
            base: Any of its jobs.
        """

        def is_swept(name: str) -> bool:
            return any(name == setting or name.startswith(f"{setting}.") for setting in swept)

        common = {
            name: value
            for name, value in dotted(established(base)).items()
            if not is_swept(name) and not name.startswith(_IRRELEVANT)
        }
        if kind == "few_labels":
            common |= _pool(base)
        files = {name: digests for name, digests in input_digests(base).items() if not is_swept(name)}
        settings = [kind, common, sorted(swept)]
        return cls(kind, tuple(swept), _digest(settings), _digest([*settings, files, library_versions()]))

    @property
    def tags(self) -> dict[str, str]:
        """Of the sweep's own run."""
        return {
            "kdexp.sweep_key": self.digest,
            "kdexp.sweep_settings": self.settings,
            "kdexp.sweep_kind": self.kind,
            "kdexp.swept": ",".join(self.swept),
        }


def _pool(base: Config) -> dict[str, object]:
    """What the rungs of a ladder share though each sets it: all their rows, and how the labelled ones are drawn."""
    values = flatten(base)
    pool: dict[str, object] = {}
    if "task.transfer_size" in values:
        pool["rows"] = int(values["task.train_size"]) + int(values["task.transfer_size"])
    if values.get("task.subset_seed") not in (None, base.seed):
        pool["subset_seed"] = values["task.subset_seed"]
    return pool


def find_sweep(study: Study, base: Config, swept: Sequence[str], kind: str) -> tuple[SweepKey, StoredRun | None]:
    """The sweep that a command continues, or the key of a new one.

    A grid also joins one that varies more: `-m seed=2` joins `-m seed=0,1`, and of several the one that varies least.
    """
    key = SweepKey.of(base, swept, kind)
    sweeps = [run for run in study.runs() if run.sweep_key]
    found = [(key, run) for run in sweeps if run.sweep_key == key.digest]
    if not found and kind == "grid":
        wider = [(SweepKey.of(base, _swept(run), kind), run) for run in sweeps if set(swept) < set(_swept(run))]
        found = [(other, run) for other, run in wider if run.sweep_key == other.digest]
    if found:
        return min(reversed(found), key=lambda item: len(item[0].swept))
    changed = [run for run in sweeps if run.tags.get("kdexp.sweep_settings") == key.settings]
    if changed:
        logger.info(
            "the data, a model's files or the libraries have changed since the sweep of %s: a new sweep begins, "
            "and its runs are not counted together with the earlier ones",
            date_of(changed[-1].started),
        )
    return key, None


def _swept(run: StoredRun) -> list[str]:
    return [name for name in run.tags.get("kdexp.swept", "").split(",") if name]


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
