"""The embedded tasks: reproducible, disjoint, balanced, and not solvable by a shortcut."""

import hashlib
import json

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from kdexp.task.embedded import entities, inference, reviews

TASKS = [reviews, inference, entities]
OF_CLASSES = [reviews, inference]
SIZES = {"train": 3000, "validation": 500, "test": 1500, "transfer": 500}


@pytest.fixture(scope="module")
def splits():
    """All tasks as a run would take them, but with true labels."""
    return {task: task.generate_splits(SIZES, seed=0, label_noise=0.0) for task in TASKS}


@pytest.mark.parametrize(
    ("task", "digest"),
    [(reviews, "2e427ed78ccb5a98"), (inference, "4f30dda51262bd9b"), (entities, "e17def580ca0bb06")],
)
def test_rows_are_the_same_on_every_machine(task, digest):
    rows = task.generate_splits(dict.fromkeys(SIZES, 50), seed=0, label_noise=0.2)
    assert hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("task", TASKS)
def test_another_seed_gives_other_rows(task, splits):
    other = task.generate_splits({"test": 100}, seed=1, label_noise=0.0)["test"]
    # A grammar of short sentences may write the same pair twice; it must not write the same split twice.
    assert len(set(other) & set(splits[task]["test"])) < 15


@pytest.mark.parametrize("task", TASKS)
def test_no_text_occurs_twice_in_or_across_splits(task, splits):
    texts = [row[:-1] for rows in splits[task].values() for row in rows]
    assert len(set(texts)) == len(texts) == sum(SIZES.values())


@pytest.mark.parametrize("task", TASKS)
def test_a_larger_split_extends_a_smaller_one_and_leaves_the_others(task, splits):
    smaller = task.generate_splits(SIZES | {"train": 1000}, seed=0, label_noise=0.0)
    for split in ("test", "validation"):
        assert smaller[split] == splits[task][split]
    assert smaller["train"] == splits[task]["train"][:1000]
    alone = task.generate_splits({"test": 200}, seed=0, label_noise=0.0)
    assert alone["test"] == splits[task]["test"][:200]
    assert alone["train"] == []


@pytest.mark.parametrize("task", OF_CLASSES)
def test_the_noise_is_as_asked_and_only_in_train(task, splits):
    noisy = task.generate_splits(SIZES, seed=0, label_noise=0.2)
    for split in ("validation", "test", "transfer"):
        assert noisy[split] == splits[task][split]
    pairs = list(zip(noisy["train"], splits[task]["train"], strict=True))
    assert all(row[:-1] == true_row[:-1] for row, true_row in pairs)
    distances = [abs(row[-1] - true_row[-1]) for row, true_row in pairs]
    assert np.mean([distance > 0 for distance in distances]) == pytest.approx(0.2, abs=0.025)
    if task is reviews:
        moved = [distance for distance in distances if distance]
        assert np.mean([distance == 1 for distance in moved]) > 0.75
        assert max(moved) > 1


def test_review_classes_have_the_documented_shares_and_lengths(splits):
    labels = [label for _, label in splits[reviews]["train"]]
    shares = np.bincount(labels, minlength=5) / len(labels)
    np.testing.assert_allclose(shares, [0.13, 0.30, 0.11, 0.32, 0.14], atol=0.03)
    lengths = [len(text.split()) for text, _ in splits[reviews]["train"]]
    assert min(lengths) >= 8
    assert max(lengths) <= 45
    assert np.mean(lengths) == pytest.approx(17, abs=1)


def test_inference_classes_are_equally_frequent(splits):
    labels = [label for *_, label in splits[inference]["train"]]
    np.testing.assert_allclose(np.bincount(labels) / len(labels), 1 / 3, atol=0.03)


@pytest.mark.parametrize(
    ("task", "constructions"),
    [
        (reviews, ["not ", "anything but", " but the", "Although ", "even if", "than I feared", "I disagree"]),
        (inference, ["did not", " was bought by ", "None of", "All of", " before ", " after ", "animal", "two "]),
    ],
)
def test_the_constructions_occur_often_enough_to_be_learned(task, constructions, splits):
    texts = [" ".join(row[:-1]) for row in splits[task]["train"]]
    counts = {construction: sum(construction in text for text in texts) for construction in constructions}
    assert min(counts.values()) >= 30, counts


def accuracy_of_word_counts(train, test):
    """Accuracy on (text, label) pairs of a linear model that sees which words occur, not in what order."""
    words = CountVectorizer(min_df=2)
    counts = words.fit_transform([text for text, _ in train])
    model = LogisticRegression(C=0.1, max_iter=300).fit(counts, [label for _, label in train])
    return model.score(words.transform([text for text, _ in test]), [label for _, label in test])


def test_words_alone_tell_a_part_of_a_review_and_not_all(splits):
    accuracy = accuracy_of_word_counts(splits[reviews]["train"], splits[reviews]["test"])
    # The most frequent class has 32 %; the labels of this test are free of noise, so the ceiling is 100 %.
    assert 0.5 < accuracy < 0.7


@pytest.mark.parametrize("column", [0, 1])
def test_one_sentence_of_a_pair_tells_little(column, splits):
    train, test = ([(row[column], row[-1]) for row in splits[inference][split]] for split in ("train", "test"))
    assert accuracy_of_word_counts(train, test) < 0.45


def test_entities_have_the_documented_shares_and_lengths(splits):
    rows = splits[entities]["train"]
    assert all(len(text.split(" ")) == len(labels) for text, labels in rows)
    lengths = [len(labels) for _, labels in rows]
    assert (min(lengths), max(lengths)) == (5, 32)
    assert 12 < np.mean(lengths) < 13.5
    tags = [entities.LABELS[label] for _, labels in rows for label in labels]
    assert 0.27 < np.mean([tag != "O" for tag in tags]) < 0.32
    shares = [tags.count(f"B-{name}") / sum(tag.startswith("B-") for tag in tags) for name in entities.TYPES]
    assert 0.27 < min(shares) < max(shares) < 0.4
    # Every inside follows its own beginning.
    for _, labels in rows:
        for before, label in zip([0, *labels], labels, strict=False):
            assert not entities.LABELS[label].startswith("I-") or before in (label, label - 1)


def test_a_stem_alone_does_not_tell_the_type(splits):
    types = {}
    for text, labels in splits[entities]["train"]:
        for word, label in zip(text.split(" "), labels, strict=True):
            if entities.LABELS[label].startswith("B-"):
                types.setdefault(word, set()).add(label)
    assert sum(len(found) == 3 for word, found in types.items() if "-" not in word) > 200


def test_the_noise_of_entities_is_as_asked_and_only_in_train(splits):
    noisy = entities.generate_splits(SIZES, seed=0, label_noise=0.2)
    for split in ("validation", "test", "transfer"):
        assert noisy[split] == splits[entities][split]
    names = wrong = dropped = 0
    for (text, labels), (true_text, true) in zip(noisy["train"], splits[entities]["train"], strict=True):
        assert text == true_text
        begins = [place for place, label in enumerate(true) if entities.LABELS[label].startswith("B-")]
        names += len(begins)
        wrong += sum(labels[place] != true[place] for place in begins)
        dropped += sum(labels[place] == 0 for place in begins)
        assert all(entities.LABELS[labels[place]][0] in "BO" for place in begins)
    assert wrong / names == pytest.approx(0.2, abs=0.01)
    assert dropped / wrong == pytest.approx(0.5, abs=0.05)
