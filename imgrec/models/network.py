"""What all networks have in common: a last linear layer, and what comes before it."""

from pathlib import Path
from typing import Self

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from imgrec.errors import ConfigError

BatchNorm = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - the class of all of them


class Network(nn.Module):
    """Images (B, C, H, W) float to logits (B, K).

    Attributes:
        last_layer_name: Of the linear layer that makes logits of features.
        logit_scale: What it gives is multiplied by this.
        keeps_statistics: Whether batch normalizations keep the statistics that they came with: of a network that
            begins with others' weights, those of a few small batches are worse.
    """

    last_layer_name = "head"
    logit_scale = 1.0
    keeps_statistics = False

    @property
    def last_layer(self) -> nn.Linear:
        """What makes logits of features, before they are scaled."""
        layer = self.get_submodule(self.last_layer_name)
        assert isinstance(layer, nn.Linear)
        return layer

    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to what the last layer sees of them, (B, F)."""
        # What timm calls features may still be normalized before the last layer.
        seen: list[Tensor] = []
        hook = self.last_layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self(images)
        finally:
            hook.remove()
        return seen[0]

    def classify(self, features: Tensor) -> Tensor:
        """Features (B, F) to logits (B, K)."""
        return self.last_layer(features) * self.logit_scale

    def train(self, mode: bool = True) -> Self:
        """As torch has it, but for batch normalizations that keep their statistics."""
        super().train(mode)
        if self.keeps_statistics:
            for module in self.modules():
                if isinstance(module, BatchNorm):
                    module.eval()
        return self

    def depths(self) -> dict[str, float]:
        """How deep each parameter lies, by name: 0 in the first layer, 1 in the last."""
        names = [
            name for name, _ in self.named_parameters()
        ]  # they come in the order of the layers
        last = self.last_layer_name
        inside = [name for name in names if not name.startswith(f"{last}.")]
        return {name: place / len(inside) for place, name in enumerate(inside)} | dict.fromkeys(
            set(names) - set(inside), 1.0
        )

    def freeze(self, share: float) -> None:
        """Let the first layers, this share of the depth, keep their weights."""
        if not share:
            return
        depths = self.depths()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(depths[name] >= share)

    def begin_with(self, file: Path) -> None:
        """Take the weights of a network with the same settings, all but its last layer.

        Raises:
            ConfigError: they are of another.
        """
        new = {f"{self.last_layer_name}.{name}" for name in self.last_layer.state_dict()}
        try:
            weights = {name: one for name, one in load_file(file).items() if name not in new}
            missing, unknown = self.load_state_dict(weights, strict=False)
        except (RuntimeError, OSError, SafetensorError) as error:
            msg = f"the weights in {file} do not fit: {str(error).splitlines()[-1].strip()}"
            raise ConfigError(msg) from error
        if set(missing) != new or unknown:
            msg = f"the weights in {file} do not fit: they are of another network"
            raise ConfigError(msg)
