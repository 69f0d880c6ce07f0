"""Pictures grow during training, and are whole at its end."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from imgrec.config import load_config
from imgrec.errors import ConfigError
from imgrec.models import build_model
from imgrec.training.growth import resized, share_of_side
from pipelines.cli.pages.rows import Row
from pipelines.prepare import prepare
from tests.conftest import no_progress


def test_pictures_grow_in_a_few_sizes_and_are_whole_for_the_last_part() -> None:
    """From half of 32 pixels, by 8 at a time, as long in one size as in the other."""
    sides = [round(32 * share_of_side(0.5, step / 100, 32)) for step in range(100)]
    assert sides == sorted(sides)
    assert {side: sides.count(side) for side in sides} == {16: 30, 24: 30, 32: 40}


@pytest.mark.parametrize(("start", "side", "smallest"), [(0.5, 24, 16), (0.5, 8, 8), (1.0, 32, 32)])
def test_no_picture_is_made_smaller_than_networks_can_read(
    start: float, side: int, smallest: int
) -> None:
    """24 pixels begin as 16 and not as 12; 8 pixels stay 8."""
    sides = [round(side * share_of_side(start, step / 100, side)) for step in range(100)]
    assert min(sides) == smallest
    assert sides[-1] == side


def test_a_smaller_picture_is_the_average_of_what_it_leaves_out() -> None:
    """And keeps the memory layout that convolutions want."""
    images = torch.rand(2, 3, 32, 24).contiguous(memory_format=torch.channels_last)
    small = resized(images, 0.5)
    assert small.shape == (2, 3, 16, 12)
    assert small.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(small.mean(), images.mean(), atol=0.01, rtol=0)
    assert small.std() < images.std()
    assert resized(images, 1.0) is images


def test_a_size_to_start_with_is_refused_where_it_has_no_effect() -> None:
    """For all, or for one whose weights belong to pixels or columns."""
    with pytest.raises(
        ConfigError,
        match=r"no effect on the ann: each pixel, .*; set it for others, such as cnn\.train",
    ):
        load_config(None, ['data.source="digits"', "train.start_size=0.5"])
    rows = ["rnn.model.tokens='rows'", "rnn.train.start_size=0.5"]
    with pytest.raises(ConfigError, match="no effect on the rnn: with tokens = 'rows'"):
        load_config(None, ['data.source="digits"', *rows])
    config = load_config(None, ['data.source="digits"', "cnn.train.start_size=0.75"])
    assert {one.arch: one.train.start_size for one in config.branches}["cnn"] == 0.75


@pytest.mark.parametrize("arch", ["cnn", "rnn", "transformer"])
@pytest.mark.parametrize("tokens", ["convolutions", "patches"])
def test_what_grows_takes_the_pictures_of_every_step(arch: str, tokens: str) -> None:
    """Of sides that a network was not built for, odd ones too; by default they start at a half."""
    chosen = [f"{arch}.model.tokens={tokens}"] if arch != "cnn" else []
    branch = load_config(None, [f"archs=['{arch}']", *chosen]).branches[0]
    model = build_model(branch.model, (32, 26, 3), num_classes=3).eval()

    assert branch.train.start_size == 0.5
    for share in (0.5, 0.75, 1.0):
        assert model(resized(torch.rand(2, 3, 32, 26), share)).isfinite().all()


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("{backbone='compact'}", 0.5),
        ("{backbone='resnet18'}", 0.7),
        ("{backbone='resnet18', pretrained=false}", 1.0),
    ],
)
def test_what_pictures_grow_from_is_a_default_of_each_kind_of_network(
    model: str, size: float
) -> None:
    """Compact ones from a half; what knows photos from nearly the size it knows; others of timm's not at all."""
    settings = ['data.source="digits"', 'archs=["cnn"]', f"cnn.model={model}"]

    assert load_config(None, settings).branches[0].train.start_size == size


def test_the_time_left_counts_larger_pictures_as_what_they_cost(tmp_path: Path) -> None:
    """After 3 of 10 epochs of 16 of 32 pixels: 3 of 24 and 4 of 32 cost 9/4 and 4 times as much."""
    config = load_config(None, [f"storage='{tmp_path}'", "archs=['cnn']", "train.epochs=10"])
    spec = replace(prepare(config, no_progress).specs["cnn"], image_shape=(32, 32, 1))
    row = Row(spec, state="training", epoch=3, epoch_seconds=4.0)

    assert [round(spec.cost(epoch), 2) for epoch in (0, 2, 3, 5, 6, 9)] == [
        0.25,
        0.25,
        0.56,
        0.56,
        1,
        1,
    ]
    assert spec.passes == pytest.approx(3 * 0.25 + 3 * 0.5625 + 4)
    assert row.left == "1 min 31 s"  # 3 x 9 s + 4 x 16 s
