"""The README's first command in two fresh clones, and whether the same four models come of it, bit for bit.

    python tests/bench/two_clones.py [FOLDER]

Clones this repository twice into FOLDER (a temporary one, if it is not given), makes a new environment in
each, runs, and compares the weights and cards that were registered. Ends with status 1 where they differ.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def models_of(clone: Path) -> dict[str, str]:
    """Run in a clone; the hash of each registered classifier, by name."""
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    subprocess.run(
        ["uv", "run", "imgrec", "run"],
        cwd=clone,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    found = {}
    for card in sorted((clone / "mlruns" / "artifacts").rglob("classifier.json")):
        content = json.loads(card.read_text(encoding="utf-8"))
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
        digest.update((card.parent / "model.safetensors").read_bytes())
        found[content["model"]["arch"]] = digest.hexdigest()
    return found


def main() -> None:
    """Twice, and compare."""
    above = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    first, second = (models_of(above / name) for name in ("first", "second"))
    for arch in sorted(first.keys() | second.keys()):
        same = first.get(arch) == second.get(arch)
        print(f"{arch:12} {first.get(arch, 'none')[:16]} {'the same' if same else 'DIFFERS'}")
    sys.exit(first != second or len(first) != 4)


if __name__ == "__main__":
    main()
