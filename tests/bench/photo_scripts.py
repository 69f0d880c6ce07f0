"""What people write instead of imgrec: fine-tuning scripts over timm, each as its users write it.

    uv run python -m tests.bench.photo_scripts timm --data FOLDER --seed 0

`timm` trains the whole network at one rate from a linear layer that was fitted on frozen features; `fastai` trains
a new last layer for an epoch, and then all layers, the first ones at a hundredth of the rate (fast.ai's
`fine_tune`). Both take the weights that imgrec takes, torchvision's transforms and a DataLoader. Prints one object
of JSON: accuracies on val and test, and the seconds of each epoch.
"""

import argparse
import json
import os
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from imgrec.config import CnnConfig
from imgrec.models.sources import Sources

SIZE, BATCH = 224, 32
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WORKERS = min(16, os.cpu_count() or 1)
TO_TENSOR = [
    v2.ToImage(),
    v2.ToDtype(torch.float32, scale=True),
    v2.Normalize([0.5] * 3, [0.5] * 3),
]
TRAIN = v2.Compose(
    [v2.RandomResizedCrop(SIZE, scale=(0.5, 1.0)), v2.RandomHorizontalFlip(), *TO_TENSOR]
)
EVALUATION = v2.Compose([v2.Resize(256), v2.CenterCrop(SIZE), *TO_TENSOR])


def loader(folder: Path, split: str, transform: v2.Compose, *, shuffle: bool) -> DataLoader:
    pictures = ImageFolder(str(folder / split), transform)
    return DataLoader(pictures, BATCH, shuffle=shuffle, num_workers=WORKERS, drop_last=shuffle)


@torch.inference_mode()
def accuracy(model: nn.Module, batches: DataLoader) -> float:
    model.eval()
    right = total = 0
    for images, labels in batches:
        right += int((model(images.to(DEVICE)).argmax(1).cpu() == labels).sum())
        total += len(labels)
    return right / total


@torch.inference_mode()
def features(model: nn.Module, batches: DataLoader) -> tuple[Tensor, Tensor]:
    model.eval()
    pairs = [
        (model.forward_head(model.forward_features(x.to(DEVICE)), pre_logits=True).cpu(), y)
        for x, y in batches
    ]
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def fit_head(model: nn.Module, folder: Path) -> None:
    """The last layer from a logistic regression, its C by the validation split."""
    inputs, labels = features(model, loader(folder, "train", EVALUATION, shuffle=False))
    held, held_labels = features(model, loader(folder, "val", EVALUATION, shuffle=False))
    scaler = StandardScaler().fit(inputs)
    fitted = [
        LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(inputs), labels)
        for c in (1e-3, 3e-3, 1e-2, 3e-2)
    ]
    best = max(fitted, key=lambda one: one.score(scaler.transform(held), held_labels))
    weight = best.coef_ / scaler.scale_
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(weight))
        model.classifier.bias.copy_(torch.from_numpy(best.intercept_ - weight @ scaler.mean_))


def train(
    model: nn.Module, groups: list[dict[str, object]], batches: DataLoader, epochs: int
) -> list[float]:
    """AdamW, a tenth of warm-up and a cosine; the seconds of each epoch."""
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=epochs * len(batches), pct_start=0.1, div_factor=10
    )
    seconds = []
    for _ in range(epochs):
        started = time.perf_counter()
        model.train()
        for images, labels in batches:
            loss = F.cross_entropy(model(images.to(DEVICE)), labels.to(DEVICE), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("style", choices=["timm", "fastai"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--storage", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    started = time.perf_counter()
    torch.manual_seed(asked.seed)
    batches = loader(asked.data, "train", TRAIN, shuffle=True)
    model = timm.create_model("tf_efficientnet_lite0", drop_rate=0.2)
    weights = Sources(asked.storage).find(CnnConfig(backbone="tf_efficientnet_lite0"))
    model.load_state_dict(load_file(weights.file))
    model.reset_classifier(len(batches.dataset.classes))
    model.to(DEVICE)
    epochs = 12 if len(batches.dataset) < 1000 else 6
    if asked.style == "timm":
        fit_head(model, asked.data)
        seconds = train(model, [{"params": model.parameters(), "lr": 1e-3}], batches, epochs)
    else:
        head = list(model.classifier.parameters())
        body = [p for n, p in model.named_parameters() if not n.startswith("classifier")]
        for parameter in body:
            parameter.requires_grad_(False)
        seconds = train(model, [{"params": head, "lr": 2e-3}], batches, 1)
        for parameter in body:
            parameter.requires_grad_(True)
        early, late = body[: len(body) // 2], body[len(body) // 2 :]
        rates = [(early, 1e-5), (late, 1e-4), (head, 1e-3)]
        groups = [{"params": part, "lr": rate} for part, rate in rates]
        seconds += train(model, groups, batches, epochs - 1)
    found = {
        split: accuracy(model, loader(asked.data, split, EVALUATION, shuffle=False))
        for split in ("val", "test")
    }
    print(json.dumps(found | {"epochs": seconds, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
