"""The program as its users meet it: commands in a folder, then a served model asked over HTTP."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from imgrec.config import TrackingConfig
from imgrec.machine import free_port
from imgrec.tracking.connection import connect
from tests.conftest import picture
from tests.e2e.user import CLASSES, IMGREC, imgrec, make_pictures, served


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """A folder in which `imgrec run` was run on a person's pictures: folder, JSON, screen."""
    folder = tmp_path_factory.mktemp("user")
    make_pictures(folder)
    name = ("--name", "thirds")
    words = ["small.toml", "--data", "my pictures", *name, "--set", "report.corrupted=20"]
    ended = imgrec("run", *words, "--json", cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return folder, json.loads(ended.stdout), ended.stderr


Finished = tuple[Path, dict[str, Any], str]


def test_one_command_registers_four_models_that_learned(finished: Finished) -> None:
    """The main job."""
    folder, result, _ = finished
    models = result["models"]

    assert set(result) >= {"name", "tracking_uri", "run_id", "data", "models", "seconds"}
    assert result["tracking_uri"] == f"sqlite:///{folder}/mlruns/mlflow.db"
    assert result["data"]["class_names"] == list(CLASSES)
    assert [result["data"][split] for split in ("train", "val", "test")] == [126, 18, 36]
    assert result["data"]["quarantined"] == 1
    assert {model["registered_model"] for model in models} == {
        f"thirds-{arch}" for arch in ("ann", "cnn", "rnn", "transformer")
    }
    for model in models:
        assert model["version"] == 1
        assert model["test"]["accuracy"] > 0.8, model
        assert set(model["test"]) == {
            "accuracy",
            "macro_f1",
            "balanced_accuracy",
            "log_loss",
            "worst_recall",
        }
        assert model["parameters"] > 100
        assert model["images_per_second"] > 1
    scores = [model["test"]["macro_f1"] for model in models]
    assert scores == sorted(scores, reverse=True)


def test_the_same_command_again_takes_everything_from_the_record(finished: Finished) -> None:
    """Nothing of Ray is asked for, not even a GPU that this machine does not have; and `--plan` says so before."""
    folder, result, _ = finished
    words = ["small.toml", "--data", "my pictures", "--name", "thirds", "--json"]
    words += ["--set", "report.corrupted=20"]
    planned = imgrec("run", *words, "--plan", cwd=folder)
    again = imgrec("run", *words, "--set", "cluster.use_gpu=true", cwd=folder)
    taken = json.loads(again.stdout)
    states = {stage["state"] for stage in json.loads(planned.stdout)["stages"]}

    assert states == {"done"}
    assert "starting Ray" not in again.stderr
    assert "model taken from the record: thirds-cnn version 1" in again.stderr
    assert taken["run_id"] == result["run_id"]
    assert all(model["taken"] for model in taken["models"])
    for one, other in zip(taken["models"], result["models"], strict=True):
        assert one["registered_model"] == other["registered_model"]
        assert one["version"] == 1
        assert one["test"] == pytest.approx(other["test"])
        assert one["parameters"] == other["parameters"]


@pytest.mark.long
def test_a_change_of_one_architecture_redoes_that_one_alone(finished: Finished) -> None:
    """In a run of its own; the plan says so before, and starts neither Ray nor training."""
    folder, result, _ = finished
    words = ["small.toml", "--data", "my pictures", "--name", "thirds", "--json"]
    words += ["--set", "report.corrupted=20"]
    words += ["--set", "ann.train.label_smoothing=0.05"]
    # To start Ray would be to join a cluster that does not exist.
    nowhere = "--set=cluster.address=127.0.0.1:9"
    planned = imgrec("run", *words, "--plan", nowhere, cwd=folder)
    changed = json.loads(imgrec("run", *words, cwd=folder).stdout)
    listed = json.loads(imgrec("runs", "--json", cwd=folder).stdout)["runs"]
    stages = json.loads(planned.stdout)["stages"]
    to_do = {(stage["name"], stage["arch"]) for stage in stages if stage["state"] != "done"}

    assert to_do == {
        ("start", ""),
        ("fit", "ann"),
        ("evaluate, register", "ann"),
    }
    assert all(stage["seconds"] > 0 for stage in stages if stage["name"] == "fit" and stage["disk"])
    assert planned.returncode == 0
    assert {model["arch"]: model["taken"] for model in changed["models"]} == {
        "ann": False,
        "cnn": True,
        "rnn": True,
        "transformer": True,
    }
    assert changed["run_id"] != result["run_id"]
    assert [run["state"] for run in listed] == ["finished", "finished"]


def test_the_screen_shows_our_lines_and_nothing_of_ray_or_mlflow(finished: Finished) -> None:
    """Their chatter is in the log file."""
    folder, _, screen = finished

    for line in screen.rstrip().splitlines():
        assert re.match(r" *\d+\.\d s  \S", line), line
    assert "1 file left out (such as" in screen
    assert "what was left out is listed in" in screen
    assert len(list((folder / "mlruns" / "logs").glob("*.log"))) >= 1


def test_mlflow_holds_everything_that_explains_the_models(finished: Finished) -> None:
    """Whoever opens the UI sees settings, curves, pictures and what was left out."""
    folder, result, _ = finished
    tracking = connect(TrackingConfig(), folder / "mlruns", create=False)
    client = tracking.client
    parent = client.get_run(result["run_id"])
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    below = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    runs = client.search_runs([parent.info.experiment_id], below)

    assert parent.info.status == "FINISHED"
    assert files >= {"config.json", "data.json", "quarantine.csv", "leaderboard.json"}
    assert files >= {"comparison.json", "comparison.png"}
    assert parent.data.tags["data.fingerprint"] == result["data"]["fingerprint"]
    assert len(runs) == 4
    for model in result["models"]:
        run = client.get_run(model["run_id"])
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "val/macro_f1")]
        # Not the champion: another test may have trained a better one since.
        version = client.get_model_version(model["registered_model"], str(model["version"]))
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert steps == list(range(1, 21))
        assert run.data.metrics["test/accuracy"] == pytest.approx(model["test"]["accuracy"])
        assert run.data.params["train.epochs"] == "20"
        assert files >= {"confusion.png", "learning_curves.png", "per_class.json"}
        assert "test_answers.npz" in files
        assert version.run_id == model["run_id"]
        assert float(version.tags["test/macro_f1"]) == pytest.approx(model["test"]["macro_f1"])


