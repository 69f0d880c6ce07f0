"""What a run removes of the storage that others share: its own, and what nobody goes on from."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from imgrec.config import TrackingConfig
from imgrec.tracking.connection import connect
from imgrec.tracking.liveness import owner_tags
from imgrec.tracking.runs import start_run
from imgrec.tracking.tags import KEY
from pipelines.run import _remove_work


@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_only_what_this_record_says_is_its_own_is_removed(status: str, tmp_path: Path) -> None:
    """Another record may use the same storage, and a person may have put a folder there."""
    here = connect(TrackingConfig(), tmp_path / "a", create=True)
    ids = {}
    for name, key in (("finished", "k"), ("same", "k"), ("other", "x")):
        with start_run(here, "work", name, {KEY: key, **owner_tags()}) as run:
            ids[name] = run.id
        if name != "finished" and status == "FAILED":
            here.client.set_terminated(run.id, "FAILED")
    work = tmp_path / "work"
    for name in [*ids.values(), "0123456789abcdef0123456789abcdef", "my notes"]:
        (work / name).mkdir(parents=True)
    ledger = SimpleNamespace(
        workflow_key="k", tracking=here, config=SimpleNamespace(storage=str(tmp_path))
    )
    _remove_work(ledger, SimpleNamespace(id=ids["finished"]))  # type: ignore[arg-type]
    left = {path.name for path in work.iterdir()}

    assert {"0123456789abcdef0123456789abcdef", "my notes"} <= left
    assert ids["finished"] not in left
    assert ids["same"] not in left
    assert (ids["other"] in left) is (status == "FAILED")
