"""Temperature: probabilities that mean what they say."""

import pytest
import torch

from imgrec.evaluation.calibration import fit_temperature


def test_a_split_without_errors_makes_nobody_certain() -> None:
    """A hundred right answers of a hundred say little about the next: one picture in a hundred."""
    torch.manual_seed(0)
    labels = torch.arange(100) % 10
    logits = 4 * torch.eye(10)[labels] + 0.3 * torch.randn(100, 10)
    temperature = fit_temperature(logits, labels)
    sureness = (logits / temperature).softmax(dim=1).max(dim=1).values

    assert temperature > 0.2
    assert 0.97 < float(sureness.mean()) < 0.999


def test_temperature_undoes_overconfidence() -> None:
    """Logits blown up by 3 need a temperature of 3."""
    torch.manual_seed(0)
    labels = torch.randint(0, 4, (4000,))
    logits = torch.randn(4000, 4)
    logits[torch.arange(4000), labels] += 1.0
    honest = fit_temperature(logits, labels)

    assert fit_temperature(logits * 3, labels) == pytest.approx(3 * honest, rel=0.01)