def test_predict_and_models_use_the_registry(finished: Finished, tmp_path: Path) -> None:
    """From the same folder, with nothing but names."""
    folder, *_ = finished
    picture(1, 999).save(tmp_path / "new picture.jpg", quality=95)
    (tmp_path / "no.png").write_bytes(b"no")
    new = str(tmp_path / "new picture.jpg")
    ended = imgrec("predict", "thirds-cnn", new, new, "--json", cwd=folder)
    listed = imgrec("models", "--json", cwd=folder)
    several = imgrec(
        "predict",
        "models:/thirds-cnn/1",
        str(tmp_path),
        str(tmp_path / "*.jpg"),
        "gone.png",
        str(tmp_path / "*.gif"),
        "--json",
        cwd=folder,
    )
    piped = subprocess.run(
        [*IMGREC, "predict", "thirds-cnn", "-", "--json"],
        cwd=folder,
        input=Path(new).read_bytes(),
        capture_output=True,
        check=False,
    )
    unknown = imgrec("predict", "thirds-svm", new, cwd=folder)

    predictions = json.loads(ended.stdout)["predictions"]
    assert [found["label"] for found in predictions] == ["middle", "middle"]
    assert sum(predictions[0]["probabilities"].values()) == pytest.approx(1)
    assert {m["registered_model"] for m in json.loads(listed.stdout)["models"]} >= {"thirds-cnn"}
    assert several.returncode == 3
    answers = json.loads(several.stdout)
    assert [found["file"] for found in answers["predictions"]] == [new, new]
    assert [found["file"] for found in answers["unread"]] == [
        f"{tmp_path}/no.png",
        "gone.png",
        f"{tmp_path}/*.gif",
    ]
    assert "not a picture" in answers["unread"][0]["reason"]
    assert several.stderr.startswith("imgrec: 3 of 5 pictures cannot be read (such as ")
    assert json.loads(piped.stdout)["predictions"][0]["label"] == "middle"
    assert unknown.returncode == 2
    assert "thirds-svm: no such model (there are thirds-ann" in unknown.stderr


