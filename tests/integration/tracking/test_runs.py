"""MLflow runs: everything arrives, and none stays RUNNING."""

import json
from pathlib import Path

import pytest

from imgrec.tracking.connection import Tracking
from imgrec.tracking.runs import start_run


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
)
def test_no_run_stays_running(tracking: Tracking, error: BaseException | None, status: str) -> None:
    """Whoever opens the UI must see how it ended, also of the runs below."""
    ids = []
    try:
        with start_run(tracking, "ends", "parent", {}) as run:
            ids = [run.id, run.start_child("child", {}).id]
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass

    assert [tracking.client.get_run(run_id).info.status for run_id in ids] == [status] * 2


def test_settings_scores_and_tables_arrive(tracking: Tracking) -> None:
    """What is logged is what is there."""
    with start_run(tracking, "logs", "run", {"imgrec.kind": "fit"}) as run:
        run.log_params({"train": {"epochs": 3, "betas": [1, 2]}, "seed": 0})
        for epoch in (1, 2):
            run.log_metrics({"val/macro_f1": epoch / 10}, step=epoch)
        run.log_table(("class", "f1"), [("a", 0.5), ("b", 1.0)], "per_class.json")
    data = tracking.client.get_run(run.id).data
    history = tracking.client.get_metric_history(run.id, "val/macro_f1")
    table = json.loads(
        Path(tracking.client.download_artifacts(run.id, "per_class.json")).read_text()
    )

    assert data.params == {"train.epochs": "3", "train.betas": "[1, 2]", "seed": "0"}
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.1), (2, 0.2)]
    assert table == {"columns": ["class", "f1"], "data": [["a", 0.5], ["b", 1.0]]}


def test_a_run_says_that_it_is_done_only_when_it_has_ended(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a process that dies in between leaves one that is done and was killed."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with start_run(tracking, "ends", "workflow", {}) as workflow:
        run = workflow.start_child("run", {})
        with monkeypatch.context() as patched:
            patched.setattr(tracking.client, "set_terminated", die)
            with pytest.raises(KeyboardInterrupt):
                run.end("FINISHED", {"imgrec.done": "register"})
        killed = tracking.client.get_run(run.id).data.tags
        run.end("FINISHED", {"imgrec.done": "register"})

    assert "imgrec.done" not in killed
    assert tracking.client.get_run(run.id).data.tags["imgrec.done"] == "register"


def test_a_table_that_is_logged_again_replaces_the_first(tracking: Tracking) -> None:
    """MLflow's own would add the rows of a second try to those of the first."""
    with start_run(tracking, "tables", "run", {}) as run:
        for accuracy in (0.5, 0.6):
            run.log_table(("model", "accuracy"), [("ann", accuracy)], "leaderboard.json")
        run.log_table(("a",), [(1,)], "other.json")
    file = tracking.client.download_artifacts(run.id, "leaderboard.json")
    logged = tracking.client.get_run(run.id).data.tags["mlflow.loggedArtifacts"]

    assert json.loads(Path(file).read_text())["data"] == [["ann", 0.6]]
    assert [entry["path"] for entry in json.loads(logged)] == ["leaderboard.json", "other.json"]
