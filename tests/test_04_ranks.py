"""Ranks that fail: the job ends in bounded time, names the culprit, and leaves no process."""
import errno
import multiprocessing
import socket

import pytest

from parallel_cases import fails
from ranks import RankError, _message, _unpacked, joined, run_ranks


def test_a_rank_that_raises_is_named_with_its_traceback():
    with pytest.raises(RankError,
                       match=r"rank 1 of 3 failed(.|\n)*in fails(.|\n)*disk of rank one is on fire"):
        run_ranks(fails, 3, "raises")
    assert not multiprocessing.active_children()


def test_a_message_to_the_user_arrives_as_it_is():
    with pytest.raises(ValueError, match="^choose a smaller number$"):
        run_ranks(fails, 2, "refuses")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"),
                                   PermissionError(errno.EACCES, "Permission denied", "/locked/out")])
def test_what_a_full_disk_or_a_locked_folder_refuses_a_rank_is_a_message_too(error):
    again = _unpacked(_message(error))
    assert type(again) is type(error) and again.args == error.args and again.filename == error.filename
    assert _message(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")) is None


def test_a_rank_that_is_killed_is_named():
    with pytest.raises(RankError, match="rank 1 of 3 failed: the process died with exit status -9"):
        run_ranks(fails, 3, "dies")
    assert not multiprocessing.active_children()


def test_a_rank_that_hangs_is_told_from_those_that_wait_for_it():
    with pytest.raises(RankError,
                       match=r"rank 1 of 3 hangs: still busy after 6 s \(ranks \[0, 2\] wait(.|\n)*in fails"):
        run_ranks(fails, 3, "hangs", timeout=6.0)
    assert not multiprocessing.active_children()


class Refusal(ValueError):
    """An error with two arguments: pickle would call Refusal with its text alone."""

    def __init__(self, what, fix):
        super().__init__(f"{what}: {fix}")


class Unreadable(ValueError):
    """Packed without complaint, and an error for whoever unpacks it where RANK is not set."""

    def __reduce__(self):
        return Unreadable._make, (self.args,)

    @staticmethod
    def _make(args):
        if multiprocessing.parent_process() is None:
            raise TypeError("no rank, no error")
        return Unreadable(*args)


def answers(team, how):
    """Ranks that come back with something that is hard to send."""
    if team.rank == 0 and how == "two arguments":
        raise Refusal("7 heads", "choose 8")
    if team.rank == 0 and how == "an error with a lambda":
        error = ValueError("choose 9")
        error.repair = lambda: 9
        raise error
    if team.rank == 0 and how == "unreadable":
        raise Unreadable("choose 10")
    return (lambda: 1) if how == "a function" else (Unreadable(1) if how == "an unreadable result" else 1)


@pytest.mark.parametrize("how, error, sentence", [
    ("two arguments", ValueError, "^7 heads: choose 8$"),
    ("an error with a lambda", ValueError, "^choose 9$"),
    ("unreadable", RankError, r"rank 0 of 2 failed: Traceback(.|\n)*choose 10"),
    ("a function", RankError, r"rank [01] of 2 failed: its result cannot be sent back \(.*lambda"),
    ("an unreadable result", RankError,
     r"rank [01] of 2 failed: what it sent back cannot be read here \(TypeError\('no rank"),
])
def test_what_cannot_be_sent_does_not_hide_the_reason(how, error, sentence):
    with pytest.raises(error, match=sentence):
        run_ranks(answers, 2, how)
    assert not multiprocessing.active_children()


def test_a_function_that_cannot_be_sent_is_refused_before_anything_starts():
    with pytest.raises(ValueError, match="cannot be sent to other processes(.|\n)*from the top of a module"):
        run_ranks(lambda team: 1, 2)


def test_no_ranks_are_refused():
    with pytest.raises(ValueError, match="ask for at least 1"):
        run_ranks(fails, 0, "")


def place_in(monkeypatch, **values) -> None:
    """The environment of one rank of one, as torchrun sets it, but for `values` (None: missing)."""
    usual = dict(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="29555")
    for name, value in {**usual, **values}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name, value", [
    ("RANK", "x"), ("RANK", "1"), ("RANK", "-1"), ("RANK", "²"), ("WORLD_SIZE", "two"), ("WORLD_SIZE", None),
    ("WORLD_SIZE", "0"), ("MASTER_PORT", ""), ("MASTER_PORT", "70000"), ("MASTER_ADDR", None)])
def test_an_environment_that_torchrun_never_sets_is_said_and_not_waited_for(monkeypatch, name, value):
    place_in(monkeypatch, **{name: value})
    with pytest.raises(ValueError, match=f"{name} is {value!r}.*: start this with torchrun, which sets them"):
        with joined(timeout=5):
            pass


def test_a_meeting_point_in_use_is_a_sentence(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        place_in(monkeypatch, MASTER_PORT=str(busy.getsockname()[1]))
        with pytest.raises(ValueError, match="cannot meet at 127.0.0.1:.*in use.*another --master-port"):
            with joined(timeout=5):
                pass
