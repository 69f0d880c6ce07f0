"""What one would write without imgrec: torchvision's resnet18, a DataLoader, AdamW, fp32. The baseline.

    python -m tests.bench.plain_script --data FOLDER --seconds 480 --out FILE

Imports nothing of imgrec. The folder has train/ and test/ with class folders. Only training counts
for the time: evaluation, on the first pictures of a shuffled test split, stops the clock.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

BATCH = 128
LEARNING_RATE = 1e-3
SECONDS_BETWEEN = 60.0
PICTURES_BETWEEN = 1000


def cifar_resnet18(num_classes: int) -> nn.Module:
    """For 32 x 32: a 3x3 first layer that keeps the size, and no pooling behind it."""
    model = resnet18(num_classes=num_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


@torch.inference_mode()
def accuracy(model: nn.Module, loader: DataLoader) -> float:
    """Share of the pictures that are classified right."""
    model.eval()
    right = seen = 0
    for images, labels in loader:
        right += int((model(images).argmax(1) == labels).sum())
        seen += len(labels)
    model.train()
    return right / seen


def train(data: Path, budget: float, seed: int) -> dict[str, object]:
    """Train for so many seconds; accuracy by time, and at the end on the whole test split."""
    torch.manual_seed(seed)
    plain = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    augmented = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), plain])
    train_set = ImageFolder(data / "train", augmented)
    test_set = ImageFolder(data / "test", plain)
    loader = DataLoader(train_set, BATCH, shuffle=True, drop_last=True)
    some = torch.randperm(len(test_set))[:PICTURES_BETWEEN].tolist()
    quick, whole = DataLoader(Subset(test_set, some), 500), DataLoader(test_set, 500)
    model = cifar_resnet18(len(train_set.classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    curve: list[tuple[float, float]] = []
    images_seen, spent, next_look = 0, 0.0, SECONDS_BETWEEN
    started = time.perf_counter()
    while spent < budget:
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            images_seen += len(labels)
            spent = time.perf_counter() - started
            if spent >= budget:
                break
            if spent >= next_look:
                next_look += SECONDS_BETWEEN
                curve.append((spent, accuracy(model, quick)))
                started = time.perf_counter() - spent
    curve.append((spent, accuracy(model, whole)))
    return {
        "seconds": spent,
        "images": images_seen,
        "images_per_second": images_seen / spent,
        "test_accuracy": curve[-1][1],
        "curve": curve,
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = train(arguments.data, arguments.seconds, arguments.seed)
    arguments.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(json.dumps({key: value for key, value in found.items() if key != "curve"}))


if __name__ == "__main__":
    main()
