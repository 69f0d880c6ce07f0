"""A Ray for the tests of a module."""

from collections.abc import Iterator

import pytest

from imgrec.config import ClusterConfig
from imgrec.distributed.session import Session, ray_session


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One local Ray for the module: two at once disturb each other."""
    with ray_session(ClusterConfig(), tmp_path_factory.mktemp("logs") / "ray.log", cpus=2) as up:
        yield up
