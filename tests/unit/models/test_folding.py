"""A batch normalization with fixed statistics is part of the convolution before it, and nobody can tell."""

import copy
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from imgrec.config import CnnConfig
from imgrec.models import build_model
from imgrec.models.folding import (
    FOLDED,
    FoldingConv,
    SameConv,
    drop_norms,
    fold_for_good,
    fold_norms,
    watched,
)
from imgrec.models.network import BatchNorm
from imgrec.training.throughput import training_flops

SIDE = 32
NETWORKS = {
    "resnet18": 20,
    "efficientnet_lite0": 49,
    "tf_efficientnet_lite0": 49,  # padded as TensorFlow does it
    "mobilenetv3_small_050": 34,  # its last one is not normalized
    "regnetx_002": 44,
    "densenet121": 59,  # half of its 120 convolutions
    "convnext_atto": 0,
}


def network_of(name: str) -> nn.Module:
    """As it came, with statistics that are no ones and zeros."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=5)
    for module in network.modules():
        if isinstance(module, BatchNorm):
            for tensor in (module.running_mean, module.bias):
                assert tensor is not None
                nn.init.normal_(tensor, std=0.1)
            for tensor in (module.running_var, module.weight):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 1.5)
    return network


def ours_of(name: str) -> tuple[nn.Module, nn.Module]:
    """Timm's own network, and ours of the same weights, both with fixed statistics."""
    theirs = network_of(name)
    model = build_model(CnnConfig(backbone=name, pretrained=False), (SIDE, SIDE, 3), 5)
    model.get_submodule("network").load_state_dict(theirs.state_dict())
    return theirs.double().eval(), model.double().eval()


def folded_in(model: nn.Module) -> list[FoldingConv]:
    return [one for one in model.modules() if isinstance(one, FoldingConv) and one.norm]


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_says_what_the_other_says(name: str, for_good: bool) -> None:
    """To rounding, whatever the network; and its file of weights has no other entry."""
    theirs, model = ours_of(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    if for_good:
        fold_for_good(model)
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    with torch.inference_mode():
        expected, said = theirs(images), model(images)

    torch.testing.assert_close(said, expected)
    assert len(folded_in(model)) == NETWORKS[name]
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in before.items()
    }
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_what_is_learned_with_fixed_statistics_is_the_same(name: str) -> None:
    """Each parameter gets the gradient that it has behind a pass of its own, to rounding."""
    theirs, model = ours_of(name)
    images, ours = (
        torch.randn(4, 3, SIDE, SIDE, dtype=torch.float64),
        dict(model.named_parameters()),
    )
    for network in (theirs, model):
        network(images).square().mean().backward()

    for key, parameter in theirs.named_parameters():
        assert parameter.grad is not None
        got = ours[f"network.{key}"].grad
        assert got is not None
        torch.testing.assert_close(got, parameter.grad)


def test_statistics_that_are_learned_are_a_pass_of_their_own() -> None:
    """Those of the batch are not known before the maps are."""
    theirs, model = ours_of("resnet18")
    images = torch.randn(4, 3, SIDE, SIDE, dtype=torch.float64)
    expected, said = theirs.train()(images), model.train()(images)

    torch.testing.assert_close(said, expected)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(model.state_dict()[f"network.{key}"], value)


def test_a_copy_is_folded_with_its_own_norms() -> None:
    """The moving average of the weights, which is judged, is a copy of the network that learns."""
    _, model = ours_of("resnet18")
    other = copy.deepcopy(model)
    images = torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64)
    with torch.no_grad():
        before = model(images)
        for conv in folded_in(other):
            conv.norm[0].weight.zero_()
        changed = other(images)

    assert len(folded_in(other)) == NETWORKS["resnet18"]
    assert torch.equal(model(images), before)
    assert not torch.allclose(changed, before)


def test_fewer_maps_are_kept_for_the_gradients() -> None:
    """What training takes of memory is mostly the maps: each of a pair kept its own."""
    theirs, model = ours_of("resnet18")
    images = torch.randn(4, 3, SIDE, SIDE, dtype=torch.float64)

    # A convolution and its normalization kept a map each; sums and pooling keep theirs.
    assert kept(model, images) < 0.75 * kept(theirs, images)


