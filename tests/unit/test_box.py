"""What the mailbox knows of the starts of a lane's workers: which were deaths, and where memory ran out."""

from imgrec.distributed.box import Box


def test_only_deaths_count_and_not_what_was_excused() -> None:
    """Memory that ran out, and what one worker found, start all of them again and use up nothing."""
    box = Box()
    assert box.begin("lane", 2) == 0
    box.ran_out("lane", "cnn")
    box.ran_out("lane", "cnn")  # by two workers of the same start
    assert box.begin("lane", 2) == 0
    box.excuse("lane")
    assert box.begin("lane", 2) == 0
    assert box.begin("lane", 2) == 1  # nobody said why
    assert box.times_ran_out("lane", "cnn") == 1
    assert box.times_ran_out("lane", "ann") == 0
    assert box.begin("another lane", 2) == 0


def test_a_group_of_another_size_is_no_death() -> None:
    """In an elastic lane a machine that comes or goes starts all workers again."""
    box = Box()
    assert [box.begin("lane", workers) for workers in (2, 3, 4, 2, 2)] == [0, 0, 0, 0, 1]


def test_a_worker_that_the_system_killed_for_want_of_memory_ran_out_of_it() -> None:
    """It cannot say so itself; the system's counter on its node does."""
    box = Box()
    box.note_kills("lane", "node", 7)
    assert box.begin("lane", 2) == 0
    assert box.times_ran_out("lane", "rnn") == 0
    box.note_kills("lane", "node", 8)
    assert box.begin("lane", 2) == 0
    assert box.times_ran_out("lane", "rnn") == 1
    box.note_kills("lane", "another node", 3)  # it came later, and says nothing of what was before
    assert box.begin("lane", 2) == 1
    assert box.times_ran_out("lane", "rnn") == 1
