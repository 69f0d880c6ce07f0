"""What is waited for beside the main thread."""

import signal
import threading

import pytest

from imgrec.distributed.session import Beside


def _wait_interrupted(one: Beside, main: int) -> None:
    threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGUSR1)).start()
    one.wait(30)


def test_what_ctrl_c_broke_off_to_wait_for_is_not_taken_for_done() -> None:
    """Inside Ray at the end of the interpreter it would crash it; so whoever brings Ray down waits again."""
    go = threading.Event()
    one = Beside(lambda: go.wait(30), "late")
    one.start()
    main = threading.main_thread().ident or 0
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            _wait_interrupted(one, main)
    finally:
        signal.signal(signal.SIGUSR1, before)
    still = one.wait(0.1), one.is_over()
    go.set()

    assert still == (False, False)
    assert one.wait(30)
    assert one.is_over()
