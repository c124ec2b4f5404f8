"""Ranks that fail: the job ends in bounded time, names the culprit, and leaves no process."""
import multiprocessing

import pytest
from parallel_cases import fails

from ranks import RankError, run_ranks


def test_a_rank_that_raises_is_named_with_its_traceback():
    with pytest.raises(RankError, match=r"rank 1 of 3 failed(.|\n)*in fails(.|\n)*disk of rank one is on fire"):
        run_ranks(fails, 3, "raises")
    assert not multiprocessing.active_children()


def test_a_message_to_the_user_arrives_as_it_is():
    with pytest.raises(ValueError, match="^choose a smaller number$"):
        run_ranks(fails, 2, "refuses")


def test_a_rank_that_is_killed_is_named():
    with pytest.raises(RankError, match="rank 1 of 3 failed: the process died with exit status -9"):
        run_ranks(fails, 3, "dies")
    assert not multiprocessing.active_children()


def test_a_rank_that_hangs_is_told_from_those_that_wait_for_it():
    with pytest.raises(RankError, match=r"rank 1 of 3 hangs: still busy after 6 s \(ranks \[0, 2\] wait(.|\n)*in fails"):
        run_ranks(fails, 3, "hangs", timeout=6.0)
    assert not multiprocessing.active_children()


def test_no_ranks_are_refused():
    with pytest.raises(ValueError, match="ask for at least 1"):
        run_ranks(fails, 0, "")
