"""Filters: every one on every shape, the noise that each is for, and the same alone as in a batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import denoise_nl_means
from skimage.transform import resize

from imgrec.classifier import Card, Classifier
from imgrec.config import AnnConfig, DataConfig, Filter, TrainConfig, load_config
from imgrec.config.filters import (
    Bilateral,
    Clahe,
    Equalize,
    Gaussian,
    Grey,
    Median,
    NonLocalMeans,
    Unsharp,
)
from imgrec.data.decode import encode_png
from imgrec.data.loader import Shard
from imgrec.data.store import Store
from imgrec.errors import ConfigError
from imgrec.preprocess.augment import Augmentation
from imgrec.preprocess.filters import filtered, refuse_too_small
from imgrec.preprocess.statistics import channel_statistics
from imgrec.preprocess.view import View
from imgrec.training.learner import build_learner
from imgrec.training.spec import FitSpec
from tests.unit.preprocess.made import each


@each
@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 16, 13), (3, 33, 40)])
def test_shape_and_range_stay(one: Filter, shape: tuple[int, int, int]) -> None:
    """What comes out goes on as a picture."""
    images = torch.rand(5, *shape)
    result = filtered(images, [one])

    assert result.shape == images.shape
    assert result.dtype == images.dtype
    assert result.min() >= 0
    assert result.max() <= 1


@each
def test_a_picture_comes_out_the_same_alone_and_in_a_batch(one: Filter) -> None:
    """Serving sends one, training sends many."""
    images = torch.rand(9, 3, 16, 16)

    torch.testing.assert_close(filtered(images, [one])[:1], filtered(images[:1], [one]))


@each
def test_a_flat_picture_stays_finite(one: Filter) -> None:
    """An empty scan has no contrast to divide by."""
    assert filtered(torch.full((2, 3, 16, 16), 0.5), [one]).isfinite().all()


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """A photograph, (1, 3, 64, 64)."""
    small = resize(astronaut()[:300, 100:400], (64, 64), anti_aliasing=True)
    return torch.from_numpy(small).float().permute(2, 0, 1)[None]


@pytest.mark.parametrize(
    "one", [Gaussian(), Bilateral(), NonLocalMeans(), Median()], ids=lambda one: one.filter
)
def test_a_denoiser_takes_gaussian_noise_away(one: Filter, photo: torch.Tensor) -> None:
    """Nearer to the clean picture after than before."""
    torch.manual_seed(0)
    noisy = (photo + 0.1 * torch.randn_like(photo)).clamp(0, 1)

    assert _error(filtered(noisy, [one]), photo) < 0.75 * _error(noisy, photo)


def test_the_median_takes_single_wrong_pixels_away(photo: torch.Tensor) -> None:
    """And does so better than a blur, which spreads them."""
    torch.manual_seed(0)
    drawn = torch.rand(1, 1, 64, 64)
    noisy = torch.where(drawn < 0.05, 0.0, torch.where(drawn > 0.95, 1.0, photo))
    median, blur = (_error(filtered(noisy, [one]), photo) for one in (Median(), Gaussian()))

    assert median < 0.25 * _error(noisy, photo)
    assert median < 0.5 * blur


def test_the_median_does_not_blacken_the_edge() -> None:
    """A border of zeros would win in the corners."""
    white = torch.ones(1, 1, 8, 8)

    torch.testing.assert_close(filtered(white, [Median(size=5)]), white)


def test_non_local_means_does_as_well_as_skimages(photo: torch.Tensor) -> None:
    """Ours is for batches; the definition is the same, but for how patches are weighted inside."""
    torch.manual_seed(0)
    noisy = (photo + 0.1 * torch.randn_like(photo)).clamp(0, 1)
    ours = filtered(noisy, [NonLocalMeans(size=7, patch=3, strength=0.1)])
    theirs = denoise_nl_means(
        noisy[0].permute(1, 2, 0).numpy(),
        patch_size=3,
        patch_distance=3,
        h=0.1,
        fast_mode=False,
        channel_axis=2,
    )
    clean = photo[0].permute(1, 2, 0).numpy()
    score = peak_signal_noise_ratio(clean, ours[0].permute(1, 2, 0).numpy(), data_range=1)

    assert score > peak_signal_noise_ratio(clean, np.asarray(theirs), data_range=1) - 0.5


def test_sharpening_makes_edges_steeper_and_grey_has_equal_channels(photo: torch.Tensor) -> None:
    """Each does what its name says."""
    sharp, grey = filtered(photo, [Unsharp()]), filtered(photo, [Grey()])

    assert sharp.diff(dim=3).abs().mean() > 1.2 * photo.diff(dim=3).abs().mean()
    assert torch.equal(grey[:, 0], grey[:, 2])


@pytest.mark.parametrize("one", [Equalize(), Clahe()], ids=lambda one: one.filter)
def test_equalizing_spreads_what_is_pale(one: Filter, photo: torch.Tensor) -> None:
    """A picture with a tenth of the contrast."""
    pale = 0.45 + 0.1 * photo

    assert filtered(pale, [one]).std() > 1.5 * pale.std()


def test_filters_apply_in_the_order_given(photo: torch.Tensor) -> None:
    """To sharpen noise and to remove it are not to be swapped."""
    there, back = (
        filtered(photo, order) for order in ([Median(), Unsharp()], [Unsharp(), Median()])
    )

    assert not torch.allclose(there, back, atol=0.02)


def test_a_filter_that_reaches_beyond_the_picture_is_refused() -> None:
    """Before anything is trained, with the number that is needed."""
    with pytest.raises(ConfigError, match="needs pictures of more than 9 pixels a side, and these"):
        refuse_too_small([Gaussian(sigma=3.0)], (8, 12, 3))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('["medain"]', "name a filter: gaussian, median"),
        ('[{filter = "median", size = 4}]', "size = 4 has no middle; take 5"),
        ('[{filter = "median", sigma = 1.0}]', "no such setting"),
        ("[3]", "name a filter"),
    ],
)
def test_a_wrong_filter_is_refused_with_the_cure(value: str, said: str) -> None:
    """One line, as for every other setting."""
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(settings=[f"preprocess.filters={value}"])

    assert "preprocess.filters" in str(caught.value)
    assert "\n" not in str(caught.value)


def _error(images: torch.Tensor, clean: torch.Tensor) -> float:
    return float((images - clean).square().mean())


@each
def test_training_and_serving_agree_to_1e_5(one: Filter, digits: Store, tmp_path: Path) -> None:
    """The recipe of training, and the classifier that was saved, loaded and given files."""
    config, view = AnnConfig(hidden=(16,)), View((8, 8))
    spec = FitSpec(
        store=digits.folder,
        data=DataConfig(),
        seed=0,
        image_shape=(8, 8, 1),
        view=view,
        weights=None,
        class_counts=(126,) * 10,
        model=config,
        train=TrainConfig(epochs=1, batch_size=64, imbalance="none"),
        filters=(one,),
        statistics=channel_statistics(digits, np.arange(200), view, [one]),
        augmentation=Augmentation(flip=True, erase=0.5),
    )
    learner = build_learner(spec, torch.device("cpu"), Shard())
    card = Card(
        model=config,
        image_shape=spec.image_shape,
        stored_shape=digits.image_shape,
        view=view,
        resize="fill",
        max_pixels=1000,
        filters=spec.filters,
        statistics=spec.statistics,
        class_names=digits.class_names,
    )
    Classifier(card, learner.model.state_dict()).save(tmp_path)
    pixels = digits.images[:30]
    images = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2)
    with torch.inference_mode():
        trained = learner.model.eval()(learner.recipe.eval()(images)).softmax(1)
    served = Classifier.load(tmp_path).predict([encode_png(image) for image in pixels])

    torch.testing.assert_close(
        torch.tensor([list(found.probabilities.values()) for found in served]),
        trained,
        atol=1e-5,
        rtol=0,
    )
