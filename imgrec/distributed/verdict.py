"""What an error of one worker means for the others, for the model and for its lane."""

import traceback
from dataclasses import dataclass

import ray

from imgrec.distributed.events import Failed, Mailbox
from imgrec.errors import ImgrecError, disk_failure
from imgrec.training.microbatch import is_out_of_memory


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from an error of one worker.

    Attributes:
        failure: What the driver is told; None where Ray is to start the workers again.
        condemned: What is not tried again: the lane, or one model of it.
        echo: What may be of another worker's end, to be said if that goes on.
        ran_out: Memory ran out; the next try takes a batch in more parts.
        excused: All workers end, though none of them died.
        goes_on: This worker does not end, but goes on to the next model.
    """

    failure: Exception | None = None
    condemned: str = ""
    echo: Exception | None = None
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
        return Verdict(failure, condemned=lane)
    if is_out_of_memory(error):
        return Verdict(ran_out=True)
    if isinstance(error, ImgrecError):
        return Verdict(error, condemned=f"{lane}/{name}", excused=not alone, goes_on=alone)
    if not alone and isinstance(error, RuntimeError | OSError):
        # May be the echo of another worker's end, which Ray makes good by starting all of them again.
        return Verdict(echo=error)
    bug = RuntimeError(f"{name}, in a worker:\n{traceback.format_exc()}")
    return Verdict(bug, condemned=lane)


def carry_out(verdict: Verdict, mailbox: Mailbox, lane: str, name: str) -> None:
    """Tell the driver, and the workers that start again."""
    if verdict.echo:
        mailbox.note_error(lane, verdict.echo)
    if verdict.ran_out:
        mailbox.ran_out(lane, name)
    if verdict.condemned:
        mailbox.condemn(verdict.condemned)
    if verdict.excused:
        mailbox.excuse(lane)
    if verdict.failure:
        ray.get(mailbox.send(lane, name, Failed(verdict.failure)))
