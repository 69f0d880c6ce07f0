"""What the model sees: originals, filtered, and augmented in several draws."""

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from imgrec.data.splits import Indices
from imgrec.data.store import Store
from imgrec.evaluation.data_pictures import GAP, TILE, grid
from imgrec.evaluation.pictures import INK
from imgrec.preprocess.augment import NO_AUGMENTATION, mixed
from imgrec.preprocess.recipe import Recipe

DRAWS = 6
MOST_PICTURES = 8


def preview_picture(
    store: Store, rows: Indices, recipe: Recipe, title: str, seed: int = 0
) -> Figure:
    """A row for each of some pictures: as stored, as evaluation sees it, and in DRAWS draws of training.

    The last two only where they differ from what stands before them.

    Args:
        store: Where the pictures lie.
        rows: The training split; some of every class are shown.
        recipe: Its mode is left as it was.
        title: What stands above.
        seed: Of the draws.
    """
    chosen = _spread_over_classes(store, rows)
    originals = torch.from_numpy(store.images[chosen]).permute(0, 3, 1, 2)
    columns = [("original", originals)]
    training = recipe.training
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        seen = _seen(recipe.eval()(originals), recipe)
        if seen.shape != originals.shape or recipe.filters:
            columns.append(("evaluation", seen))
        for draw in range(DRAWS if recipe.augmentation != NO_AUGMENTATION else 0):
            inputs = recipe.train()(originals)
            labels = torch.zeros(len(chosen), dtype=torch.int64)
            inputs, _ = mixed(inputs, labels, 1, recipe.augmentation)
            columns.append((f"draw {draw + 1}", _seen(inputs, recipe)))
    recipe.train(training)
    shown = [images.permute(0, 2, 3, 1).numpy() for _, images in columns]
    rows_of_images = [[column[row] for column in shown] for row in range(len(chosen))]
    return _figure(rows_of_images, [name for name, _ in columns], title)


def _spread_over_classes(store: Store, rows: Indices) -> Indices:
    """The first picture of each class, and if there are few classes the next ones."""
    labels = store.labels[rows]
    turn = np.zeros(len(rows), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members))
    return rows[np.lexsort((labels, turn))[:MOST_PICTURES]]


def _seen(inputs: Tensor, recipe: Recipe) -> Tensor:
    """Model input back to levels (uint8)."""
    levels = (inputs - recipe.offset) / recipe.scale
    return levels.round().clamp(0, 255).to(torch.uint8)


def _figure(rows: list[list[npt.NDArray[np.uint8]]], names: list[str], title: str) -> Figure:
    sheet = grid(rows)
    inches = 1 / 65
    figure = Figure(
        figsize=(sheet.width * inches + 0.3, sheet.height * inches + 0.8),
        layout="constrained",
        facecolor="white",
    )
    axes = figure.add_subplot()
    axes.imshow(np.asarray(sheet), interpolation="nearest")
    middles = [place * (TILE + GAP) + TILE / 2 for place in range(len(names))]
    axes.set_xticks(middles, names)
    axes.set_yticks([])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.spines[:].set_visible(False)
    figure.suptitle(title, x=0.02, ha="left", fontsize=11, color=INK)
    return figure
