"""How many models train side by side, and which in which lane: by arithmetic, from networks that are built for it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from imgrec.config import AnnConfig, Arch, CnnConfig, TransformerConfig, load_config
from imgrec.data.scan import LocalDecoding
from imgrec.distributed import lanes
from imgrec.distributed.demand import Demand
from imgrec.distributed.lanes import deal, load_of, share_cores
from imgrec.distributed.local import MEMORY_OF_A_WORKER
from imgrec.training.spec import FitSpec
from imgrec.training.throughput import operations_of
from pipelines.prepare import prepare
from tests.conftest import no_progress

DIGITS = Path(__file__).parents[3] / "pipelines" / "configs" / "digits.toml"
TWO_CORES = Demand(workers=1, cpus=2, use_gpu=False, room=1, least=1)
SIXTEEN = replace(TWO_CORES, cpus=16)
AMPLE = 20 << 30
"""Bytes of memory."""


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Arch, FitSpec]:
    """Of the four small networks for the digits."""
    config = load_config(DIGITS, [f"storage='{tmp_path_factory.mktemp('digits')}'"])
    return prepare(config, no_progress, LocalDecoding(1)).specs


def test_small_networks_train_side_by_side(specs: Mapping[Arch, FitSpec]) -> None:
    """A second core gains them nothing: two lanes of one core took 30 s where one of two cores took 47."""
    assert share_cores(TWO_CORES, list(specs.values()), AMPLE) == replace(TWO_CORES, cpus=1, room=2)
    assert share_cores(SIXTEEN, list(specs.values()), AMPLE).room > 1
    assert share_cores(TWO_CORES, [specs["cnn"]] * 3, AMPLE).room == 2  # the same with other seeds


@pytest.mark.parametrize(
    ("demand", "memory"),
    [
        (TWO_CORES, 500 << 20),
        (replace(TWO_CORES, cpus=1), AMPLE),
        (replace(TWO_CORES, cpus=1, room=2), AMPLE),
    ],
    ids=["memory for one", "one core", "there is room already"],
)
def test_what_cannot_be_shared_stays(
    specs: Mapping[Arch, FitSpec], demand: Demand, memory: int
) -> None:
    """Of memory, of cores, and where the settings have said it."""
    assert share_cores(demand, list(specs.values()), memory) == demand


def test_networks_that_gain_by_all_cores_have_them(specs: Mapping[Arch, FitSpec]) -> None:
    """Large ones, those that another has trained, one alone, and where one would take nearly all of the time."""
    small, cnn = list(specs.values()), specs["cnn"]
    large = replace(cnn, image_shape=(96, 96, 1))
    published = replace(cnn, model=CnnConfig(backbone="resnet18", pretrained=False))
    longer = replace(cnn, train=cnn.train.model_copy(update={"epochs": 2000}))

    assert load_of(large).operations > lanes.MOST
    for others in ([*small, large], [*small, published], [cnn], [*small, longer]):
        assert share_cores(TWO_CORES, others, AMPLE) == TWO_CORES


def test_each_model_is_in_one_lane_and_the_longest_in_the_first(
    specs: Mapping[Arch, FitSpec],
) -> None:
    """So that lanes end together: of the digits' networks the transformer takes as long as the three others."""
    two = replace(TWO_CORES, cpus=1, room=2)
    dealt = deal(specs, two)
    published = {
        name: replace(spec, model=CnnConfig(backbone="resnet18", pretrained=False))
        for name, spec in specs.items()
    }

    assert dealt == [["transformer"], ["ann", "cnn", "rnn"]]
    assert deal(specs, TWO_CORES) == [list(specs)]
    assert sorted(map(len, deal(specs, replace(two, room=9)))) == [1, 1, 1, 1]
    assert deal(published, two) == [["ann", "rnn"], ["cnn", "transformer"]]


def test_what_a_network_takes_is_counted_as_torch_counts_it(specs: Mapping[Arch, FitSpec]) -> None:
    """Nearly: what whitens is left out. Attention is not, which is most of it where there are many tokens."""
    many = replace(
        specs["transformer"],
        image_shape=(32, 32, 1),
        model=TransformerConfig(
            tokens="patches", patch_size=1, width=32, depth=1, backbone="compact"
        ),
    )
    for spec in [*specs.values(), many]:
        exact = operations_of(spec.model, spec.image_shape) * spec.train.batch_size
        assert load_of(spec).operations == pytest.approx(exact, rel=0.05)


def test_weights_take_memory_in_every_lane(specs: Mapping[Arch, FitSpec]) -> None:
    """A network may have few operations and many weights, as an ann has; several of them need a machine for that."""
    wide = replace(specs["ann"], model=AnnConfig(hidden=(4000, 2000), backbone="compact"))
    weights = load_of(wide).weights * lanes.BYTES_OF_A_WEIGHT
    one_more = weights + (MEMORY_OF_A_WORKER + weights)

    assert load_of(wide).operations < lanes.MOST
    assert share_cores(SIXTEEN, [wide] * 8, one_more).room == 2
    assert share_cores(SIXTEEN, [wide] * 8, one_more - 1).room == 1
