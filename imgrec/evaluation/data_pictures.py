"""A data set as pictures: counts, sizes, brightness, and grids of what is in it."""

import base64
import io
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from imgrec.data.findings import Findings
from imgrec.evaluation.pictures import ACCENT, INK, MUTED

TILE = 64
GAP = 4
FRAME = "#d5dce1"


def sizes_picture(findings: Findings) -> Figure:
    """How large the pictures are, and how bright."""
    looks, store = findings.looks, findings.store
    figure = Figure(figsize=(9, 3), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    shorter = np.minimum(looks["height"], looks["width"])
    left.hist(shorter, bins=_bins(shorter), color=ACCENT)
    side = min(store.image_shape[:2])
    left.axvline(side, color=MUTED, linewidth=1.4)
    left.annotate(
        f"stored at {side}",
        (side, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -10),
        textcoords="offset points",
        color=MUTED,
        fontsize=9,
    )
    left.margins(y=0.2)
    left.set_xlabel("shorter side (pixels)", color=INK)
    right.hist(looks["mean"], bins=64, range=(0, 255), color=ACCENT)
    right.set_xlabel("mean brightness (0 to 255)", color=INK)
    for axes in (left, right):
        axes.set_ylabel("pictures", color=INK)
        _quiet(axes)
    return figure


def rows_of_each_class(
    findings: Findings, count: int, seed: int = 0
) -> list[tuple[str, list[int]]]:
    """Some pictures of each class, drawn."""
    rng = np.random.default_rng(seed)
    labels = findings.store.labels
    chosen = []
    for label, name in enumerate(findings.store.class_names):
        members = np.flatnonzero(labels == label)
        rows = rng.choice(members, size=min(count, len(members)), replace=False)
        chosen.append((name, sorted(rows.tolist())))
    return chosen


def strip(images: Iterable[npt.NDArray[np.uint8]], tile: int = TILE) -> Image.Image:
    """One image at least, each (H, W, C), side by side; small ones enlarged without smoothing."""
    tiles = [_tile(pixels, tile) for pixels in images]
    sheet = Image.new("RGB", (len(tiles) * (tile + GAP) - GAP, tile), "white")
    for place, one in enumerate(tiles):
        sheet.paste(one, (place * (tile + GAP), 0))
    return sheet


def grid(rows: Sequence[Sequence[npt.NDArray[np.uint8]]], tile: int = TILE) -> Image.Image:
    """Rows of images, each (H, W, C), one strip below the other."""
    width = max(len(images) for images in rows) * (tile + GAP) - GAP
    sheet = Image.new("RGB", (width, len(rows) * (tile + GAP) - GAP), "white")
    for place, images in enumerate(rows):
        sheet.paste(strip(images, tile), (0, place * (tile + GAP)))
    return sheet


def as_data_url(picture: Image.Image | Figure) -> str:
    """A picture as text that a page can hold."""
    buffer = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(buffer, "PNG")
    else:
        picture.savefig(buffer, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _tile(pixels: npt.NDArray[np.uint8], tile: int) -> Image.Image:
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).convert("RGB")
    scale = tile / max(image.size)
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), how
    )
    framed = Image.new("RGB", (tile, tile), "white")
    corner = ((tile - image.width) // 2, (tile - image.height) // 2)
    framed.paste(image, corner)
    edges = (*corner, corner[0] + image.width - 1, corner[1] + image.height - 1)
    ImageDraw.Draw(framed).rectangle(edges, outline=FRAME)  # so that white pictures are seen
    return framed


def _bins(values: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    low, high = int(values.min()), int(values.max())
    if low == high:
        low, high = low - 2, high + 2
    step = -(-(high - low + 1) // 60)  # whole pixels, or bars would have gaps
    return np.arange(low - 0.5, high + step, step)


def _quiet(axes: object) -> None:
    axes.spines[["top", "right"]].set_visible(False)  # type: ignore[attr-defined]
    axes.tick_params(colors=INK, labelsize=9, length=0)  # type: ignore[attr-defined]