def test_compare_says_which_model_is_better(finished: Finished) -> None:
    """The same as the run said, of the last run, of one by its name or id; of others one line."""
    folder, result, _ = finished
    last = imgrec("compare", "--json", cwd=folder)
    named = imgrec("compare", "thirds", cwd=folder)
    by_id = imgrec("compare", result["run_id"][:10], "--json", cwd=folder)
    unknown = imgrec("compare", "fourths", cwd=folder)
    told = json.loads(by_id.stdout)
    client = connect(TrackingConfig(), folder / "mlruns", create=False).client

    assert last.returncode == by_id.returncode == 0, last.stderr
    assert told["models"] == result["comparison"]["models"]
    assert told["pictures"] == 36
    assert len(told["pairs"]) == 6
    for model in told["models"]:
        interval = model["accuracy_interval"]
        assert interval["low"] <= model["accuracy"] <= interval["high"]
    for pair in told["pairs"]:
        assert not pair["better"] or pair["verdict"] in named.stdout
    some = {pair["better"] for pair in told["pairs"]} != {None}
    assert ("none of the 4 is best: on 36 test pictures" in named.stdout) is not some
    assert unknown.returncode == 2
    assert "fourths: no such run; imgrec runs lists them" in unknown.stderr
    note = client.get_run(result["run_id"]).data.tags["mlflow.note.content"]
    assert "| rank | model | accuracy | macro-F1 | begins with |" in note


def test_the_report_is_a_page_that_needs_nothing_beside_it(finished: Finished) -> None:
    """In MLflow, and as a file in two languages; its numbers for programs."""
    folder, result, _ = finished
    here = imgrec("report", cwd=folder)
    chinese = imgrec("report", "thirds", "--language", "zh", "--out", "zh.html", cwd=folder)
    told = imgrec("report", result["run_id"][:12], "--json", cwd=folder)
    unknown = imgrec("report", "fourths", cwd=folder)
    client = connect(TrackingConfig(), folder / "mlruns", create=False).client
    page = (folder / "thirds-report.html").read_text(encoding="utf-8")
    numbers = json.loads(told.stdout)

    assert here.stdout.strip() == f"{folder}/thirds-report.html"
    assert {one["arch"] for one in numbers["models"]} == {"ann", "cnn", "rnn", "transformer"}
    for model in numbers["models"]:
        assert model["costs"]["milliseconds"] > 0
        assert model["robustness"]["pictures"] == 20
        assert model["trust"]["pictures"] == 36
        # Nine calibrating pictures cannot promise 95 %.
        assert model["trust"]["sets"] is None
    assert numbers["data"]["choosing"] + numbers["data"]["calibrating"] == 18
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]+", page)
    assert "可信度" in (folder / "zh.html").read_text(encoding="utf-8")
    assert chinese.returncode == 0, chinese.stderr
    files = {one.path for one in client.list_artifacts(result["run_id"])}
    assert {"report.html", "report.json", "report"} <= files
    assert unknown.returncode == 2
    assert unknown.stderr == "imgrec: fourths: no such run; imgrec runs lists them\n"


