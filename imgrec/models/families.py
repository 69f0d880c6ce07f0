"""Which networks of timm belong to which architecture."""

import difflib
from functools import cache

from imgrec.config import ARCHS, Arch
from imgrec.config.architectures.architecture import network_of
from imgrec.errors import ConfigError

MODULES: dict[Arch, frozenset[str]] = {
    "ann": frozenset({"mlp_mixer"}),
    "rnn": frozenset({"sequencer"}),
    "transformer": frozenset(
        {
            "beit",
            "cait",
            "coat",
            "convit",
            "crossvit",
            "davit",
            "deepseek_vit",
            "deit",
            "efficientformer",
            "efficientformer_v2",
            "efficientvit_msra",
            "eva",
            "gcvit",
            "gemma4_vit",
            "hiera",
            "hieradet_sam2",
            "levit",
            "maxxvit",
            "mobilevit",
            "mvitv2",
            "naflexvit",
            "nest",
            "nextvit",
            "pit",
            "pvt_v2",
            "qwen3_vit",
            "swin_transformer",
            "swin_transformer_v2",
            "swin_transformer_v2_cr",
            "tiny_vit",
            "tnt",
            "twins",
            "visformer",
            "vision_transformer",
            "vision_transformer_hybrid",
            "vision_transformer_relpos",
            "vision_transformer_sam",
            "vitamin",
            "volo",
            "xcit",
        }
    ),
}
"""Modules of timm by architecture: perceptrons over patches are ann, recurrent networks rnn, and what has
attention between places of the picture is a transformer, also where it begins with convolutions. All others
are cnn."""

OTHER_NAMES = {
    "efficientnet_v2_l": "tf_efficientnetv2_l",
    "efficientnet_v2_m": "tf_efficientnetv2_m",
    "efficientnet_v2_s": "tf_efficientnetv2_s",
    "maxvit_t": "maxvit_tiny_tf_224",
    "mnasnet0_5": "mnasnet_050",
    "mnasnet0_75": "mnasnet_075",
    "mnasnet1_0": "mnasnet_100",
    "mnasnet1_3": "mnasnet_140",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "regnet_x_16gf": "regnetx_160",
    "regnet_x_1_6gf": "regnetx_016",
    "regnet_x_32gf": "regnetx_320",
    "regnet_x_3_2gf": "regnetx_032",
    "regnet_x_400mf": "regnetx_004_tv",
    "regnet_x_800mf": "regnetx_008",
    "regnet_x_8gf": "regnetx_080",
    "regnet_y_128gf": "regnety_1280",
    "regnet_y_16gf": "regnety_160",
    "regnet_y_1_6gf": "regnety_016",
    "regnet_y_32gf": "regnety_320",
    "regnet_y_3_2gf": "regnety_032",
    "regnet_y_400mf": "regnety_004",
    "regnet_y_800mf": "regnety_008",
    "regnet_y_8gf": "regnety_080",
    "swin_b": "swin_base_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_v2_b": "swinv2_base_window8_256",
    "swin_v2_s": "swinv2_small_window8_256",
    "swin_v2_t": "swinv2_tiny_window8_256",
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_h_14": "vit_huge_patch14_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
}
"""Names that only torchvision has, and what timm calls the same network or the nearest one."""


def refuse_foreign(arch: Arch, name: str) -> None:
    """Raise ConfigError where timm has no such network, or it is of another architecture.

    Args:
        arch: The architecture that asks.
        name: Of a network, with or without a tag of its weights: `resnet18`, `resnet18.a1_in1k`.
    """
    where = f"{arch}.model.backbone = {name!r}"
    network = network_of(name)
    if network in known_networks():
        family = family_of(network)
        if family != arch:
            msg = f"{where}: this is of the family {family}; set {family}.model.backbone"
            raise ConfigError(msg)
        return
    if known := OTHER_NAMES.get(network):
        family = family_of(known)
        msg = f"{where}: a name of torchvision's; timm's is {known}, set as {family}.model.backbone"
        raise ConfigError(msg)
    own = [other for other in known_networks() if family_of(other) == arch]
    near = difflib.get_close_matches(network, own, n=5, cutoff=0.4)
    hint = f"near names of this family: {', '.join(near)}" if near else "timm.list_models() has all"
    msg = f"{where}: timm has no such network; {hint}"
    raise ConfigError(msg)


def family_of(network: str) -> Arch:
    """The architecture of one of timm's networks."""
    module = known_networks()[network]
    return next((arch for arch in ARCHS if module in MODULES.get(arch, ())), "cnn")


@cache
def known_networks() -> dict[str, str]:
    """Timm's networks, each with the module that it is in."""
    # timm imports torchvision, which takes three seconds together: only where it is asked for.
    import timm  # noqa: PLC0415

    return {
        name: timm.model_entrypoint(name).__module__.rpartition(".")[2]
        for name in timm.list_models()
    }
