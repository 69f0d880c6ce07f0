"""What to do where a batch does not fit into memory: the same batch in parts."""

from dataclasses import replace

import torch

from imgrec.errors import TrainingError
from imgrec.training.learner import FitJob

PARTS = 4


def in_parts(job: FitJob) -> FitJob:
    """The same job with its batches computed in parts, whose gradients are added up."""
    return replace(job, accumulate=PARTS)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch could not get the memory that it asked for, on a GPU or a CPU."""
    # The CPU's allocator has no exception of its own.
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def out_of_memory(job: FitJob, error: BaseException) -> TrainingError:
    """The error for people, after `in_parts` did not help."""
    reason = str(error).strip().splitlines()[0][:200]
    return TrainingError(
        f"out of memory, even with a batch of {job.train.batch_size} in {PARTS} parts: lower "
        f"{job.model.arch}.train.batch_size or take a smaller model ({reason})"
    )
