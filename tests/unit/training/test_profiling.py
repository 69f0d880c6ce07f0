"""A trace of some steps."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from imgrec.training.profiling import SKIPPED_STEPS, TABLE, TRACE, TRACED_STEPS, StepProfile


@pytest.mark.parametrize("steps", [SKIPPED_STEPS + TRACED_STEPS + 5, SKIPPED_STEPS + 2])
def test_a_profile_holds_some_steps_and_a_table_of_operations(tmp_path: Path, steps: int) -> None:
    """Also of a training that ends before all of them were traced."""
    model = nn.Linear(8, 8)
    with StepProfile(tmp_path / "profile", torch.device("cpu")) as profile:
        for _ in range(steps):
            model(torch.zeros(4, 8)).sum().backward()
            profile.step()
    with gzip.open(tmp_path / "profile" / TRACE, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    products = [event for event in events if event.get("name") == "aten::addmm"]
    assert len(products) == min(TRACED_STEPS, steps - SKIPPED_STEPS)
    assert "aten::addmm" in (tmp_path / "profile" / TABLE).read_text(encoding="utf-8")
