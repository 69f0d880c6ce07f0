"""What is sent to a cluster, and what is refused before."""

import shutil
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from imgrec.config import load_config
from imgrec.errors import ClusterError, ImgrecError
from pipelines.request import Request, RunFlags, make_request
from pipelines.upload import (
    installed_packages,
    last_object,
    packed,
    refuse_local,
    settings_for,
    upload_digest,
    words_for,
)


def asked(*changes: str, file: Path | None = None) -> Request:
    return make_request(file, settings=list(changes))


def test_code_and_settings_are_sent_and_nothing_else(tmp_path: Path) -> None:
    """Never data, runs or history, whatever lies in the current folder."""
    file = tmp_path / "my.toml"
    file.write_text("seed = 1")
    with packed(asked(file=file)) as folder:
        sent = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]

    assert Path("run.toml") in sent
    assert Path("imgrec/classifier.py") in sent
    assert {path.parts[0] for path in sent} == {"imgrec", "pipelines", "run.toml"}
    assert {path.suffix for path in sent} <= {
        *(".py", ".toml", ".jinja", ".typed"),
        *(".html", ".css", ".js"),  # the page of the server
    }


def test_the_same_run_has_the_same_name_and_another_has_another(tmp_path: Path) -> None:
    """So that to submit twice is not to run twice."""
    settings = ["tracking.uri=http://mlflow:5000", f"storage={tmp_path}"]
    names = []
    for changes in (settings, settings, [*settings, "seed=5"]):
        one = asked(*changes)
        with packed(one) as folder:
            names.append(upload_digest(folder, words_for("run", one, RunFlags())))

    assert names[0] == names[1] != names[2]


def test_a_disk_failure_is_an_error_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the upload is packed."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(ClusterError, match="No space left on device"), packed(asked()):
        pass


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["tracking.uri=sqlite:////x.db"], "set a server"),
        (["tracking.uri=http://mlflow:5000"], "a folder of this machine"),
    ],
)
def test_what_only_this_machine_sees_is_refused(changes: list[str], said: str) -> None:
    """With what to set instead."""
    with pytest.raises(ImgrecError, match=said):
        refuse_local(asked(*changes).config)


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ('  0.0 s  a line with { in it\n{\n  "a": {\n    "b": 1\n  }\n}\n', {"a": {"b": 1}}),
        ('{\n  "a": 1\n}\n', {"a": 1}),
        ("Traceback\n{ broken", None),
        ("said\n{\n  cut off", None),
        ("", None),
    ],
)
def test_the_result_is_found_at_the_end_of_a_log(log: str, found: object) -> None:
    """A job's log has both of its streams."""
    assert last_object(log) == found


def test_settings_are_sent_as_they_were_written_and_paths_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head has another current folder; what was left out is left to the head's own defaults."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my.toml"
    file.write_text('[data]\nsource = "photos"\n[cnn.train]\nepochs = 3\n')
    changes = ["storage=/shared", "tracking.uri=http://mlflow:5000", 'data.classes=["a b", "ü"]']
    one = make_request(file, settings=changes, archs=["cnn"], budget="10m")
    sent = tomllib.loads(settings_for(one))

    assert sent == {
        "archs": ["cnn"],
        "storage": "/shared",
        "data": {"source": f"{tmp_path}/photos", "classes": ["a b", "ü"]},
        "cnn": {"train": {"epochs": 3}},
        "search": {"budget": "10m"},
        "tracking": {"uri": "http://mlflow:5000"},
    }
    with packed(one) as folder:
        there = load_config(folder / "run.toml")
    in_full = one.config.data.model_copy(update={"source": f"{tmp_path}/photos"})
    assert there == one.config.model_copy(update={"data": in_full})


def test_packages_are_named_in_the_versions_of_here() -> None:
    """With their extras, and without what only development needs."""
    packages = installed_packages()

    assert f"torch=={metadata.version('torch')}" in packages
    assert f"ray[default,train,tune]=={metadata.version('ray')}" in packages
    assert not [one for one in packages if one.startswith("pytest")]
