"""What becomes of single classes is told, with counts."""

from kdexp.results.classes import class_notices, count_classes, recall_line, summed

GOLD = ["abbr"] * 9 + ["desc"] * 91


def answered(num_abbr, num_desc=91):
    """So many rows of each class are right; the others are said to be of the other class."""
    return ["abbr"] * num_abbr + ["desc"] * (9 - num_abbr) + ["desc"] * num_desc + ["abbr"] * (91 - num_desc)


def classes(baseline, student):
    return {
        "baseline": count_classes(GOLD, baseline),
        "student": count_classes(GOLD, student),
        "teacher": count_classes(GOLD, answered(9)),
    }


def test_a_class_that_distillation_loses_is_named_with_its_counts():
    found = class_notices(classes(answered(6), answered(0, 90)))
    assert found == ["distillation loses 'abbr' (6 of 9 test rows right, now 0)"]
    assert class_notices(classes(answered(8), answered(2))) == [
        "distillation loses 'abbr' (8 of 9 test rows right, now 2)"
    ]


def test_a_few_rows_less_are_no_class_lost():
    assert class_notices(classes(answered(6), answered(3))) == []
    assert class_notices(classes(answered(2), answered(0, 90))) == []
    assert class_notices(classes(answered(6), answered(7))) == []


def test_a_model_that_says_one_class_only_is_told():
    only = ["desc"] * 100
    assert class_notices(classes(only, only)) == [
        "the baseline student answers 'desc' on every test row: its accuracy is the share of that class, 91 of 100",
        "the distilled student answers 'desc' on every test row: its accuracy is the share of that class, 91 of 100",
    ]
    (said,) = class_notices({"control/pseudo_labels": classes(only, only)["student"]})
    assert said.startswith("the student of pseudo-labels answers 'desc' on every")
    one_class = count_classes(["desc"] * 3, ["desc"] * 3)
    assert class_notices({"teacher": one_class, "student": one_class, "baseline": one_class}) == []


def test_recall_is_told_by_class_and_of_many_classes_where_it_differs_most():
    assert recall_line(classes(answered(6), answered(3))) == (
        "by class, baseline -> distilled: abbr 66.7% -> 33.3%, desc 100.0% -> 100.0%"
    )
    names = [f"c{index}" for index in range(10)]
    gold = names * 10
    student = ["c0" if label == "c9" else label for label in gold]
    line = recall_line({"baseline": count_classes(gold, gold), "student": count_classes(gold, student)})
    assert line.startswith("by class, baseline -> distilled (of 10 classes those that differ most): ")
    assert "c9 100.0% -> 0.0%" in line
    # c0 is answered too often, but as often rightly: one class differs, and the others are not told.
    assert line.count("->") == 2
    alike = {"baseline": count_classes(gold, student), "student": count_classes(gold, student)}
    assert recall_line(alike) == "by class: distilled and baseline alike in each of 10 classes"
    assert recall_line({"student": count_classes(gold, student)}) == ""


def test_counts_of_several_seeds_add_up():
    total = summed([count_classes(GOLD, answered(6)), count_classes(GOLD, answered(0)), {}])
    assert (total["abbr"].rows, total["abbr"].right, total["desc"].answered) == (18, 6, 194 - 0)
