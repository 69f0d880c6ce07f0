"""What the mailbox knows of the starts of a lane's workers: which were deaths, and where memory ran out."""

from imgrec.distributed.mailbox_actor import MailboxActor


def test_only_deaths_count_and_not_what_was_excused() -> None:
    """Memory that ran out, and what one worker found, start all of them again and use up nothing."""
    actor = MailboxActor()
    assert actor.begin("lane", 2) == 0
    actor.ran_out("lane", "cnn")
    actor.ran_out("lane", "cnn")  # by two workers of the same start
    assert actor.begin("lane", 2) == 0
    actor.excuse("lane")
    assert actor.begin("lane", 2) == 0
    assert actor.begin("lane", 2) == 1  # nobody said why
    assert actor.times_ran_out("lane", "cnn") == 1
    assert actor.times_ran_out("lane", "ann") == 0
    assert actor.begin("another lane", 2) == 0


def test_a_group_of_another_size_is_no_death() -> None:
    """In an elastic lane a machine that comes or goes starts all workers again."""
    actor = MailboxActor()
    assert [actor.begin("lane", workers) for workers in (2, 3, 4, 2, 2)] == [0, 0, 0, 0, 1]


def test_a_worker_that_the_system_killed_for_want_of_memory_ran_out_of_it() -> None:
    """It cannot say so itself; the system's counter on its node does."""
    actor = MailboxActor()
    actor.note_kills("lane", "node", 7)
    assert actor.begin("lane", 2) == 0
    assert actor.times_ran_out("lane", "rnn") == 0
    actor.note_kills("lane", "node", 8)
    assert actor.begin("lane", 2) == 0
    assert actor.times_ran_out("lane", "rnn") == 1
    actor.note_kills(
        "lane", "another node", 3
    )  # it came later, and says nothing of what was before
    assert actor.begin("lane", 2) == 1
    assert actor.times_ran_out("lane", "rnn") == 1
