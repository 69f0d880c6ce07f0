"""From files to what each architecture is trained with."""

from pathlib import Path

import pytest

from imgrec.config import load_config
from imgrec.errors import ConfigError
from pipelines.prepare import prepare
from tests.conftest import no_progress


def test_a_network_that_no_memory_holds_is_one_line(tmp_path: Path) -> None:
    """More weights than a processor has addresses, for a typing mistake: found before anything is started."""
    settings = [f"storage='{tmp_path}'", "archs=['ann']", "ann.model.hidden=[10000000, 10000000]"]
    with pytest.raises(ConfigError, match=r"ann\.model: there is not enough memory .*smaller"):
        prepare(load_config(None, settings), no_progress)
