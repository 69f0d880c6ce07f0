"""What to do where a batch does not fit into memory: the same batch in parts."""

import gc
from dataclasses import replace

import torch

from imgrec.errors import TrainingError
from imgrec.machine import give_memory_back
from imgrec.training.spec import FitSpec

FACTOR = 4
"""How many times more parts each next try has."""
SIGNS = (
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)
"""Texts in the messages of out-of-memory errors that have no exception class of their own."""


def in_more_parts(spec: FitSpec, world_size: int, tries: int = 1) -> FitSpec | None:
    """The same spec with its batches computed in more parts, whose gradients are added up.

    Args:
        spec: What did not fit.
        world_size: Workers that share a batch.
        tries: How often memory ran out.

    Returns:
        None where the batch cannot be divided further.
    """
    parts = spec.parts(world_size)
    for _ in range(tries):
        more = replace(spec, accumulate=parts * FACTOR)
        if more.parts(world_size) == parts:
            return None
        spec, parts = more, more.parts(world_size)
    return spec


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def release_memory() -> None:
    """Give back what nobody refers to any more: the process goes on to another model."""
    gc.collect()
    give_memory_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory(spec: FitSpec, reason: str) -> TrainingError:
    """The error for people, where not even the smallest parts fit.

    Args:
        spec: What was trained.
        reason: What torch, or the system, said.
    """
    reason = next(iter(reason.strip().splitlines()), "")[:200]
    return TrainingError(
        f"out of memory, even with a batch of {spec.train.batch_size} in the smallest parts: lower "
        f"data.image_size, take a smaller {spec.model.arch} or a machine with more memory ({reason})"
    )
