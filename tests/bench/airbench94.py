"""The recipe that the compact cnn is measured against: airbench94 on a CPU. The other baseline.

    python -m tests.bench.airbench94 --data FOLDER --seconds 60 --out FILE

Source: Keller Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU (2024, arXiv:2404.00498), written anew from
the paper. It is told its epochs; here they follow the seconds, from the speed of its first steps, which do not
count. Weights are fp32, the forward pass is in the arithmetic that is asked for. Single view at the end, and only
training counts for the time. Imports nothing of imgrec. The folder has train/ and test/ with class folders.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor, nn

BATCH = 1024
WIDTHS = (64, 256, 256)
LEARNING_RATE, WEIGHT_DECAY, MOMENTUM, BIAS_FACTOR = 11.5, 0.0153, 0.85, 64.0
SMOOTHING, SHIFT, WHITEN_BIAS_EPOCHS, LOGIT_SCALE = 0.2, 2, 3, 1 / 9
START, PEAK, END, PEAK_AT = 0.2, 1.0, 0.07, 0.23
AVERAGE_DECAY, AVERAGE_EVERY = 0.95**5, 5
TIMED_STEPS = 3


def read(folder: Path) -> tuple[Tensor, Tensor]:
    """Pictures (N, 3, 32, 32) uint8 and labels (N,) of class folders."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(file, label) for label, one in enumerate(classes) for file in sorted(one.iterdir())]
    pictures = np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in files])
    labels = torch.tensor([label for _, label in files])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), labels


class Norm(nn.BatchNorm2d):
    """Batch normalization with a bias alone, whose statistics move fast."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad = False


def convolution(narrow: int, wide: int) -> nn.Conv2d:
    """3x3, without bias, of which the first filters pass their channel on."""
    layer = nn.Conv2d(narrow, wide, 3, padding="same", bias=False)
    nn.init.dirac_(layer.weight.data[:narrow])
    return layer


def block(narrow: int, wide: int) -> list[nn.Module]:
    """Two convolutions; the picture is halved behind the first."""
    return [
        convolution(narrow, wide),
        nn.MaxPool2d(2),
        Norm(wide),
        nn.GELU(),
        convolution(wide, wide),
        Norm(wide),
        nn.GELU(),
    ]


def whitening(pictures: Tensor) -> nn.Conv2d:
    """2x2 patches along their principal axes, each scaled to variance 1, and the negatives; only its bias learns."""
    layer = nn.Conv2d(3, 24, 2)
    layer.weight.requires_grad = False
    patches = pictures.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    values, vectors = torch.linalg.eigh((patches.T @ patches / len(patches)).double())
    axes = (vectors.T / (values[:, None] + 5e-4).sqrt()).flip(0).float().reshape(12, 3, 2, 2)
    layer.weight.data[:] = torch.cat([axes, -axes])
    nn.init.zeros_(layer.bias)
    return layer


def network(pictures: Tensor, num_classes: int) -> nn.Sequential:
    """The network, whitened by normalized pictures."""
    narrow, middle, wide = WIDTHS
    layers = [
        whitening(pictures),
        nn.GELU(),
        *block(24, narrow),
        *block(narrow, middle),
        *block(middle, wide),
        nn.MaxPool2d(3),
        nn.Flatten(),
        nn.Linear(wide, num_classes, bias=False),
    ]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def augmented(pictures: Tensor, flipped: Tensor) -> Tensor:
    """Pictures (B, C, H, W) moved by two pixels at most, and mirrored where that is asked for."""
    count, _, height, width = pictures.shape
    padded = F.pad(pictures, [SHIFT] * 4, mode="reflect")
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, count, 1))
    rows = (down + torch.arange(height))[:, None, :, None]
    columns = (right + torch.arange(width))[:, None, None, :]
    moved = padded[
        torch.arange(count)[:, None, None, None], torch.arange(3)[:, None, None], rows, columns
    ]
    return torch.where(flipped[:, None, None, None], moved.flip(3), moved)


def rate_at(step: int, steps: int) -> float:
    """The learning rate's share of its peak: up, and down again, in straight lines."""
    peak = PEAK_AT * steps
    if step < peak:
        return START + (PEAK - START) * step / peak
    return PEAK + (END - PEAK) * (step - peak) / max(1.0, steps - peak)


