"""What desktops, notebooks and storage systems leave behind in folders; never a picture of the user's."""

from collections.abc import Sequence

CLUTTER_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini", "icon\r"})
CLUTTER_FOLDERS = frozenset(
    {
        "__macosx",
        "__pycache__",
        "@eadir",
        "@recycle",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "lost+found",
        "system volume information",
    }
)
CLUTTER = CLUTTER_FILES | CLUTTER_FOLDERS


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: hidden, or left behind by a program."""
    return name.startswith(".") or name.lower() in CLUTTER


def clutter_in(parts: Sequence[str]) -> str:
    """Of a path, what ends in its first part that is none of the user's; empty where there is none."""
    for number, part in enumerate(parts, start=1):
        if is_clutter(part):
            return "/".join(parts[:number])
    return ""
