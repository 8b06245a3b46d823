"""Figures of whatever a person calls classes and settings, drawn in little time."""

import time
import warnings

import numpy as np
import pandas as pd
import pytest

from kdexp.results import figures, lettering
from kdexp.results.report import FigureBlock, html_page

HARD_NAMES = [
    ["price_$0_$50", "price_$50_$100"],
    ["$x^$", r"$\frac{1}$"],
    ["中文", "日本語"],
    ["हिन्दी", "ไทย"],
    ["🙂", "🙁"],
    ["a" * 400, "a" * 399 + "b"],
    ["", " \n\t"],
    ["first\nsecond", "\x00\x07"],
    ["<b>&amp;</b>", "%d{x}_^~"],
]


def confusion(names, answers=(0, 1, 1)):
    return figures.confusion_matrices_figure({"teacher": answers, "student": [0] * 3}, [0, 1, 0], names, "test")


def texts(figure):
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


@pytest.mark.parametrize("names", HARD_NAMES)
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_any_class_names_can_be_drawn(names, suffix, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        confusion(names).savefig(tmp_path / f"figure.{suffix}")


@pytest.mark.parametrize("names", HARD_NAMES)
def test_any_names_of_settings_can_be_drawn(names, tmp_path):
    frame = pd.DataFrame([[0.1, 0.2]] * 2, pd.Index(names, name="$a$"), pd.Index(names, name="b"))
    drawn = [
        figures.matrix_figure([figures.Matrix("$0 to $1", frame, [["$", "$$"]] * 2)], "$"),
        figures.interval_figure([figures.IntervalRow(name, 0.1, None) for name in names], "$x$"),
        figures.curves_figure({name: [(0, 0.1)] for name in names}, "$_$"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        html_page("figures", [FigureBlock(figure, "caption") for figure in drawn])


def test_labels_are_as_written_and_tell_classes_apart():
    assert texts(confusion(["price_$0_$50", "$a"])) == ["price_$0_$50", "$a"]
    long = texts(confusion(["a" * 400, "a" * 399 + "b"]))
    assert len(set(long)) == 2
    assert max(map(len, long)) <= lettering.MOST_CHARACTERS
    assert len(set(texts(confusion(["x" * 500, "x" * 501])))) == 2


def test_letters_without_a_font_are_replaced_by_the_number_of_the_class(monkeypatch, caplog):
    monkeypatch.setattr(lettering, "_further_fonts", dict)
    lettering._undrawable.cache_clear()
    lettering._families.cache_clear()
    assert texts(confusion(["中文", "plain"])) == ["#0", "plain"]
    assert "no font of this machine shows" in caplog.text
    lettering._undrawable.cache_clear()
    lettering._families.cache_clear()


def test_many_classes_show_those_that_are_mixed_up_most(tmp_path):
    random = np.random.default_rng(0)
    labels = random.integers(0, 600, 6000)
    answers = labels.copy()
    answers[labels == 77] = 500
    names = [f"class_{number}" for number in range(600)]
    started = time.process_time()
    models = {role: answers.tolist() for role in ("teacher", "baseline", "student")}
    figure = figures.confusion_matrices_figure(models, labels.tolist(), names, "test")
    figure.savefig(tmp_path / "figure.png")
    assert time.process_time() - started < 10
    assert {"class_77", "class_500"} <= set(texts(figure))
    assert len(texts(figure)) == figures.MOST_CLASSES
    assert "20 of 600" in figure.get_suptitle()


def test_a_class_without_test_rows_and_answers_that_are_all_wrong(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.confusion_matrices_figure({"student": [1, 1]}, [0, 0], ["a", "b", "c"], "test")
        figure.savefig(tmp_path / "figure.png")
    assert [text.get_text() for text in figure.axes[0].texts[:3]] == ["0.00", "1.00", "0.00"]
