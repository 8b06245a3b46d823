"""A sweep's summary as files for other programs: a column says metric, unit and over what its interval is.

A name means the same in both files, and may be written in SQL without quotes. Shares are fractions, as in MLflow.
"""

import pandas as pd

from kdexp.study.summary.settings import INTERNAL, StudySummary, contrasts_of

_SHARES = ("accuracy", "f1", "map")  # how the names of metrics end that are fractions


def runs_table(summary: StudySummary) -> pd.DataFrame:
    """One row per run: `run_id`, `run_name`, the settings, `seed`, scores, and the gain over test rows."""
    measured = _measured(summary.metric)
    names = {"name": "run_name"}
    names |= {split: f"{split}_{measured}" for split in ("validation", "test")}
    names |= {f"{role}_test": f"{role}_test_{measured}" for role in ("baseline", "teacher")}
    names |= {"gain": f"gain_{measured}"}
    names |= {f"rows_{end}": f"gain_{measured}_{end}_over_test_rows" for end in ("low", "high")}
    names |= {f"gain_{name}": f"gain_{name}_{measured}" for name in contrasts_of(summary.runs)}
    return summary.runs.drop(columns=list(INTERNAL)).rename(columns=names)


def settings_table(summary: StudySummary) -> pd.DataFrame:
    """One row per setting: the settings, `seeds`, means, spreads (sample standard deviation) and intervals over seeds.

    Of a single seed the gain has its interval over test rows instead, in columns of their own.
    """
    measured = _measured(summary.metric)
    names = {split: f"mean_{split}_{measured}" for split in ("validation", "test")}
    names |= {f"{split}_spread": f"spread_{split}_{measured}" for split in ("validation", "test")}
    names |= {f"test_{end}": f"test_{measured}_{end}_over_seeds" for end in ("low", "high")}
    names |= {f"{role}_test": f"mean_{role}_test_{measured}" for role in ("baseline", "teacher")}
    names |= {"gain": f"mean_gain_{measured}"}
    names |= {f"gain_{end}": f"gain_{measured}_{end}_over_seeds" for end in ("low", "high")}
    names |= {f"rows_{end}": f"gain_{measured}_{end}_over_test_rows" for end in ("low", "high")}
    for name in contrasts_of(summary.table):
        names[f"gain_{name}"] = f"mean_gain_{name}_{measured}"
        names |= {f"gain_{name}_{end}": f"gain_{name}_{measured}_{end}_over_seeds" for end in ("low", "high")}
    return summary.table.rename(columns=names)


def _measured(metric: str) -> str:
    """Metric and unit: `accuracy_fraction`; a metric that is no share has its own name for a unit."""
    return f"{metric}_fraction" if metric.endswith(_SHARES) else metric
