"""Labels that are probably wrong are found, and a table of them is read as it was written."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from imgrec.evaluation.label_errors import (
    Suspect,
    find_suspects,
    most_suspicious,
    read_suspects,
    write_suspects,
)
from imgrec.training.probe import held_out_probabilities

NAMES = tuple(str(number) for number in range(10))


def swapped(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which some are wrong, and which."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(labels))[:count]
    wrong = labels.copy()
    wrong[rows] = (labels[rows] + rng.integers(1, 10, count)) % 10
    return wrong, rows


def test_wrong_labels_of_digits_are_found() -> None:
    """Most of 54 wrong labels, first in the list, and with the right ones suggested."""
    pixels, labels = load_digits(return_X_y=True)
    given, rows = swapped(labels, 54)
    said = cross_val_predict(
        LogisticRegression(max_iter=2000), pixels / 16, given, cv=5, method="predict_proba"
    )
    ids = [str(row) for row in range(len(labels))]
    found = find_suspects(torch.from_numpy(said), torch.from_numpy(given), ids, "train", NAMES)
    listed = [int(one.picture) for one in most_suspicious(found)]

    caught = set(listed) & set(rows.tolist())
    assert len(caught) >= 38
    assert len(set(listed[:30]) & caught) >= 28
    assert len(listed) < 100
    right = {int(one.picture): one.suggested for one in found}
    assert sum(right[row] == str(labels[row]) for row in caught) >= len(caught) - 1


def test_features_tell_wrong_labels_of_the_training_split() -> None:
    """By a linear layer that has not learned from the picture: in-sample it would believe the label."""
    pixels, labels = load_digits(return_X_y=True)
    given, rows = swapped(labels, 54)
    features = torch.from_numpy(pixels).float()
    said = held_out_probabilities(features, torch.from_numpy(given), 10, seed=0)
    ids = [str(row) for row in range(len(labels))]
    found = find_suspects(said, torch.from_numpy(given), ids, "train", NAMES)

    torch.testing.assert_close(said.sum(dim=1), torch.ones(len(labels)), atol=1e-5, rtol=0)
    assert len({int(one.picture) for one in found} & set(rows.tolist())) >= 38


def test_right_labels_are_not_suspected() -> None:
    """A model that is sure of what the labels say."""
    labels = torch.arange(30) % 3
    said = torch.full((30, 3), 0.1)
    said[torch.arange(30), labels] = 0.8

    assert not find_suspects(said, labels, [""] * 30, "test", NAMES[:3])


def test_a_class_without_pictures_suggests_nothing() -> None:
    """Nobody knows how sure of it is sure."""
    said = torch.tensor([[0.2, 0.1, 0.7], [0.9, 0.1, 0.0], [0.1, 0.9, 0.0]])
    found = find_suspects(said, torch.tensor([0, 0, 1]), ["a", "b", "c"], "test", NAMES[:3])

    assert not found


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Names of files hold whatever people write."""
    suspects = [Suspect('a,"b"\nc.png', "train", "猫", "dog; =1", 0.01, 0.98)]
    write_suspects(suspects, tmp_path / "table.csv")

    assert read_suspects(tmp_path / "table.csv") == suspects
