"""What an error of one worker means for the others, for the model and for its lane."""

import traceback
from dataclasses import dataclass

import ray
import torch.distributed as dist

from imgrec.distributed.events import Failed, Mailbox
from imgrec.errors import ImgrecError, disk_failure
from imgrec.training.microbatch import is_out_of_memory


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from an error of one worker.

    Attributes:
        failure: What the driver is told; None where Ray is to start the workers again.
        abandoned: What is not tried again: the lane, or one model of it.
        secondary: An error that may only follow from another worker's end; said if the lane is given up.
        ran_out: Memory ran out; the next try computes a batch in more parts.
        excused: All workers end, though none of them died.
        goes_on: This worker does not end, but goes on to the next model.
    """

    failure: Exception | None = None
    abandoned: str = ""
    secondary: Exception | None = None
    ran_out: bool = False
    excused: bool = False
    goes_on: bool = False


def judge(error: Exception, lane: str, name: str, *, alone: bool) -> Verdict:
    """What follows from an error that ended the training of a model.

    Args:
        error: What was raised; this is called while it is handled.
        lane: The worker's.
        name: Of the model.
        alone: There is no other worker that could wait for this one.
    """
    if failure := disk_failure(error):
        # Of this node's disk alone; it ends the run, so that the same command goes on from there.
        return Verdict(failure, abandoned=lane)
    if is_out_of_memory(error):
        return Verdict(ran_out=True)
    if isinstance(error, ImgrecError):
        return Verdict(error, abandoned=f"{lane}/{name}", excused=not alone, goes_on=alone)
    if not alone and (isinstance(error, RuntimeError | OSError) or _has_lost_its_group(error)):
        # It may only follow from another worker's end; Ray then starts all of them again.
        return Verdict(secondary=error)
    bug = RuntimeError(f"{name}, in a worker:\n{traceback.format_exc()}")
    return Verdict(bug, abandoned=lane)


def _has_lost_its_group(error: Exception) -> bool:
    """Whether Ray took the group down, to start another one, while this worker was in a reduction."""
    return isinstance(error, ValueError) and not dist.is_initialized()


def carry_out(verdict: Verdict, mailbox: Mailbox, lane: str, name: str) -> None:
    """Tell the driver, and the workers that start again."""
    if verdict.secondary:
        mailbox.note_error(lane, verdict.secondary)
    if verdict.ran_out:
        mailbox.ran_out(lane, name)
    if verdict.abandoned:
        mailbox.abandon(verdict.abandoned)
    if verdict.excused:
        mailbox.excuse(lane)
    if verdict.failure:
        ray.get(mailbox.send(lane, name, Failed(verdict.failure)))
