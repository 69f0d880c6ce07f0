"""Names of networks, and whose they are."""

import pytest

from imgrec.config import ARCHS, Arch
from imgrec.config.architectures import MODEL_CONFIGS
from imgrec.config.architectures.architecture import network_of
from imgrec.errors import ConfigError
from imgrec.models.families import OTHER_NAMES, family_of, refuse_foreign


@pytest.mark.parametrize("arch", ARCHS)
def test_the_default_of_every_architecture_is_of_its_family(arch: Arch) -> None:
    """It is taken without a look at timm's list."""
    refuse_foreign(arch, MODEL_CONFIGS[arch].default_backbone)


@pytest.mark.parametrize(
    ("arch", "name", "said"),
    [
        (
            "cnn",
            "vit_b_16",
            "a name of torchvision's; timm's is vit_base_patch16_224, set as transformer",
        ),
        ("cnn", "mobilenet_v2", "timm's is mobilenetv2_100, set as cnn.model.backbone"),
        ("cnn", "resnt18", "timm has no such network; near names of this family: resnet18"),
        ("ann", "mixer_b", "near names of this family: mixer_b"),
        ("transformer", "resnet18", "this is of the family cnn; set cnn.model.backbone"),
        ("rnn", "vit_tiny_patch16_224", "this is of the family transformer"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_the_right_one(
    arch: Arch, name: str, said: str
) -> None:
    """One line, with the cure."""
    with pytest.raises(ConfigError, match=f"^{arch}.model.backbone = '{name}': .*") as caught:
        refuse_foreign(arch, name)

    assert said in str(caught.value)


@pytest.mark.parametrize("name", OTHER_NAMES.values())
def test_the_names_that_errors_tell_exist(name: str) -> None:
    """Advice that fails is worse than none."""
    assert family_of(name) in {"cnn", "transformer"}


def test_the_network_of_a_name() -> None:
    """With the hub's organization, the tag of its weights, both or neither."""
    names = ("timm/resnet18.a1_in1k", "resnet18.a1_in1k", "timm/resnet18", "resnet18")

    assert {network_of(name) for name in names} == {"resnet18"}