class Recipe:
    """One training; `steps` must be known when it begins."""

    def __init__(self, pictures: Tensor, labels: Tensor, half: torch.dtype | None) -> None:
        self.raw, self.labels, self.half = pictures, labels, half
        some = pictures[:5000].float() / 255
        scaled = pictures.float().div_(255)
        self.mean = scaled.mean(dim=(0, 2, 3))[:, None, None]
        self.std = scaled.std(dim=(0, 2, 3))[:, None, None]
        self.pictures = ((scaled - self.mean) / self.std).contiguous()
        self.model = network((some - self.mean) / self.std, int(labels.max()) + 1)
        norms = [one for one in self.model.modules() if isinstance(one, Norm)]
        biases = [one.bias for one in norms]
        of_norms = {id(p) for one in norms for p in one.parameters()}
        others = [p for p in self.model.parameters() if p.requires_grad and id(p) not in of_norms]
        # Both are of a thousand pictures, whatever the batch, and of steps that momentum makes longer.
        scale = 1024 * (1 + 1 / (1 - MOMENTUM))
        rate, decay = LEARNING_RATE / scale, WEIGHT_DECAY * BATCH / scale
        groups = [
            {
                "params": biases,
                "lr": rate * BIAS_FACTOR,
                "weight_decay": decay / rate / BIAS_FACTOR,
            },
            {"params": others, "lr": rate, "weight_decay": decay / rate},
        ]
        self.optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.average = [value.detach().clone() for value in self.floats()]

    def floats(self) -> list[Tensor]:
        """All weights and statistics."""
        return [value for value in self.model.state_dict().values() if value.is_floating_point()]

    def step(self, rows: Tensor, flipped: Tensor, share: float) -> None:
        """One batch, with a share of the peak learning rate."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * share
        images = augmented(self.pictures[rows], flipped).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", self.half, enabled=self.half is not None):
            logits = self.model(images).float() * LOGIT_SCALE
        F.cross_entropy(
            logits, self.labels[rows], label_smoothing=SMOOTHING, reduction="sum"
        ).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def look_ahead(self, decay: float) -> None:
        """The average moves to the weights, and they go on from it."""
        for kept, value in zip(self.average, self.floats(), strict=True):
            kept.lerp_(value, 1 - decay)
            value.copy_(kept)

    @torch.inference_mode()
    def accuracy(self, pictures: Tensor, labels: Tensor) -> float:
        """Share of raw pictures that are classified right, each seen once."""
        self.model.eval()
        right = 0
        for first in range(0, len(labels), 2000):
            some = (pictures[first : first + 2000].float() / 255 - self.mean) / self.std
            with torch.autocast("cpu", self.half, enabled=self.half is not None):
                answers = self.model(some.to(memory_format=torch.channels_last)).argmax(1)
            right += int((answers == labels[first : first + 2000]).sum())
        self.model.train()
        return right / len(labels)


def train(data: Path, budget: float, seed: int, half: torch.dtype | None) -> dict[str, object]:
    """Train for about so many seconds, as the recipe has it for the epochs that fit into them."""
    pictures, labels = read(data / "train")
    test_pictures, test_labels = read(data / "test")
    torch.manual_seed(seed)
    throwaway = Recipe(pictures, labels, half)
    started = 0.0
    for number in range(1 + TIMED_STEPS):
        if number == 1:  # the first one prepares the others
            started = time.perf_counter()
        throwaway.step(torch.randperm(len(labels))[:BATCH], torch.rand(BATCH) < 0.5, 0.0)
    each = (time.perf_counter() - started) / TIMED_STEPS
    torch.manual_seed(seed)
    recipe = Recipe(pictures, labels, half)
    steps, per_epoch = max(1, int(budget / each)), len(labels) // BATCH
    first_flips = torch.rand(len(labels)) < 0.5
    recipe.model.train()
    started = time.perf_counter()
    step = 0
    for epoch in range(math.ceil(steps / per_epoch)):
        recipe.model[0].bias.requires_grad = epoch < WHITEN_BIAS_EPOCHS
        order = torch.randperm(len(labels))
        for number in range(per_epoch):
            if step == steps:
                break
            rows = order[number * BATCH : (number + 1) * BATCH]
            recipe.step(rows, first_flips[rows] ^ bool(epoch % 2), rate_at(step, steps))
            step += 1
            if step % AVERAGE_EVERY == 0:
                recipe.look_ahead(AVERAGE_DECAY * (step / steps) ** 3)
    recipe.look_ahead(1.0)  # what was averaged is what is kept
    spent = time.perf_counter() - started
    return {
        "seconds": spent,
        "epochs": steps / per_epoch,
        "images_per_second": steps * BATCH / spent,
        "test_accuracy": recipe.accuracy(test_pictures, test_labels),
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    half = torch.bfloat16 if arguments.precision == "bf16" else None
    found = train(arguments.data, arguments.seconds, arguments.seed, half)
    found["precision"] = arguments.precision
    arguments.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
