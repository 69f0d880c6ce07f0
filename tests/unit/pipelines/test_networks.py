"""Which network every architecture has."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from imgrec.config import ARCHS, load_config
from imgrec.errors import ConfigError
from imgrec.models import hub
from pipelines.networks import photo_side
from pipelines.prepare import Prepared, prepare
from tests.conftest import ROOT, no_progress
from tests.unit.data.made import MakePhotos

LITE0 = "tf_efficientnet_lite0.in1k"


@pytest.fixture(autouse=True)
def _no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and nobody to ask."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def prepared(source: str | Path, storage: Path, *settings: str) -> Prepared:
    config = load_config(None, [f"data.source='{source}'", f"storage='{storage}'", *settings])
    return prepare(config, no_progress)


def test_of_photos_the_cnn_begins_with_packaged_weights_and_the_others_say_why_not(
    make_large_photos: Callable[[], Path], tmp_path: Path
) -> None:
    """No hub, an empty cache: what can be had is taken, and one line says how to have more."""
    data = prepared(make_large_photos(), tmp_path)
    cnn, ann = data.specs["cnn"], data.specs["ann"]

    assert cnn.weights is not None
    assert cnn.model.backbone == "tf_efficientnet_lite0.in1k"
    assert (cnn.image_shape, cnn.view.crop_ratio) == ((224, 224, 3), 0.875)
    assert cnn.statistics.mean == (0.5, 0.5, 0.5)
    assert cnn.augmentation.crop_area == 0.5
    assert data.config.branch("cnn").train.layer_decay < 1
    assert ann.weights is None
    assert (ann.model.backbone, ann.image_shape) == ("compact", (128, 128, 3))
    assert ann.augmentation.crop_area == 1
    first, second = data.notes
    assert first.startswith("cnn: begins with the weights tf_efficientnet_lite0.in1k (the package")
    assert second.startswith(
        "ann, rnn, transformer: compact, from random weights: no weights are on this"
    )
    assert "imgrec fetch resmlp_12_224.fb_in1k sequencer2d_s.in1k vit_tiny" in second


def test_of_digits_everything_is_compact_and_one_line_says_so(tmp_path: Path) -> None:
    """They are no photos; and nothing of timm is imported for them."""
    data = prepared("digits", tmp_path)

    assert {spec.model.backbone for spec in data.specs.values()} == {"compact"}
    assert data.notes == (
        f"{', '.join(ARCHS)}: compact, from random weights: the pictures are grey",
    )


def test_small_colour_pictures_are_no_photos(make_photos: MakePhotos, tmp_path: Path) -> None:
    """Of 90 pixels, and kept as they are."""
    data = prepared(make_photos(), tmp_path, "archs=['cnn']")

    assert data.specs["cnn"].model.backbone == "compact"
    assert data.store.image_shape == (90, 90, 3)
    assert "smaller than photos (96 pixels)" in data.notes[0]


def test_whoever_sets_a_compact_network_gets_one(
    make_large_photos: Callable[[], Path], tmp_path: Path
) -> None:
    """Its widths, `pretrained = false` or its name: nothing is left open, and nothing is said."""
    photos = make_large_photos()
    for number, setting in enumerate(("widths=[8]", "pretrained=false", "backbone='compact'")):
        data = prepared(photos, tmp_path / str(number), "archs=['cnn']", f"cnn.model.{setting}")

        assert data.specs["cnn"].model.backbone == "compact"
        assert data.notes == ()
        assert data.store.image_shape == (128, 128, 3)


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ([], 256),
        (["cnn.model.pretrained=false", "archs=['cnn']"], 0),
        (["data.image_size=160"], 183),
        (["archs=['cnn']", "cnn.model.backbone='inception_v3'"], 342),
        (["archs=['cnn']", "cnn.model={backbone='resnet18', pretrained=false}"], 0),
    ],
)
def test_photos_are_kept_a_little_larger_than_the_largest_input(
    settings: list[str], side: int
) -> None:
    """By the settings alone, and not by whether a hub answers: 256 pixels for 224."""
    assert photo_side(load_config(None, settings)) == side


def test_a_named_network_without_weights_is_an_error_and_not_another_network(
    make_large_photos: Callable[[], Path], tmp_path: Path
) -> None:
    """Only `auto` may choose."""
    with pytest.raises(ConfigError, match=r"timm/resnet18.a1_in1k are not on this machine"):
        prepared(make_large_photos(), tmp_path, "cnn.model.backbone='resnet18'")


def test_a_setting_that_a_compact_network_has_no_use_for_is_told(
    make_large_photos: Callable[[], Path], tmp_path: Path
) -> None:
    """Nobody knew before that there would be no weights."""
    data = prepared(
        make_large_photos(), tmp_path, "archs=['transformer']", "transformer.train.finetune='probe'"
    )

    assert data.notes[0] == (
        "transformer: train.finetune has no effect: its network begins with random weights"
    )
    assert data.specs["transformer"].train.epochs > 1


def test_a_fit_of_digits_imports_neither_timm_nor_torchvision(tmp_path: Path) -> None:
    """They take three seconds and 170 MB in every process."""
    script = f"""
