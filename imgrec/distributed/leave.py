"""Tasks that nobody waits for any more."""

from collections.abc import Sequence

import ray

GRACE_SECONDS = 1.0


def leave(answers: Sequence[ray.ObjectRef]) -> None:
    """Cancel what is on its way, so that its cores are others' again, and Ray can go down at once.

    Tasks have a second to end by themselves. Where one ends at the moment in which it is cancelled, Ray 2.60 ends the process
    that cancels it ("Tried to complete task that was not pending", docs/log.md).
    """
    if not answers:
        return
    _, unfinished = ray.wait(
        list(answers), num_returns=len(answers), timeout=GRACE_SECONDS, fetch_local=False
    )
    for answer in unfinished:
        ray.cancel(answer, force=True)
