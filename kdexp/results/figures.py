"""The figures of runs and studies. matplotlib is imported with this module: import it late."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure


def confusion_matrices_figure(
    answers: Mapping[str, Sequence[int]], labels: Sequence[int], label_names: Sequence[str], split: str
) -> Figure:
    """Gold classes against predicted ones, as shares of each gold class: one panel per model.

    Args:
        answers: [rows], class indices, by model.
        labels: [rows]
    """
    from sklearn.metrics import ConfusionMatrixDisplay

    size = min(4 + 0.35 * len(label_names), 20)
    figure = Figure(figsize=(size * len(answers), size), layout="constrained")
    panels = figure.subplots(1, len(answers), squeeze=False)[0]
    for axes, (model, predicted) in zip(panels, answers.items(), strict=True):
        ConfusionMatrixDisplay.from_predictions(
            list(labels),
            list(predicted),
            labels=list(range(len(label_names))),
            display_labels=list(label_names),
            normalize="true",
            include_values=len(label_names) <= 20,
            values_format=".2f",
            xticks_rotation="vertical",
            cmap="Blues",
            colorbar=False,
            ax=axes,
        )
        axes.set_title(f"{model} on {split}")
    return figure
