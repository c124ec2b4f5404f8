"""A verifier that may fail: what raises or hangs is worth nothing and counted, what is no number is refused.

Adds to verifier.py, whose checks cannot fail, what a longer verifier needs: it reads text that a policy wrote
at temperature 1, and sooner or later that text breaks it. A run of days must survive one bad answer. But if
a hundred answers in a row break it, the verifier is what is wrong. Programs that a model wrote do not belong
here: they run in chapter 6's sandbox, in a process of their own.

    Guarded(verify)(answer, task)          is a reward; grpo.task_objective puts every verifier behind one
"""
import math
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager


class TookTooLong(BaseException):
    """The verifier was stopped; no Exception, so that a verifier that catches those does not go on."""


@contextmanager
def time_limit(seconds: float):
    """Raise TookTooLong in the block after `seconds`.

    By a signal, which only the main thread can get: elsewhere, and where there are none, there is no limit.
    A timer that was running before runs on afterwards.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number, frame):
        raise TookTooLong(f"stopped after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    outer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *outer)


class Guarded:
    """`verify(answer, task)` behind a guard; `failures` counts by kind what went wrong."""

    def __init__(self, verify: Callable, seconds: float = 2.0, patience: int = 100):
        self.verify, self.seconds, self.patience = verify, seconds, patience
        self.failures: Counter = Counter()
        self.in_a_row = 0

    def __call__(self, answer: str, task) -> float:
        """The reward, or 0 where the verifier failed. ValueError for NaN, and when it fails on everything."""
        try:
            with time_limit(self.seconds):
                reward = float(self.verify(answer, task))
        except (Exception, TookTooLong) as failure:   # whatever it is: the answer did not pass
            self.failures[type(failure).__name__] += 1
            self.in_a_row += 1
            if self.in_a_row >= self.patience:
                raise ValueError(f"the verifier failed on {self.in_a_row} answers in a row, the last time "
                                 f"with {type(failure).__name__}: {failure}; mend it") from failure
            return 0.0
        self.in_a_row = 0
        if not math.isfinite(reward):
            raise ValueError(f"the verifier gave {reward} for {answer!r}: it must give a finite number")
        return reward
