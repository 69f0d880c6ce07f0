"""What the name of a model stands for. Imports neither torch nor MLflow."""

from pathlib import Path

CARD = "classifier.json"
"""The file that makes a folder one of a classifier's."""


def is_folder_of(model: str | Path) -> bool:
    """Whether a name is that of a folder: one with a classifier, or a path. A registered model may have any folder's name."""
    path = Path(model)
    return (path / CARD).is_file() or (path.is_dir() and len(path.parts) > 1)
