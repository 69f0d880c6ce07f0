"""A model that somebody names, on the way while what uses it is imported."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from imgrec.named import is_folder_of
from imgrec.tracking.finding import Find, registered_folders

if TYPE_CHECKING:
    from imgrec.config import Config


@contextmanager
def finding(load: Callable[[], "Config"], model: str) -> Iterator[tuple["Config", Find]]:
    """The settings, and a function that says where the classifier lies: of a registered model, or in the folder that is named.

    It raises TrackingError where there is no such model, and ClassifierError where its files are not as they were.

    Args:
        load: Reads the settings, while a process that asks MLflow comes up.
        model: As `fetch_classifier` takes it, or a folder, which needs no MLflow.
    """
    if is_folder_of(model):
        yield load(), lambda: Path(model)
        return
    with registered_folders() as ask:
        config = load()
        yield config, ask(config.tracking, Path(config.storage), model)
