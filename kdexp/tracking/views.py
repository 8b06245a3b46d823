"""A ready-made view in MLflow's own pages: which runs, which columns, which charts.

MLflow keeps a shared view as JSON in a tag of the experiment and opens it by `viewStateShareKey` in the link. This is
not documented and was tried with MLflow 3.17; a failure to write it is a warning and never fails a run.
"""

import json
import logging
import time
from collections.abc import Sequence
from typing import Any

from kdexp.tracking.store import Study

logger = logging.getLogger(__name__)

MAX_CHARACTERS = 5000  # MLflow's limit for a tag of an experiment
SECTION = "kdexp"


def write_view(
    study: Study, parent_id: str | None, settings: Sequence[str], metric: str, *, contour: tuple[str, str] | None
) -> str | None:
    """Save the view of a sweep and return the link that opens it, or None where MLflow does not take it.

    Args:
        settings: Params that the sweep varies: columns, and axes of the parallel coordinates.
        metric: The primary metric: `validation/<metric>` is sorted by and charted.
        contour: The two settings of the contour plot, where the sweep varies two numbers.
    """
    key = f"kdexp-{(parent_id or 'study')[:12]}"
    state = _state(parent_id, settings, metric, contour)
    now = time.time_ns() // 1_000_000
    name = " x ".join(settings) or study.name
    value = json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)})
    if len(value) > MAX_CHARACTERS:
        logger.warning("no saved view in MLflow: %d characters, and it takes %d", len(value), MAX_CHARACTERS)
        return None
    try:
        study.set_tag(f"mlflow.sharedViewState.{key}", value)
    except Exception as error:  # a convenience: whatever MLflow has against it, the numbers stand
        logger.warning("no saved view in MLflow: %s", error)
        return None
    return f"{study.base_url}/runs?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={key}"


def _state(
    parent_id: str | None, settings: Sequence[str], metric: str, contour: tuple[str, str] | None
) -> dict[str, Any]:
    found, chosen = f"test/{metric}", f"validation/{metric}"
    charts: list[dict[str, Any]] = []
    if contour:
        x, y = contour
        for place, shown in enumerate((chosen, found)):
            axes = {
                "xaxis": {"key": x, "type": "PARAM"},
                "yaxis": {"key": y, "type": "PARAM"},
                "zaxis": {"key": shown, "type": "METRIC"},
            }
            charts.append(_chart("CONTOUR", f"contour{place}", **axes))
    charts.append(
        _chart(
            "PARALLEL",
            "parallel",
            selectedParams=list(settings),
            selectedMetrics=[chosen, found, "kd/gain"],
            showAllRuns=False,
        )
    )
    curves = {"xAxisKey": "step", "scaleType": "linear", "xAxisScaleType": "linear", "lineSmoothness": 0}
    for name in (chosen, "train/loss"):
        charts.append(_chart("LINE", name, metricKey=name, selectedMetricKeys=[name], **curves))
    charts.append(_chart("BAR", "gain", metricKey="kd/gain"))
    condition = f"tags.`mlflow.parentRunId` = '{parent_id}' and " if parent_id else ""
    columns = [f"params.`{name}`" for name in settings]
    columns += [f"metrics.`{name}`" for name in (chosen, found, "kd/gain", f"baseline/{found}", f"teacher/{found}")]
    return {
        "orderByKey": f"metrics.`{chosen}`",
        "orderByAsc": False,
        "searchFilter": f"{condition}attributes.status = 'FINISHED'",
        "lifecycleFilter": "Active",
        "startTime": "ALL",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": ["attributes.`Duration`", *columns],
        "runsHiddenMode": "SHOW_ALL",
        # Else the sections are sorted by name, and those that MLflow makes of its own come first.
        "isAccordionReordered": True,
        "compareRunSections": [{"uuid": SECTION, "name": "sweep", "display": True, "isReordered": False}],
        "compareRunCharts": charts,
    }


def _chart(kind: str, uuid: str, **fields: Any) -> dict[str, Any]:
    common = {"uuid": uuid, "metricSectionId": SECTION, "runsCountToCompare": 100, "deleted": False}
    return {"type": kind, **common, "isGenerated": False, **fields}
