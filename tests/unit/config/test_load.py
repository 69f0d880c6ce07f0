"""Settings are checked once, and what is wrong is said in one line."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipelines
from imgrec.config import ARCHS, Config, load_config
from imgrec.config.sections import PRETRAINED_ONLY
from imgrec.errors import ConfigError

DIGITS = Path(pipelines.__file__).parent / "configs" / "digits.toml"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.epocs=3", "train.epocs: no such setting; did you mean train.epochs?"),
        ("epochs=3", "did you mean train.epochs?"),
        ("cnn.widths=[3]", "did you mean cnn.model.widths?"),
        ("foo.bar=1", "foo.bar: no such setting"),
        ("train.epochs=ten", "train.epochs = 'ten': must be a whole number"),
        ("train.epochs=-1", "train.epochs = -1: must be greater than or equal to 0"),
        ("train.epochs=true", "train.epochs = true: must be"),
        ("archs=['cnnn']", f"'{ARCHS[-2]}' or '{ARCHS[-1]}'"),
        ("cnn.train.optimizer=[1]", "cnn.train.optimizer = [1]: must be 'adamw', 'sgd' or 'muon'"),
        ("train=3", "train = 3: this is a section"),
        ("train.epochs.more=3", "train.epochs"),
        ("nonsense", "write key=value"),
        ("=3", "write key=value"),
        ("name=a b", "a name is 1 to 100 letters"),
        ("data.image_size=4000", "at most 1024 pixels"),
        ("data.test_fraction=0", "above 0"),
        ("ann.train.momentum=0.5", "momentum has no effect with optimizer = 'adamw'"),
        ("train={cuda_graphs=true, precision='fp16'}", "cuda_graphs needs precision"),
        (
            "cnn.model={backbone='compact', pretrained=true}",
            "pretrained has no effect with backbone",
        ),
        ("cnn.model={widths=[8], pretrained=true}", "pretrained has no effect with widths"),
        ("ann.model={backbone='resmlp_12_224', hidden=[8]}", "hidden has no effect with backbone"),
        ("cnn={model={backbone='compact'}, train={freeze=0.5}}", "train.freeze has no effect"),
        (
            "cnn={model={pretrained=false}, train={layer_decay=0.5}}",
            "it begins with random weights",
        ),
        (
            "cnn.train={optimizer='muon', layer_decay=0.5}",
            "layer_decay has no effect with optimizer",
        ),
        ("rnn.model.patch_size=2", "patch_size has no effect"),
        ("transformer.model.patch_size=2", "patch_size has no effect"),
        ("transformer.model.width=30", "width = 30 must be a multiple"),
        ("cluster.use_gpu=maybe", "must be true or false or must be 'auto'"),
        ("archs='cnn'", "archs = 'cnn': must be a list"),
        ("cluster.workers=[4,2]", "the first is the least; write [2, 4]"),
        ("cluster.workers=[0,2]", "1 is the least"),
        ("data.depth=[8]", "write auto, unit, or a number of bits from 8 to 32"),
        ("data.depth=12.0", "write auto, unit, or a number of bits from 8 to 32"),
        ("archs=[]", "archs = []: must have at least 1 item"),
        ("preprocess.filters=['mean']", "name a filter: gaussian, median"),
        (
            "preprocess.filters=[{filter='median', sise=5}]",
            "preprocess.filters: median.sise = 5: no such setting; it has size",
        ),
        (
            "preprocess.filters=[{filter='median', size='a'}]",
            "preprocess.filters: median.size = 'a': must be a whole number",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_rule_in_one_line(setting: str, said: str) -> None:
    """A user must be able to cure it without reading code."""
    with pytest.raises(ConfigError) as caught:
        load_config(None, [setting])

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_after_set_is_a_setting_or_an_error_for_people(text: str) -> None:
    """Nothing that is typed may end in a traceback."""
    try:
        config = load_config(None, [text])
    except ConfigError:
        return
    assert isinstance(config, Config)


def test_the_nearer_section_wins() -> None:
    """Defaults, then the architecture's defaults, then [train], then [cnn.train]."""
    config = load_config(None, ["train.epochs=7", "cnn.train.epochs=9"])
    epochs = {branch.arch: branch.train.epochs for branch in config.branches}

    assert epochs == dict.fromkeys(ARCHS, 7) | {"cnn": 9}


def test_models_of_other_pictures_have_other_names() -> None:
    """A model of photos must not take the place of the champion of digits."""
    assert load_config().name == "digits"
    assert load_config(None, ["data.source='/data/my photos/'"]).name == "my-photos"
    assert load_config(None, ["data.source='/data/photos'", "name='x'"]).name == "x"


def test_a_misspelt_key_of_an_untrained_architecture_is_refused_too() -> None:
    """It would otherwise lie in wait for the day on which that architecture is trained."""
    with pytest.raises(ConfigError, match=r"rnn\.model\.hiden"):
        load_config(None, ["archs=['ann']", "rnn.model.hiden=3"])


def test_the_bundled_digits_show_every_key_that_there_is() -> None:
    """The file is the manual: a key that it does not mention does not exist for its readers."""
    config = load_config(DIGITS)
    lines = DIGITS.read_text(encoding="utf-8").splitlines()
    # Comments hold keys at their defaults: with the marks gone, the file must still load.
    shown = "\n".join(
        line.removeprefix("# ") if " = " in line or line.startswith("# [") else line
        for line in lines
    )
    document = tomllib.loads(shown)

    assert config.archs == ARCHS
    whole = {
        "data": config.data,
        "preprocess": config.branches[0].preprocess,
        "pretrained": config.pretrained,
        "train": config.branches[0].train,
        "search": config.search,
        "calibrate": config.calibrate,
        "report": config.report,
        "promote": config.promote,
        "cluster": config.cluster,
        "tracking": config.tracking,
    }
    for name, section in whole.items():
        shown_keys = set(document[name])
        if name == "train":  # these have no effect on all of them
            shown_keys |= set(document["cnn"]["train"]) & {
                "momentum",
                "start_size",
                *PRETRAINED_ONLY,
            }
        assert shown_keys == set(type(section).model_fields), name
    for branch in config.branches:
        wanted = set(type(branch.model).model_fields) - {"arch"}
        assert branch.arch in document, f"digits.toml has no [{branch.arch}.model]"
        assert set(document[branch.arch]["model"]) == wanted, branch.arch


def test_a_config_survives_json() -> None:
    """It is logged as JSON, and read back where a model is looked into."""
    config = load_config(DIGITS)

    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"train = [", "not TOML"), (b"\xff\xfe", "UTF-8"), (None, "no such file")],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    """The path is what the user has to look at."""
    path = tmp_path / "my.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match=said) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("photos/", "photos"),
        ("my photos.zip", "my-photos"),
        ("set/a.tar.gz", "a"),
        ("B.TGZ", "B"),
        ("labels.jsonl", "labels"),
        ("shards/*.tar", "shards"),
        ("v1.5", "v1.5"),
    ],
)
def test_a_run_is_called_as_its_source_without_the_kind_of_file(source: str, name: str) -> None:
    """Models are registered under it."""
    assert load_config(None, [f"data.source='{source}'"]).name == name