def test_a_model_says_where_it_comes_from_and_is_made_again_bit_for_bit(finished: Finished) -> None:
    """Its lineage on one page; and its command, run again elsewhere, ends with the same weights."""
    folder, result, _ = finished
    page = imgrec("why", "thirds-ann", cwd=folder)
    told = imgrec("why", "thirds-ann/1", "--json", cwd=folder)
    unknown = imgrec("why", "thirds-ann/7", cwd=folder)
    again = imgrec("reproduce", "thirds-ann@champion", "--json", "--quiet", cwd=folder)
    lineage = json.loads(told.stdout)
    made = json.loads(again.stdout)

    for words in (
        "thirds-ann version 1: champion",
        "3 classes (left, middle, right)",
        result["data"]["fingerprint"],
        "ann.train.epochs = 20 (0)",
        "imgrec run small.toml",
        "promoted: it beats whoever always says",
        "golden pictures",
    ):
        assert words in page.stdout, words
    assert lineage["data"]["quarantined"] == 1
    assert lineage["settings"]["ann.model.hidden"] == {"value": [32], "default": [512, 256]}
    assert lineage["search"] is None
    assert unknown.returncode == 2
    assert again.returncode == 0, again.stderr
    assert made["same"]
    assert made["changed"] == []


def test_who_is_champion_and_why_is_told_and_can_be_asked_again(finished: Finished) -> None:
    """On the screen of a run, by `history`, and in MLflow's own pages; what makes no sense is one line."""
    folder, result, screen = finished
    told = imgrec("history", "thirds-rnn", "--json", cwd=folder)
    again = imgrec("promote", "thirds-rnn", "--version", "1", cwd=folder)
    back = imgrec("rollback", "thirds-rnn", cwd=folder)
    unknown = imgrec("history", "thirds-svm", cwd=folder)
    client = connect(TrackingConfig(), folder / "mlruns", create=False).client
    model = client.get_registered_model("thirds-rnn")
    version = client.get_model_version("thirds-rnn", "1")

    assert told.returncode == 0, told.stderr
    (decision,) = json.loads(told.stdout)["decisions"]
    assert (decision["version"], decision["outcome"], decision["before"]) == (1, "promoted", None)
    assert "it beats whoever always says" in decision["reason"]
    assert "imgrec run small.toml" in decision["asked_by"]
    assert re.search(r"registered as thirds-rnn version 1; champion", screen)
    for ended, words in (
        (again, "thirds-rnn/1: is champion already"),
        (back, "version 1 was the first champion"),
        (unknown, "thirds-svm: no such model"),
    ):
        assert ended.returncode == 2
        assert words in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
    assert set(model.tags) == {"accuracy", "data", "architecture"}
    decided = client.get_run(version.tags["imgrec.decided_by"]).data
    assert {"challenger", "champion", "chance", "level", "pictures"} <= decided.metrics.keys()
    assert decided.metrics["challenger"] > decided.metrics["champion"]
    experiment = client.get_run(version.run_id).info.experiment_id
    logged = client.search_logged_models([experiment], f"source_run_id = '{version.run_id}'")
    assert [json.loads(one.tags["mlflow.modelVersions"]) for one in logged] == [
        [{"name": model.name, "version": 1}]
    ]
    assert "**Version 1 is champion**: it beats whoever always says" in model.description
    assert "rnn that tells apart 3 classes (left, middle, right)" in version.description
    assert all(one["champion"] and not one["why_not"] for one in result["models"])


