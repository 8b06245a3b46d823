"""The figures of runs and studies. matplotlib is imported with this module: import it late."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from kdexp.results import lettering
from kdexp.results.lettering import PlainFigure
from kdexp.results.statistics import Interval

MOST_CLASSES = 20
"""Of a confusion matrix; more could not be read, and drawing them takes minutes."""

MOST_LABELS = 40
"""Of bars."""

_MOST_CELLS_WITH_ZERO = 10


@dataclass(frozen=True)
class Matrix:
    """One panel of a heatmap.

    Attributes:
        values: Rows by columns, nan where there is nothing; the names of index and columns label the axes.
        texts: What stands in each cell, of the same shape.
        framed: Row and column of a cell that stands out.
    """

    title: str
    values: pd.DataFrame
    texts: Sequence[Sequence[str]]
    framed: tuple[int, int] | None = None


@dataclass(frozen=True)
class IntervalRow:
    """One row of an interval plot.

    Attributes:
        interval: Drawn thick; None where it is unknown.
        wider: Of the same value, with more sources of chance; drawn thin.
    """

    label: str
    value: float
    interval: Interval | None
    wider: Interval | None = None
    colour: str = "#1f5fbf"
    marker: str = "o"


def matrix_figure(panels: Sequence[Matrix], unit: str, *, largest: float | None = None) -> Figure:
    """Heatmaps side by side.

    Args:
        unit: Of the values, at the colour bar.
        largest: Where colours are to tell values below zero from those above: the largest of either sign, here and
            in the figures that this one is compared with.
    """
    width = sum(2.4 + 1.3 * panel.values.shape[1] for panel in panels)
    height = 1.6 + 0.8 * max(len(panel.values) for panel in panels)
    figure = PlainFigure(figsize=(width, height), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_matrix(axes, panel, unit, largest)
    return figure


def _draw_matrix(axes: Axes, panel: Matrix, unit: str, largest: float | None) -> None:
    values = panel.values.to_numpy(float)
    if largest is not None:
        # One scale for both signs, wide enough to leave the cells pale under their text; never empty.
        limit = max(1.6 * largest, 0.1)
        colours, scale = matplotlib.colormaps["RdBu"], Normalize(-limit, limit)
    else:
        colours, scale = matplotlib.colormaps["viridis"], _scale(values)
    image = axes.imshow(
        np.ma.masked_invalid(values),
        cmap=colours.with_extremes(bad="#dddddd"),
        norm=scale,
        aspect="auto",
    )
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if _is_dark(colours(scale(value))) and not np.isnan(value) else "black"
        axes.text(column, row, panel.texts[row][column], ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(values.shape[1]), lettering.labels([_tick(name) for name in panel.values.columns]))
    axes.set_yticks(range(values.shape[0]), lettering.labels([_tick(name) for name in panel.values.index]))
    axes.set(xlabel=panel.values.columns.name, ylabel=panel.values.index.name, title=panel.title)
    if panel.framed is not None:
        row, column = panel.framed
        corner = (column - 0.5, row - 0.5)
        # Not cut by the frame where the cell lies at it.
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="red", linewidth=2.5, clip_on=False, zorder=3))
    axes.figure.colorbar(image, ax=axes, label=unit, ticks=MaxNLocator(5), format=_plain_numbers())


def _scale(values: np.ndarray) -> Normalize:
    """Of what is there; where all is the same, or nothing, wide enough for ticks that differ."""
    known = values[~np.isnan(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    is_one = high - low <= 1e-6 * max(abs(low), abs(high), 1.0)
    return Normalize(low - 0.5, high + 0.5) if is_one else Normalize(low, high)


def _plain_numbers() -> ScalarFormatter:
    """As many digits as tell the ticks apart, and no offset to add in one's head."""
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    return formatter


