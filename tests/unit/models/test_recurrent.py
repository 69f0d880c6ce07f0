"""Recurrent layers whose arithmetic is the one that was asked for; on a GPU tests/bench/test_gpu.py looks at it."""

import pytest
import torch
from torch import nn

from imgrec.config import RnnConfig
from imgrec.models import build_model
from imgrec.models.recurrent import AS_ASKED


@pytest.mark.parametrize(
    ("config", "side"),
    [
        (RnnConfig(), 32),
        (RnnConfig(cell="lstm"), 32),
        (RnnConfig(tokens="rows"), 8),
        (RnnConfig(backbone="sequencer2d_s"), 224),
    ],
)
def test_every_recurrent_layer_is_one_of_ours(config: RnnConfig, side: int) -> None:
    """Also those of timm's networks."""
    with torch.device("meta"):
        model = build_model(config, (side, side, 3), 4)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.RNNBase)]
    assert layers
    assert {type(layer) for layer in layers} <= {*AS_ASKED.values()}


@pytest.mark.parametrize("plain", AS_ASKED)
def test_it_computes_what_torchs_own_does(plain: type[nn.Module]) -> None:
    """With the same names of its weights."""
    torch.manual_seed(0)
    theirs = plain(4, 6, batch_first=True)
    ours = AS_ASKED[plain](4, 6, batch_first=True)
    ours.load_state_dict(theirs.state_dict())
    sequences = torch.rand(2, 5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(sequences)[0], theirs(sequences)[0])
    assert torch.equal(ours(sequences)[0], theirs(sequences)[0])
