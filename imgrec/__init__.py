"""imgrec: recognize what is in your pictures, with the best model your data and time allow.

import imgrec

model = imgrec.load("digits-cnn")  # its champion; "digits-cnn@challenger", "digits-cnn/3" or a folder
for answer in model.predict(["new.jpg", "another.png"]):
    print(answer.label, answer.probability)
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from imgrec.version import __version__

if TYPE_CHECKING:
    from imgrec.classifier import Classifier

__all__ = ["__version__", "load"]


def load(model: str | Path, *, uri: str = "", storage: str | Path = "mlruns") -> "Classifier":
    """A classifier that is registered, or saved in a folder.

    Args:
        model: `digits-cnn` (its champion), `digits-cnn@alias`, `digits-cnn/3`, `models:/digits-cnn/3`, or a folder.
        uri: Of the MLflow that has it; empty means MLFLOW_TRACKING_URI, and without it `mlflow.db` in `storage`.
        storage: The folder that runs write to.

    Raises:
        TrackingError: MLflow does not answer, or has no such model, version or alias.
        ClassifierError: its files are not as they were registered, or of another version of imgrec.
    """
    # Only now: torch and MLflow take seconds to import, and the version is wanted without them.
    from imgrec.classifier import Classifier  # noqa: PLC0415
    from imgrec.config import TrackingConfig  # noqa: PLC0415
    from imgrec.named import is_folder_of  # noqa: PLC0415

    if is_folder_of(model):
        return Classifier.load(Path(model))
    from imgrec.tracking.connection import connect  # noqa: PLC0415
    from imgrec.tracking.versions import fetch_version, find_version  # noqa: PLC0415

    tracking = connect(TrackingConfig(uri=uri), Path(storage).absolute(), create=False)
    version = find_version(tracking, str(model))
    with tempfile.TemporaryDirectory(prefix="imgrec-") as copy:
        folder = fetch_version(tracking, version, None if tracking.is_local else Path(copy))
        return Classifier.load(folder)
