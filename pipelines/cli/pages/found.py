"""A model that somebody names, on the way while what uses it is imported."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from imgrec.config import Config
from imgrec.named import is_folder_of
from imgrec.tracking.finding import registered_folder


@contextmanager
def finding(config: Config, model: str) -> Iterator[Callable[[], Path]]:
    """Inside, a function says where the classifier lies: that of a registered model, or in the folder that is named.

    It raises TrackingError where there is no such model, and ClassifierError where its files are not as they were.
    """
    if is_folder_of(model):  # which needs no MLflow
        yield lambda: Path(model)
        return
    with registered_folder(config.tracking, Path(config.storage), model) as find:
        yield find
