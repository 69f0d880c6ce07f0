"""A batch normalization with fixed statistics is part of the convolution before it, and nobody can tell."""

import copy

import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from imgrec.config import CnnConfig
from imgrec.models import build_model
from imgrec.models.folding import Convolution, SameConvolution, fold_for_good, fold_norms
from imgrec.models.network import BatchNorm

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


def folded_in(model: nn.Module) -> list[Convolution]:
    return [one for one in model.modules() if isinstance(one, Convolution) and one.norm]


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
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to maps."""
        maps = self.conv(images)
        if self.way == "beside":
            return maps + self.norm(maps)
        if self.way == "again":
            return self.norm(maps) + self.norm(self.conv(images.flip(3)))
        return self.norm(maps) if images.shape[0] > 1 else maps


@pytest.mark.parametrize("way", ["beside", "again", "by size"])
def test_what_others_see_is_left_as_it_is(way: str) -> None:
    """A residual connection, layers that are used twice, a way that depends on the pictures."""
    network = Twice(way)
    fold_norms(network, {nn.Conv2d: Convolution}, [nn.BatchNorm2d])

    assert type(network.norm) is nn.BatchNorm2d
    assert type(network.conv) is nn.Conv2d


@pytest.mark.parametrize("side", [14, 15, 16, 33])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("learns", [False, True])
def test_zeros_around_maps_are_those_of_timm(side: int, kernel: int, learns: bool) -> None:
    """Whether they are put around the maps or, where nothing learns, before the kernel."""
    options = {"kernel_size": kernel, "stride": 2, "groups": 6, "bias": False}
    layer = Conv2dSame(6, 6, **options).double().requires_grad_(learns)  # type: ignore[arg-type]
    maps = torch.randn(2, 6, side, side + 1, dtype=torch.float64)
    expected = layer(maps)
    layer.__class__ = SameConvolution

    torch.testing.assert_close(layer(maps), expected)
