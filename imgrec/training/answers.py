"""What a trained network says of the pictures that judge it, computed by all workers together where it was trained.

Whoever registers the model only reads them: with a million pictures they are hours of one machine, and the GPU that it
might have belongs to whatever trains next.
"""

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from imgrec.data.decode import pictures_at_once
from imgrec.data.loader import Pictures, evaluation_batches
from imgrec.data.splits import Splits
from imgrec.training.learner import Learner
from imgrec.training.microbatch import is_out_of_memory

NAME = "answers-{rank}-of-{workers}.npy"


@torch.inference_mode()
def write_answers(learner: Learner, pictures: Pictures, folder: Path) -> None:
    """Every worker writes its part: logits (n, K) of the validation split and then the test split, in fp32 as served.

    The network has the kept weights after it. Of what a probe came to nothing is written: its features are kept. Nor
    where memory runs out: whoever registers computes them then.

    Args:
        learner: Trained to its end.
        pictures: Of its store.
        folder: That every worker sees.
    """
    best, spec, shard = learner.best, learner.spec, learner.shard
    assert best
    if best.epoch <= spec.probe_epochs:
        return
    learner.model.load_state_dict(best.weights)
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / NAME.format(rank=shard.rank, workers=shard.world_size)
    own.unlink(missing_ok=True)  # of workers that died here
    try:
        np.save(own, _own_answers(learner, pictures))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        logging.getLogger(__name__).warning("no memory to answer in: %s", error)
    if shard.world_size > 1:
        dist.barrier()
    if shard.rank == 0:
        for part in folder.glob(NAME.format(rank="*", workers="*")):
            if _workers_of(part) != shard.world_size:
                part.unlink()  # of a group of another size that died here


def _own_answers(learner: Learner, pictures: Pictures) -> npt.NDArray[np.float32]:
    network, recipe = learner.model.eval(), learner.recipe.eval()
    batches = evaluation_batches(
        pictures,
        np.concatenate([learner.splits.val, learner.splits.test]),
        batch_size=pictures_at_once(recipe.larger_of(pictures.image_shape)),
        shard=learner.shard,
    )
    parts = [network(recipe(images)).float().cpu().numpy() for images, _ in batches]
    none = np.zeros((0, learner.spec.num_classes), dtype=np.float32)
    return np.concatenate([none, *parts])


def _workers_of(part: Path) -> int:
    return int(part.stem.rpartition("-")[2])


def read_answers(folder: Path, splits: Splits) -> tuple[Tensor, Tensor] | None:
    """Logits (Nval, K) and (Ntest, K) that workers have left; None where they have not, as after a trial."""
    parts = list(folder.glob(NAME.format(rank="*", workers="*")))
    if not parts or {_workers_of(part) for part in parts} != {len(parts)}:
        return None
    by_rank = [np.load(folder / NAME.format(rank=r, workers=len(parts))) for r in range(len(parts))]
    logits = np.empty((sum(map(len, by_rank)), by_rank[0].shape[1]), dtype=np.float32)
    for rank, part in enumerate(by_rank):
        logits[rank :: len(parts)] = part
    assert len(logits) == len(splits.val) + len(splits.test)
    return torch.from_numpy(logits[: len(splits.val)]), torch.from_numpy(logits[len(splits.val) :])
