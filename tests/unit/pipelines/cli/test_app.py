"""The command line answers at once, and its errors are one line with status 2."""

import inspect
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgrec.config import ARCHS
from pipelines.cli import cluster, data, options, record, train
from pipelines.cli.app import COMMANDS

IMGREC = [sys.executable, "-m", "pipelines"]


def imgrec(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*IMGREC, *words], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("begun", "not_yet"),
    [
        ("pipelines.start", ("ray.train", "ray.tune", "matplotlib", "torchvision")),
        ("pipelines.cli.pages.found", ("pydantic", "torch", "mlflow", "ray")),
        ("pipelines.cli.pages.predictions", ("mlflow", "ray")),
    ],
    ids=["a run", "a model is on its way", "predict"],
)
def test_what_others_are_in_need_of_a_core_for_is_not_imported(
    begun: str, not_yet: tuple[str, ...]
) -> None:
    """A Ray that comes up beside it, or a process that asks MLflow where a model lies."""
    code = f"import sys, {begun}; print([m for m in {not_yet} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert loaded.stdout.strip() == "[]"


def test_help_and_version_need_nothing_heavy(tmp_path: Path) -> None:
    """They answer in well under a second because torch, ray and mlflow are not imported."""
    code = (
        "import sys, pipelines.cli.app; "
        "print([m for m in ('torch', 'ray', 'mlflow', 'pydantic') if m in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        shown = imgrec("--help", cwd=tmp_path)
        seconds.append(time.perf_counter() - started)

    assert loaded.stdout.strip() == "[]"
    assert "train and register every architecture" in shown.stdout
    assert min(seconds) < 1.5  # 0.3 s on a quiet machine
    assert imgrec("--version", cwd=tmp_path).stdout.startswith("imgrec 0.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--data", "nowhere"], "nowhere: no such folder"),
        (["run", "--data", "empty"], "empty: no class folder in it"),
        (["run", "--data", "one"], "only one class (cat)"),
        (["run", "missing.toml"], "missing.toml: no such file"),
        (["run", "misspelt.toml"], "train.epocs: no such setting; did you mean train.epochs?"),
        (["run", "type.toml"], "train.epochs = 'many': must be a whole number"),
        (["run", "range.toml"], "train.label_smoothing = 1.5: must be less than 1"),
        (["run", "--set", "nonsense"], "--set nonsense: write key=value"),
        (["run", "--arch", "cnnn"], "archs = ['cnnn']: must be 'ann', 'cnn'"),
        (["train", "--arch", "svm"], "archs = ['svm']: must be 'ann', 'cnn'"),
        (["train"], "Missing option '--arch'"),
        (["run", "--nonsense"], "No such option"),
        (["fly"], "No such command 'fly'"),
        (
            ["run", "--set", "tracking.uri=http://127.0.0.1:9"],
            "tracking.uri = 'http://127.0.0.1:9': no MLflow server answers there",
        ),
        (["run", "--set", "tracking.uri=somewhere"], "neither a server"),
        (["models"], "nothing has been recorded there yet"),
        (["predict", "digits-cnn", "none/*.png"], "none/*.png: no picture there"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_with_status_2(tmp_path: Path, words: list[str], said: str) -> None:
    """And nothing is left half-registered: nothing was begun."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "cat").mkdir(parents=True)
    (tmp_path / "one" / "cat" / "a.png").write_bytes(b"x")
    (tmp_path / "misspelt.toml").write_text("[train]\nepocs = 3\n")
    (tmp_path / "type.toml").write_text("[train]\nepochs = 'many'\n")
    (tmp_path / "range.toml").write_text("[train]\nlabel_smoothing = 1.5\n")

    ended = imgrec(*words, *(["--quiet"] if words[0] == "run" else []), cwd=tmp_path)

    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    (line,) = ended.stderr.strip().splitlines()
    assert line.startswith("imgrec: ")
    assert said in line
    assert "Traceback" not in ended.stderr


def test_every_command_can_be_called_and_names_every_architecture() -> None:
    """A new one is a function in one of these modules, and an entry in the app's list."""
    modules = (train, data, record, cluster)
    written = {
        function
        for module in modules
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not name.startswith("_")
    }

    assert written - {cluster.submit_to} == set(COMMANDS)
    assert ", ".join(ARCHS) == options.ARCHS
