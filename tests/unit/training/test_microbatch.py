"""A batch in parts: the gradient of the whole, the same number of parts on all workers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imgrec.config import CnnConfig, DataConfig, TrainConfig
from imgrec.data.loader import Pictures, Shard, training_batches
from imgrec.data.splits import make_splits
from imgrec.data.store import open_store
from imgrec.preprocess.augment import NO_AUGMENTATION
from imgrec.preprocess.recipe import ChannelStatistics
from imgrec.preprocess.view import View
from imgrec.training.learner import build_learner
from imgrec.training.loop import train_epoch
from imgrec.training.microbatch import in_more_parts, is_out_of_memory
from imgrec.training.spec import FitSpec
from tests.unit.training.made import CPU, spec_for

BARE_JOB = FitSpec(
    store=Path("store"),
    data=DataConfig(),
    seed=0,
    image_shape=(64, 64, 3),
    view=View((64, 64)),
    weights=None,
    class_counts=(320, 320),
    model=CnnConfig(),
    train=TrainConfig(epochs=10, batch_size=64, imbalance="none", start_size=0.5),
    filters=(),
    statistics=ChannelStatistics((0.5,) * 3, (0.2,) * 3),
    augmentation=NO_AUGMENTATION,
)


@pytest.mark.parametrize("parts", [2, 4, 7])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(parts: int, tmp_path: Path) -> None:
    """What does not fit into memory at once is still the same step; parts need not be equal.

    One step, in float64: many steps in float32 amplify the rounding of two orders of the same sums. What
    is left are sums of some thousand terms, each rounded to 1e-16 of the largest.
    """
    extra = ["preprocess.augment=none", "train.epochs=1", "train.optimizer=sgd"]
    # An architecture without BatchNorm, which sees the parts.
    extra += ["transformer.model.tokens=patches", "train.batch_size=66", "train.ema_decay=0.0"]
    extra += ["train.max_grad_norm=0", "train.precision=fp32"]
    spec = spec_for("transformer", tmp_path, *extra)
    whole, divided = gradients_of_a_step(spec), gradients_of_a_step(replace(spec, accumulate=parts))

    assert spec.key == replace(spec, accumulate=parts).key
    torch.testing.assert_close(divided, whole, rtol=1e-9, atol=1e-12)


def gradients_of_a_step(spec: FitSpec) -> torch.Tensor:
    """Of all parameters together, in float64: what is left of the weights after a step of rate 1."""
    learner = build_learner(spec, CPU, Shard())
    learner.model.double()
    learner.recipe.register_forward_hook(lambda _, __, inputs: inputs.double())
    learner.loss_fn.register_forward_pre_hook(lambda _, given: (given[0].double(), given[1]))
    found: list[torch.Tensor] = []
    learner.optimizers[0].register_step_pre_hook(
        lambda *_: found.append(
            torch.cat([p.grad.flatten().clone() for p in learner.model.parameters()])
        )
    )
    store = open_store(spec.store)
    rows = make_splits(store, spec.data).train[: spec.train.batch_size]
    batches = training_batches(
        Pictures(store, CPU),
        rows,
        batch_size=spec.train.batch_size,
        seed=0,
        epoch=0,
        shard=Shard(),
    )
    train_epoch(learner, batches, lambda _: None)
    return found[0]


@settings(max_examples=200)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 500))
def test_all_workers_compute_a_batch_in_as_many_parts_of_two_pictures_at_least(
    accumulate: int, world_size: int, batch_size: int
) -> None:
    """Else reductions of different steps would pair up; and of one picture there is no variance."""
    batch_size = max(batch_size, 2 * world_size)
    spec = replace(BARE_JOB, accumulate=accumulate)
    spec = replace(spec, train=spec.train.model_copy(update={"batch_size": batch_size}))
    parts = spec.parts(world_size)
    shares = [len(range(rank, batch_size, world_size)) for rank in range(world_size)]

    for share in shares:
        sizes = [len(part) for part in torch.arange(share).tensor_split(parts)]
        assert len(sizes) == parts
        assert min(sizes) >= (2 if parts > 1 else 1)


def test_the_number_of_parts_grows_until_it_cannot() -> None:
    """A batch of 66 on two workers: 33 each, in 4 and then 16 parts; more there cannot be."""
    spec = replace(BARE_JOB, train=BARE_JOB.train.model_copy(update={"batch_size": 66}))
    grown = [in_more_parts(spec, 2, tries) for tries in (1, 2, 3)]

    assert [one and one.parts(2) for one in grown] == [4, 16, None]


def test_what_is_no_lack_of_memory_is_not_taken_for_one() -> None:
    """On a CPU only the message tells."""
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 50)

    assert is_out_of_memory(error.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
