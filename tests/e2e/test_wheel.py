"""What is installed is enough: no file of the clone is needed."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import ROOT


def test_the_wheel_alone_runs_the_first_command(tmp_path: Path) -> None:
    """Its settings, its templates and the code that a served model brings are inside."""
    build = ["uv", "build", "--wheel", "--quiet", "--out-dir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "site")
    home = tmp_path / "home"
    home.mkdir()
    # Before the clone, which this environment has been told of.
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    words = ["train", "--arch", "ann", "--set", "train.epochs=2", "--json"]
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "pipelines", *words],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    (model,) = json.loads(ended.stdout)["models"]
    pages = list((home / "mlruns" / "artifacts").rglob("data.html"))
    code = list((home / "mlruns" / "artifacts").rglob("code/imgrec/classifier.py"))

    assert model["registered_model"] == "digits-ann"
    assert pages
    assert code
    assert code[0].read_bytes() == (tmp_path / "site" / "imgrec" / "classifier.py").read_bytes()
