"""Which code this is, exactly."""

import hashlib
from functools import cache
from pathlib import Path

from imgrec import __version__


@cache
def code_version() -> str:
    """The version and a hash of the package's own source: `0.1.0+3f2a9c41d7e0`.

    A commit would not tell of changes that are not committed, and an installed package has none.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"
