"""Which code this is, exactly."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

__version__ = "0.1.0"
PACKAGE = Path(__file__).parent
ROOTS = ("training.learner", "training.loop", "evaluation.calibration", "data.scan")
"""What trains, calibrates and decodes: whatever these import can change a model, and nothing else can."""
LIBRARIES = ("torch", "torchvision", "numpy", "kornia", "timm", "pillow", "simplejpeg")
"""Those that compute."""


@cache
def code_version() -> str:
    """The version and a hash of the package's own source: `0.1.0+3f2a9c41d7e0`.

    A commit would not tell of changes that are not committed, and an installed package has none.
    """
    return f"{__version__}+{_digest_of(PACKAGE.rglob('*.py'))}"


@cache
def fit_version() -> str:
    """A hash of the code and the libraries that can change a model: part of the key of every fit."""
    return digest_of_fit(PACKAGE)


def digest_of_fit(package: Path) -> str:
    """The same for a package in any folder."""
    libraries = [f"{name}=={_version_of(name)}" for name in LIBRARIES]
    return _digest_of(files_behind(ROOTS, package), libraries, package)


def files_behind(roots: Iterable[str], package: Path) -> set[Path]:
    """The files of some modules of a package, and of all that they import, also inside of functions.

    Args:
        roots: Names of modules, without the package's own.
        package: Its folder.
    """
    files: set[Path] = set()
    waiting = [file for root in roots for file in _files_of(package, root.split("."))]
    while waiting:
        file = waiting.pop()
        if file not in files:
            files.add(file)
            waiting += _imported_by(file, package)
    return files


def _imported_by(file: Path, package: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(file.read_bytes())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # A name may be a module of its own, or stand in the module.
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            first, *rest = name.split(".")
            if first == package.name:
                yield from _files_of(package, rest)


def _files_of(package: Path, parts: list[str]) -> Iterator[Path]:
    """A module's file, and those of the packages that it lies in: all of them run when it is imported."""
    for count in range(len(parts) + 1):
        place = package.joinpath(*parts[:count])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                yield file


def _version_of(library: str) -> str:
    from importlib import metadata  # noqa: PLC0415 - 20 ms, and every process asks which version this is

    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "none"


def _digest_of(files: Iterable[Path], more: Iterable[str] = (), package: Path = PACKAGE) -> str:
    digest = hashlib.sha256("\0".join(more).encode())
    for path in sorted(files):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