import sys, torch
from imgrec.config import load_config
from imgrec.data.loader import Shard
from imgrec.training.learner import build_learner
from imgrec.training.loop import fit
from pipelines.prepare import prepare
import pipelines.run
prepared = prepare(load_config(None, ["storage='{tmp_path}'", "train.epochs=1"]), lambda *_: None)
for spec in prepared.specs.values():
    fit(build_learner(spec, torch.device("cpu"), Shard()), on_epoch=lambda _: None)
print([name for name in ("timm", "torchvision", "huggingface_hub") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        ("resnet81", "timm has no such network; near names of this family: resnet"),
        ("vit_b_16", "a name of torchvision's; timm's is vit_base_patch16_224"),
    ],
)
def test_a_name_that_cannot_be_is_one_line_before_anything_is_decoded(
    backbone: str, said: str, make_large_photos: Callable[[], Path], tmp_path: Path
) -> None:
    """The side of the store is the first thing that asks timm."""
    with pytest.raises(ConfigError, match=said):
        prepared(make_large_photos(), tmp_path, f"cnn.model.backbone='{backbone}'")
    assert not (tmp_path / "store").exists()


def test_a_hub_that_goes_away_in_the_middle_costs_only_its_weights(
    make_large_photos: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` asked for them, not the user: the cnn has its packaged ones, the others are compact."""

    def breaks_off(repository: str, _file: str, where: str, cure: str) -> Path:
        msg = f"{where}: the weights {repository} cannot be fetched (broke off); {cure}"
        raise ConfigError(msg)

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(hub, "why_silent", lambda: "")
    monkeypatch.setattr(hub, "download", breaks_off)
    data = prepared(make_large_photos(), tmp_path)

    assert data.specs["cnn"].weights is not None
    assert data.specs["transformer"].weights is None
    assert any(
        "transformer: compact, from random weights: the weights timm/vit" in n for n in data.notes
    )


def with_weights(folder: Path, name: str) -> Path:
    """A folder with random weights of a network of timm's under a name."""
    import timm
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = timm.create_model(name.partition(".")[0]).state_dict()
    save_file(
        {key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors"
    )
    return folder


def test_a_mixer_is_not_taken_for_pictures_of_another_size(
    make_large_photos: Callable[[], Path], tmp_path: Path
) -> None:
    """It has weights for every place of 224 pixels; a vision transformer's are interpolated."""
    folder = with_weights(tmp_path / "models", "resmlp_12_224.fb_in1k")
    with_weights(folder, "vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    settings = ["archs=['ann', 'transformer']", f"pretrained.folder='{folder}'"]
    data = prepared(make_large_photos(), tmp_path / "s", "data.image_size=160", *settings)

    assert data.specs["ann"].weights is None
    assert "takes 224 x 224 pixels only" in data.notes[-1]
    assert data.specs["transformer"].weights is not None
    assert data.specs["transformer"].image_shape == (160, 160, 3)


def test_weights_of_the_hub_name_their_network() -> None:
    """`pretrained` alone says both; what only they have a use for is allowed at once."""
    config = load_config(
        None, ["cnn.model.pretrained='timm/resnet18.a1_in1k'", "cnn.train.finetune='probe'"]
    )

    assert config.branch("cnn").model.backbone == "resnet18"
    assert photo_side(config) == 256


def test_a_search_space_of_the_compact_network_asks_for_that_one(
    make_large_photos: Callable[[], Path], tmp_path: Path
) -> None:
    """Its widths are nothing to a network of timm's."""
    data = prepared(
        make_large_photos(), tmp_path, "archs=['cnn']", "cnn.space.model.widths=[[8], [8, 16]]"
    )

    assert data.specs["cnn"].model.backbone == "compact"
    assert "its search space is that of the compact network" in data.notes[0]


def test_a_run_that_goes_on_finds_what_it_kept(
    make_large_photos: Callable[[], Path], tmp_path: Path
) -> None:
    """The folder that it came from may be gone, and nobody is asked."""
    folder = with_weights(tmp_path / "models", "test_resnet.r160_in1k")
    words = ["archs=['cnn']", "cnn.model.backbone='test_resnet'"]
    photos = make_large_photos()
    first = prepared(photos, tmp_path / "s", *words, f"pretrained.folder='{folder}'")
    again = prepared(photos, tmp_path / "s", *words)
    one, other = first.specs["cnn"].weights, again.specs["cnn"].weights

    assert one is not None
    assert other is not None
    assert (one.sha256, one.mean, one.licence) == (other.sha256, other.mean, other.licence)
    assert first.specs["cnn"].key == again.specs["cnn"].key


def test_a_plan_needs_no_weights(make_large_photos: Callable[[], Path], tmp_path: Path) -> None:
    """What timm knows of them is enough to say how long it will take."""
    config = load_config(
        None,
        [
            f"data.source='{make_large_photos()}'",
            f"storage='{tmp_path}'",
            "archs=['cnn']",
            "cnn.model.backbone='resnet18'",
        ],
    )
    spec = prepare(config, no_progress, planning=True).specs["cnn"]

    assert spec.weights is not None
    assert spec.weights.to_be_fetched
    assert spec.image_shape == (224, 224, 3)


def test_of_a_probe_alone_nothing_is_searched(
    make_large_photos: Callable[[], Path], tmp_path: Path
) -> None:
    """All trials would be the same model."""
    data = prepared(
        make_large_photos(),
        tmp_path,
        "archs=['cnn']",
        "cnn.train.finetune='probe'",
        "cnn.space.train.learning_rate=[0.001, 0.002]",
    )

    assert data.config.branch("cnn").space == ()
    assert data.notes[-1] == "cnn: its space has no effect: the last layer alone is trained"


def test_who_pads_pictures_loses_nothing_to_a_crop(
    make_large_photos: Callable[[], Path], tmp_path: Path
) -> None:
    """`fit` and `stretch` ask for the whole picture."""
    photos = make_large_photos()
    ratios = [
        prepared(photos, tmp_path, "archs=['cnn']", f"data.resize='{how}'")
        .specs["cnn"]
        .view.crop_ratio
        for how in ("fill", "fit", "stretch")
    ]

    assert ratios == [0.875, 1.0, 1.0]


def test_what_a_run_was_begun_with_holds(
    make_large_photos: Callable[[], Path], tmp_path: Path
) -> None:
    """Online or not, with a GPU or without."""
    photos = make_large_photos()
    config = load_config(None, [f"data.source='{photos}'", f"storage='{tmp_path}'"])
    begun = {"ann": "compact", "cnn": "compact", "rnn": "compact", "transformer": "compact"}
    data = prepare(config, no_progress, decided=begun | {"on_gpu": "yes"})

    assert {spec.weights for spec in data.specs.values()} == {None}
    assert data.on_gpu
    assert data.asked == prepare(config, no_progress).asked


def test_where_there_is_a_gpu_a_larger_network_is_begun_with(
    make_large_photos: Callable[[], Path], tmp_path: Path
) -> None:
    """Where its weights can be had; else the one that everybody takes."""
    folder = with_weights(tmp_path / "models", "vit_small_patch16_224.augreg_in21k_ft_in1k")
    with_weights(tmp_path / "models", "vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    settings = [
        f"data.source='{make_large_photos()}'",
        f"storage='{tmp_path / 's'}'",
        f"pretrained.folder='{folder}'",
        "archs=['cnn', 'transformer']",
    ]
    config = load_config(None, settings)

    def backbones(*, on_gpu: bool) -> list[str]:
        specs = prepare(config, no_progress, on_gpu=on_gpu).specs
        return [specs[arch].model.backbone.partition(".")[0] for arch in ("cnn", "transformer")]

    assert backbones(on_gpu=True) == ["tf_efficientnet_lite0", "vit_small_patch16_224"]
    assert backbones(on_gpu=False) == ["tf_efficientnet_lite0", "vit_tiny_patch16_224"]


def test_a_search_tries_the_networks_whose_weights_are_at_hand(
    make_large_photos: Callable[[], Path], tmp_path: Path
) -> None:
    """Each at its own size; of a probe alone it is all that there is to try, and who says what wants no more."""
    photos, folder = make_large_photos(), tmp_path / "models"
    for name in ("tf_efficientnet_lite1.in1k", "resnet18.a1_in1k"):
        with_weights(folder, name)
    search = ["archs=['cnn']", "search.trials=4", f"pretrained.folder='{folder}'"]
    data = prepared(photos, tmp_path, *search)
    choices = {d.key: d.choices for d in data.config.branch("cnn").space}["model.backbone"]
    trial = data.config.branch("cnn").with_settings({"model.backbone": choices[1]})
    spec = data.spec_of(trial)

    assert choices == (LITE0, "tf_efficientnet_lite1.in1k", "resnet18.a1_in1k")
    assert spec.image_shape == (240, 240, 3)
    assert spec.weights is not None
    assert spec.weights.name == "tf_efficientnet_lite1.in1k"
    probe = prepared(photos, tmp_path, *search, "cnn.train.finetune='probe'")
    assert [d.key for d in probe.config.branch("cnn").space] == ["model.backbone"]
    written = prepared(
        photos,
        tmp_path,
        *search,
        "cnn.space.model.backbone=['tf_efficientnet_lite0.in1k', 'resnet18.a1_in1k']",
    )
    (only,) = (d for d in written.config.branch("cnn").space if d.key == "model.backbone")
    assert only.choices == (LITE0, "resnet18.a1_in1k")
    assert written.specs["cnn"].model.backbone == LITE0
    with pytest.raises(ConfigError, match="not on this machine"):
        prepared(
            photos,
            tmp_path,
            *search,
            "cnn.space.model.backbone=['tf_efficientnet_lite0.in1k', 'resnet34']",
        )
