"""A Ray that goes down leaves nothing of it in the process."""

import time
from pathlib import Path

from imgrec.config import ClusterConfig
from imgrec.distributed.session import ray_session


def test_what_waits_for_ray_ends_with_it(tmp_path: Path) -> None:
    """A thread that is inside Ray at the end of the interpreter crashes it, one time in six."""
    with ray_session(ClusterConfig(), tmp_path / "ray.log", cpus=1) as session:
        thread = session.beside(lambda: time.sleep(2), "late")
    assert not thread.is_alive()
