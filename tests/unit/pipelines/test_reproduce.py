"""The settings with which a model is made again: those of its record, and what was decided then."""

from pathlib import Path

import pytest

from imgrec.config import load_config
from pipelines.lineage import Chosen, Lineage
from pipelines.reproduce import again


def lineage(
    settings: list[str], network: str, search: Chosen | None = None, cores: int = 0
) -> Lineage:
    """Of a cnn, from the settings as a run keeps them."""
    config = load_config(None, ["data.source='/data/photos'", *settings])
    written = config.model_dump(mode="json", exclude={"branches"})
    written |= {branch.arch: branch.model_dump(mode="json") for branch in config.branches}
    return Lineage(
        name="photos-cnn",
        version=3,
        champion_version=3,
        why="",
        arch="cnn",
        run_id="r",
        about={},
        data={},
        source="/data/photos",
        begins_with="",
        network=network,
        settings={},
        seed=7,
        arithmetic="bf16",
        devices="",
        cores=cores,
        search=search,
        epoch=1,
        code="",
        parity=None,
        decisions=[],
        command="imgrec run",
        config=written,
    )


def test_everything_that_decided_the_weights_is_kept(tmp_path: Path) -> None:
    """Seed, arithmetic, network, what was written, and what a search has chosen; nothing is searched again."""
    chosen = Chosen("s", 20, 4, {"train.learning_rate": 0.002, "preprocess.shift": 0.1})
    asked = ["search.trials=20", "cnn.train.epochs=9", "data.image_size=[48, 64]", "seeds=3"]
    config = again(lineage(asked, "compact", chosen), tmp_path)
    (branch,) = config.branches

    assert (config.archs, config.seed, config.seeds) == (("cnn",), 7, 1)
    assert config.storage == str(tmp_path)
    assert (
        config.tracking.uri == f"sqlite:///{tmp_path}/mlflow.db"
    )  # whatever the environment names
    assert not config.search.wanted
    assert branch.model.backbone == "compact"
    assert branch.train.precision == "bf16"
    assert (branch.train.epochs, branch.train.learning_rate) == (9, 0.002)
    assert branch.preprocess.shift == 0.1
    assert config.data.source == "/data/photos"
    assert config.data.image_size == (48, 64)


def test_as_many_cores_are_taken_as_had_trained_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They decide the last bits of the weights: four models side by side had fewer each than one alone has."""
    monkeypatch.setattr("pipelines.reproduce.available_cores", lambda: 4)
    joined, two = ["cluster.address='10.0.0.1:6379'"], ["cluster.workers=2"]

    assert again(lineage([], "compact", cores=1), tmp_path).cluster.cpus_per_worker == 1
    assert again(lineage([], "compact", cores=8), tmp_path).cluster.cpus_per_worker == 0
    assert again(lineage(two, "compact", cores=2), tmp_path).cluster.cpus_per_worker == 2
    assert again(lineage(two, "compact", cores=4), tmp_path).cluster.cpus_per_worker == 0
    assert again(lineage(joined, "compact", cores=1), tmp_path).cluster.cpus_per_worker == 0


@pytest.mark.parametrize(
    ("written", "network", "pretrained"),
    [
        ([], "tf_efficientnet_lite0.in1k", True),
        ([], "compact", False),
        (["cnn.model.backbone='resnet18'", "cnn.model.pretrained=false"], "resnet18", False),
    ],
)
def test_the_network_that_was_decided_on_is_taken(
    written: list[str], network: str, pretrained: bool, tmp_path: Path
) -> None:
    """Also where another one would be decided on today; what was written stays as it was."""
    (branch,) = again(lineage(written, network), tmp_path).branches

    assert branch.model.backbone == network
    assert branch.model.is_pretrained == pretrained


def test_settings_for_pretrained_networks_that_had_no_effect_are_left_out(tmp_path: Path) -> None:
    """A compact network refuses them."""
    (branch,) = again(lineage(["cnn.train.finetune='probe'"], "compact"), tmp_path).branches

    assert branch.model.backbone == "compact"
    assert branch.train.finetune == "auto"