def test_a_registered_model_answers_over_http(finished: Finished, tmp_path: Path) -> None:
    """`mlflow models serve`, as anyone would who has never heard of imgrec."""
    _, result, _ = finished
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m"]
    command += ["models:/thirds-cnn@champion", "--env-manager", "local", "--port", str(port)]
    # As under `uv run`: MLflow looks for uvicorn on the path.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": result["tracking_uri"], "PATH": path}
    picture(2, 999).save(tmp_path / "new.png")

    def ask(content: bytes) -> tuple[int, Any]:
        rows = [{"image": base64.b64encode(content).decode()}] * 3
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"dataframe_records": rows}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    with served(command, f"http://127.0.0.1:{port}/ping", cwd=tmp_path, env=environment):
        status, answer = ask((tmp_path / "new.png").read_bytes())
        bad_status, bad_answer = ask(b"no picture")

    assert status == 200
    assert [row["label"] for row in answer["predictions"]] == ["right"] * 3
    assert set(answer["predictions"][0]["probabilities"]) == set(CLASSES)
    assert bad_status == 200
    assert all("not a picture" in row["error"] for row in bad_answer["predictions"])


def test_the_champions_are_served_with_one_command(finished: Finished, tmp_path: Path) -> None:
    """All of them at one address; Ctrl-C ends it cleanly."""
    folder, *_ = finished
    picture(2, 999).save(tmp_path / "new.png")
    content = (tmp_path / "new.png").read_bytes()
    command = [*IMGREC, "serve", "--port", "0", "--json"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while "}" not in lines:
            lines.append(process.stdout.readline().rstrip())
            assert lines[-1], process.communicate()[1]
        told = json.loads("".join(lines))
        answers = {}
        for model in told["models"]:
            name, _, version = model.partition("/")
            url = f"{told['address']}/v1/models/{name}/predict"
            with urllib.request.urlopen(urllib.request.Request(url, content), timeout=30) as answer:
                answers[name] = json.load(answer)
            assert answers[name]["version"] == version
        process.send_signal(signal.SIGINT)
        _, screen = process.communicate(timeout=60)

    assert set(answers) == {f"thirds-{arch}" for arch in ("ann", "cnn", "rnn", "transformer")}
    assert {one["predictions"][0]["label"] for one in answers.values()} == {"right"}
    assert process.returncode == 0, screen
    assert "Traceback" not in screen
    assert screen.splitlines()[-1] == "ended"


def test_answers_to_many_pictures_go_into_a_file(finished: Finished, tmp_path: Path) -> None:
    """Whatever cannot be read is in it too, with its reason, and the status says so."""
    folder, *_ = finished
    out = tmp_path / "answers.jsonl"
    ended = imgrec("predict", "thirds-cnn", "my pictures", "--out", str(out), cwd=folder)
    rows = [json.loads(line) for line in out.read_text().splitlines()]

    assert ended.returncode == 3
    assert "1 of 181 pictures cannot be read (such as my pictures/left/broken.png" in ended.stderr
    assert len({row["picture"] for row in rows}) == len(rows) == 181
    (broken,) = [row for row in rows if "error" in row]
    assert broken["picture"] == "my pictures/left/broken.png"
    right = [row["label"] == Path(row["picture"]).parent.name for row in rows if "label" in row]
    assert sum(right) > 150


def test_a_program_loads_and_asks_a_model(finished: Finished, tmp_path: Path) -> None:
    """The five lines of the README."""
    folder, *_ = finished
    picture(2, 999).save(tmp_path / "new.png")
    code = """
import sys
import imgrec
from PIL import Image
model = imgrec.load("thirds-cnn")
(one,) = model.predict(sys.argv[1])
several = model.predict([sys.argv[1], open(sys.argv[1], "rb").read(), Image.open(sys.argv[1])])
assert [other.label for other in several] == [one.label] * 3
print(one.label, imgrec.__version__)
"""
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "new.png")]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split()[0] == "right"


def test_the_ui_opens_on_this_machine_only(finished: Finished) -> None:
    """Loopback by default: the record may hold other people's pictures."""
    folder, *_ = finished
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    command = [*IMGREC, "ui", "--port", str(port)]
    with served(command, url, cwd=folder), urllib.request.urlopen(url, timeout=30) as page:
        listening = {
            connection.laddr.ip
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        }
        assert page.status == 200
        assert listening == {"127.0.0.1"}