def kept(network: nn.Module, images: Tensor) -> int:
    """Bytes of the maps that autograd keeps of a forward pass, each storage once."""
    maps = dict[int, int]()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.ndim == 4 and len(tensor) == len(images):  # kernels are more
            maps[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    return sum(maps.values())


class Twice(nn.Module):
    """Networks in which something else sees what a convolution gives."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to maps."""
        maps = self.conv(images)
        if self.way == "beside":
            return maps + self.norm(maps)
        if self.way == "again":
            return self.norm(maps) + self.norm(self.conv(images.flip(3)))
        if self.way == "dropped":
            return self.norm(self.drop(maps))
        if self.way == "late":
            seen = self.norm(maps)
            return seen + maps.mean()
        return self.norm(maps)


@pytest.mark.parametrize("way", ["alone", "beside", "again", "late", "dropped"])
def test_what_others_see_is_left_as_it_is(way: str) -> None:
    """A residual connection, layers that are used twice, whoever reads the maps behind the normalization, what does nothing in evaluation."""
    network = Twice(way).eval()
    network.conv.__class__ = FoldingConv
    with torch.no_grad(), watched(network, (nn.BatchNorm2d,)) as watch:
        network(torch.randn(2, 3, 8, 8))
    fold_norms(watch)

    assert type(network.norm) is (FOLDED[nn.BatchNorm2d] if way == "alone" else nn.BatchNorm2d)
    assert bool(network.conv.norm) == (way == "alone")


@pytest.mark.parametrize(("height", "width"), [(14, 14), (16, 14), (15, 15), (14, 15), (1, 2)])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("learns", [False, True])
def test_zeros_around_maps_are_those_of_timm(
    height: int, width: int, kernel: int, learns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they are put around the maps or, where nothing learns and the sides are even, before the kernel."""
    padded = list[int]()
    pad = torch.nn.functional.pad

    def watched(maps: Tensor, zeros: Sequence[int], **more: float) -> Tensor:
        padded.append(maps.shape[-1])
        return pad(maps, list(zeros), **more)

    monkeypatch.setattr(torch.nn.functional, "pad", watched)
    options = {"kernel_size": kernel, "stride": 2, "groups": 6, "bias": False}
    layer = Conv2dSame(6, 6, **options).double().requires_grad_(learns)  # type: ignore[arg-type]
    maps = torch.randn(2, 6, height, width, dtype=torch.float64)
    expected = layer(maps)
    layer.__class__ = SameConv
    padded.clear()

    torch.testing.assert_close(layer(maps), expected)
    even = height % 2 == width % 2 == 0
    assert padded == [kernel if even and not learns else width]


def test_another_thread_is_answered_while_a_network_is_built() -> None:
    """A server takes the next version while it answers with the last one."""
    _, model = ours_of("resnet18")
    images = torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64)
    with torch.inference_mode():
        expected = model(images)
    ready, failed, answered = threading.Event(), list[Exception](), list[bool]()

    def ask() -> None:
        with torch.inference_mode():
            while not ready.is_set() or not answered:
                try:
                    answered.append(torch.allclose(model(images), expected))
                except Exception as error:
                    failed.append(error)
                    return

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        with ThreadPoolExecutor(2) as pool:
            built = list(pool.map(ours_of, ["resnet18", "efficientnet_lite0"] * 2))
    finally:
        ready.set()
        asker.join()

    assert not failed
    assert all(answered)
    assert [len(folded_in(one)) for _, one in built] == [20, 49, 20, 49]


def test_what_is_written_elsewhere_has_each_kernel_once() -> None:
    """A graph for other programs would have the weights of the normalizations and their convolutions in vain."""
    theirs, model = ours_of("efficientnet_lite0")
    before = sum(one.numel() for one in (*model.parameters(), *model.buffers()))
    fold_for_good(model)
    drop_norms(model)
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    with torch.inference_mode():
        expected, said = theirs(images), model(images)

    torch.testing.assert_close(said, expected)
    assert sum(one.numel() for one in (*model.parameters(), *model.buffers())) < before


def test_what_is_computed_for_good_counts_as_what_it_is() -> None:
    """The operations of training are told of a network that is served."""
    config = CnnConfig(backbone="tf_efficientnet_lite0", pretrained=False)
    model = build_model(config, (SIDE, SIDE, 3), 5)
    model.keeps_statistics = True
    before = training_flops(model.eval(), (SIDE, SIDE, 3))
    fold_for_good(model)

    assert training_flops(model, (SIDE, SIDE, 3)) == before
