"""How many models train side by side, and which in which lane: by arithmetic, from networks that are built for it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from imgrec.config import Arch, CnnConfig, load_config
from imgrec.data.scan import LocalDecoding
from imgrec.distributed import lanes
from imgrec.distributed.demand import Demand
from imgrec.distributed.lanes import deal, load_of, share_cores
from imgrec.models import build_model
from imgrec.training.spec import FitSpec
from imgrec.training.throughput import PASSES, multiply_adds
from pipelines.prepare import prepare
from tests.conftest import no_progress

DIGITS = Path(__file__).parents[3] / "pipelines" / "configs" / "digits.toml"
TWO_CORES = Demand(workers=1, cpus=2, use_gpu=False, room=1, least=1)
SIXTEEN = replace(TWO_CORES, cpus=16)


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Arch, FitSpec]:
    """Of the four small networks for the digits."""
    config = load_config(DIGITS, [f"storage='{tmp_path_factory.mktemp('digits')}'"])
    return prepare(config, no_progress, LocalDecoding(1)).specs


def test_small_networks_train_side_by_side(specs: Mapping[Arch, FitSpec]) -> None:
    """A second core gains them nothing: two lanes of one core took 30 s where one of two cores took 47."""
    assert share_cores(TWO_CORES, list(specs.values()), 4) == replace(TWO_CORES, cpus=1, room=2)
    assert share_cores(SIXTEEN, list(specs.values()), 4).room > 1
    assert share_cores(TWO_CORES, [specs["cnn"]] * 3, 4).room == 2  # the same with other seeds


@pytest.mark.parametrize(
    ("demand", "most"),
    [
        (TWO_CORES, 1),
        (replace(TWO_CORES, cpus=1), 4),
        (replace(TWO_CORES, cpus=1, room=2), 4),
    ],
    ids=["memory for one", "one core", "there is room already"],
)
def test_what_cannot_be_shared_stays(
    specs: Mapping[Arch, FitSpec], demand: Demand, most: int
) -> None:
    """Of memory, of cores, and where the settings have said it."""
    assert share_cores(demand, list(specs.values()), most) == demand


def test_networks_that_gain_by_all_cores_have_them(specs: Mapping[Arch, FitSpec]) -> None:
    """Large ones, those that another has trained, one alone, and where one would take nearly all of the time."""
    small, cnn = list(specs.values()), specs["cnn"]
    large = replace(cnn, image_shape=(96, 96, 1))
    published = replace(cnn, model=CnnConfig(backbone="resnet18", pretrained=False))
    longer = replace(cnn, train=cnn.train.model_copy(update={"epochs": 2000}))

    assert load_of(large).operations > lanes.MOST
    for others in ([*small, large], [*small, published], [cnn], [*small, longer]):
        assert share_cores(TWO_CORES, others, 4) == TWO_CORES


def test_each_model_is_in_one_lane_and_the_longest_in_the_first(
    specs: Mapping[Arch, FitSpec],
) -> None:
    """So that lanes end together: of the digits' networks the transformer takes as long as the three others."""
    dealt = deal(specs, 2)
    published = {
        name: replace(spec, model=CnnConfig(backbone="resnet18", pretrained=False))
        for name, spec in specs.items()
    }

    assert dealt == [["transformer"], ["ann", "cnn", "rnn"]]
    assert deal(specs, 1) == [list(specs)]
    assert sorted(map(len, deal(specs, 9))) == [1, 1, 1, 1]
    assert deal(published, 2) == [["ann", "rnn"], ["cnn", "transformer"]]


def test_what_a_network_takes_is_counted_as_torch_counts_it(specs: Mapping[Arch, FitSpec]) -> None:
    """Nearly: what attention multiplies, and whitens, is left out."""
    for spec in specs.values():
        model = build_model(spec.model, spec.image_shape, spec.num_classes)
        forward = 2 * multiply_adds(model, spec.image_shape) * spec.train.batch_size
        assert load_of(spec).operations == pytest.approx(PASSES * forward, rel=0.05)
