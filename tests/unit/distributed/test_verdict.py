"""What an error of one worker means: for the driver, for the others, for the next model."""

import errno

import pytest
import torch
import torch.distributed as dist

from imgrec.distributed.verdict import Verdict, judge
from imgrec.errors import ConfigError, StorageError


@pytest.mark.parametrize("alone", [True, False])
def test_a_full_disk_ends_the_lane(alone: bool) -> None:
    """The same command goes on from there."""
    verdict = judge(OSError(errno.ENOSPC, "No space left on device"), "lane", "cnn", alone=alone)

    assert isinstance(verdict.failure, StorageError)
    assert verdict.abandoned == "lane"
    assert not verdict.goes_on


@pytest.mark.parametrize("alone", [True, False])
def test_memory_that_ran_out_is_tried_again_in_more_parts(alone: bool) -> None:
    """And nobody is told that anything failed."""
    error = torch.OutOfMemoryError("CUDA out of memory")
    assert judge(error, "lane", "cnn", alone=alone) == Verdict(ran_out=True)


def test_an_error_for_people_ends_that_model_alone() -> None:
    """One worker goes on by itself; several start again, of which none has died."""
    error = ConfigError("cnn.model.backbone: no such classifier")

    assert judge(error, "lane", "cnn", alone=True) == Verdict(
        error, abandoned="lane/cnn", goes_on=True
    )
    assert judge(error, "lane", "cnn", alone=False) == Verdict(
        error, abandoned="lane/cnn", excused=True
    )


def test_of_several_workers_an_error_may_follow_from_another_ones_end() -> None:
    """Of one alone it is a bug, which is told with its traceback."""

    def fail() -> None:
        msg = "connection closed by peer"
        raise RuntimeError(msg)

    try:
        fail()
    except RuntimeError as error:
        assert judge(error, "lane", "cnn", alone=False) == Verdict(secondary=error)
        verdict = judge(error, "lane", "cnn", alone=True)
    assert verdict.abandoned == "lane"
    assert "Traceback" in str(verdict.failure)
    assert "connection closed by peer" in str(verdict.failure)


def test_a_group_that_ray_takes_down_under_a_worker_is_no_bug() -> None:
    """When a node comes or goes; torch calls it a ValueError, and the run ended with a traceback."""
    with pytest.raises(ValueError, match="process group has not been initialized") as caught:
        dist.all_reduce(torch.zeros(1))
    error = caught.value

    assert judge(error, "lane", "cnn", alone=False) == Verdict(secondary=error)
    assert judge(error, "lane", "cnn", alone=True).abandoned == "lane"


def test_a_bug_is_never_secondary() -> None:
    """A KeyError is nobody else's."""
    assert judge(KeyError("x"), "lane", "cnn", alone=False).abandoned == "lane"