def _is_dark(colour: Sequence[float]) -> bool:
    """Whether white is easier to read on it than black (WCAG 2, relative luminance)."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179


def _tick(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def interval_figure(
    rows: Sequence[IntervalRow],
    label: str,
    *,
    margin: float = 0.0,
    legend: Mapping[str, str] | None = None,
) -> Figure:
    """Values as points with their intervals, the first row on top.

    Args:
        label: Of the axis of values.
        margin: Half width of a band around zero.
        legend: Colours by what they mean.
    """
    figure = PlainFigure(figsize=(9, 1.2 + 0.34 * max(len(rows), 3)), layout="constrained")
    axes = figure.subplots()
    if margin:
        axes.axvspan(-margin, margin, color="#8883", lw=0)
    axes.axvline(0, color="black", lw=0.8)
    for place, row in enumerate(rows):
        if row.interval is not None:
            bounds = [row.interval.low, row.interval.high]
            axes.plot(bounds, [place] * 2, color=row.colour, lw=2, solid_capstyle="butt")
        if row.wider is not None:
            axes.plot([row.wider.low, row.wider.high], [place + 0.2] * 2, color=row.colour, lw=0.8)
        axes.plot(row.value, place, row.marker, color=row.colour, ms=5)
    axes.set_yticks(range(len(rows)), lettering.labels([row.label for row in rows], most_characters=60))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.05)  # nothing lies on the frame
    figure.supxlabel(label, fontsize="medium")  # the axes may be narrower than it, beside long labels
    if legend:
        handles = [axes.plot([], [], color=colour, lw=2, label=meaning)[0] for meaning, colour in legend.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def curves_figure(curves: Mapping[str, Sequence[tuple[int, float]]], label: str) -> Figure:
    """A metric by step, one line per name."""
    figure = PlainFigure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    names = lettering.labels(list(curves), most_characters=60)
    for name, points in zip(names, curves.values(), strict=True):
        axes.plot(*zip(*points, strict=True), marker=".", label=name)
    axes.set(xlabel="step", ylabel=label)
    axes.legend(fontsize=8)
    return figure


@dataclass(frozen=True)
class CurvePoint:
    """One point of a learning curve.

    Attributes:
        place: Such as the number of labelled rows.
        interval: None where it is unknown.
    """

    place: int
    value: float
    interval: Interval | None


def learning_curves_figure(curves: Mapping[str, Sequence[CurvePoint]], place: str, value: str) -> Figure:
    """Curves with their intervals over a logarithmic axis, each drawn a little beside the others.

    Args:
        place, value: What the axes show.
    """
    figure = PlainFigure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(curves.items()):
        places = [point.place * 1.02 ** (number - len(curves) / 2) for point in points]
        (line,) = axes.plot(places, [point.value for point in points], marker="o", ms=4, label=name)
        for x, point in zip(places, points, strict=True):
            if point.interval is not None:
                axes.plot([x, x], [point.interval.low, point.interval.high], color=line.get_color(), lw=1.2)
    axes.set_xscale("log")
    ticks = sorted({point.place for points in curves.values() for point in points})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel=place, ylabel=value)
    axes.legend(fontsize=8)
    return figure


def confusion_matrices_figure(
    answers: Mapping[str, Sequence[int]], labels: Sequence[int], label_names: Sequence[str], split: str
) -> Figure:
    """Gold classes against predicted ones, as shares of each gold class: one panel per model.

    Of many classes those that the models mix up most often.

    Args:
        answers: [rows], class indices, by model.
        labels: [rows]
    """
    num_classes = len(label_names)
    counts = {model: _confusion_counts(labels, predicted, num_classes) for model, predicted in answers.items()}
    shown = _most_confused(np.sum(list(counts.values()), axis=0))
    names = lettering.labels([label_names[index] for index in shown], numbers=shown)
    size = 4 + 0.35 * len(shown)
    figure = PlainFigure(figsize=(size * len(answers), size), layout="constrained")
    panels = figure.subplots(1, len(answers), squeeze=False)[0]
    for axes, (model, matrix) in zip(panels, counts.items(), strict=True):
        shares = (matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))[np.ix_(shown, shown)]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(shares):
            if share or len(shown) <= _MOST_CELLS_WITH_ZERO:
                colour = "white" if share > 0.5 else "black"
                # Inside the axes: the layout has no room to make for it.
                centre = {"ha": "center", "va": "center", "in_layout": False}
                axes.text(column, row, f"{share:.2f}", color=colour, fontsize=9, **centre)
        axes.set_xticks(range(len(shown)), names, rotation="vertical")
        axes.set_yticks(range(len(shown)), names)
        axes.set(xlabel="predicted", ylabel="gold", title=f"{model} on {split}")
    if len(shown) < num_classes:
        figure.suptitle(f"the {len(shown)} of {num_classes} classes that are mixed up most often")
    return figure


def label_f1_figure(
    answers: Mapping[str, Sequence[set[str]]], gold: Sequence[set[str]], label_names: Sequence[str], split: str
) -> Figure:
    """F1 of each label, one colour per model, the most frequent label on top; of many labels the most frequent.

    Args:
        answers: [rows], the labels that are told of each, by model.
        gold: [rows]
    """
    counts = {name: sum(name in row for row in gold) for name in label_names}
    shown = sorted(label_names, key=lambda name: -counts[name])[:MOST_LABELS]
    figure = PlainFigure(figsize=(9, 1.4 + 0.34 * max(len(shown), 3)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(answers)
    for number, (model, told) in enumerate(answers.items()):
        places = np.arange(len(shown)) + (number - (len(answers) - 1) / 2) * height
        axes.barh(places, [_label_f1(name, told, gold) for name in shown], height, label=model)
    axes.set_yticks(range(len(shown)), lettering.labels([f"{name} ({counts[name]:,})" for name in shown]))
    axes.set_ylim(len(shown) - 0.4, -0.6)
    more = f", the {len(shown)} most frequent of {len(label_names)} labels" if len(shown) < len(label_names) else ""
    axes.set(xlim=(0, 1), xlabel=f"F1 on {split} (rows with the label in brackets){more}")
    figure.legend(loc="outside upper center", ncols=len(answers))
    return figure


def _label_f1(name: str, told: Sequence[set[str]], gold: Sequence[set[str]]) -> float:
    """2 TP / (2 TP + FP + FN), 0 where the label occurs nowhere."""
    hits = sum(name in given and name in right for given, right in zip(told, gold, strict=True))
    both = sum((name in given) + (name in right) for given, right in zip(told, gold, strict=True))
    return 2 * hits / both if both else 0.0


def numbers_figure(answers: Mapping[str, Sequence[float]], gold: Sequence[float], split: str) -> Figure:
    """Numbers that are told against gold ones, one panel per model; on the line both are equal.

    Args:
        answers: [rows], by model.
        gold: [rows]
    """
    figure = PlainFigure(figsize=(4 * len(answers), 4), layout="constrained")
    panels = figure.subplots(1, len(answers), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (model, told) in zip(panels, answers.items(), strict=True):
        axes.plot(gold, told, ".", ms=3, alpha=0.4)
        axes.axline((gold[0], gold[0]), slope=1, color="black", lw=0.8)
        axes.set(xlabel="gold", title=f"{model} on {split}")
    panels[0].set_ylabel("told")
    return figure


def _confusion_counts(labels: Sequence[int], predicted: Sequence[int], num_classes: int) -> np.ndarray:
    """[gold, predicted]"""
    pairs = np.asarray(labels) * num_classes + np.asarray(predicted)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _most_confused(counts: np.ndarray) -> list[int]:
    """All classes, or of many those that take part in most of the errors, in their own order."""
    wrong = counts * (1 - np.eye(len(counts), dtype=int))
    by_errors = np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")
    return sorted(by_errors[:MOST_CLASSES].tolist())
