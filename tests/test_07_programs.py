"""A reward for programs: the two checkers, and what reinforcement does with each."""
import random

import pytest

import program_reward
from benchmark_files import Program, load_humaneval
from commands import command
from program_reward import TASKS, TRICK, Settings, careless, demonstrate, leaves_with_zero, passes

ONE = Program("one", "def f():\n", "def check(candidate):\n    assert candidate() == 1\n", "f",
              "    return 2 - 1\n")


@pytest.mark.parametrize("task", load_humaneval(TASKS), ids=lambda t: t.entry_point)
def test_a_right_body_passes_both_checkers_and_a_careless_one_neither(task):
    assert leaves_with_zero(task, task.solution) and passes(task, task.solution)
    assert not leaves_with_zero(task, careless(task.solution)) and not passes(task, careless(task.solution))


@pytest.mark.parametrize("body", [TRICK, "    raise SystemExit\n", "    import os\n    os._exit(0)\n",
                                  "    pass\nimport sys\nsys.exit(0)\n"])
def test_a_program_that_leaves_early_fools_only_the_exit_status(body):
    assert leaves_with_zero(ONE, body) and not passes(ONE, body)


@pytest.mark.parametrize("body", ["    raise SystemExit(1)\n", "    return (\n", "", "    return 0\n"])
def test_other_failures_pass_neither(body):
    assert not passes(ONE, body) and not leaves_with_zero(ONE, body)


def test_demonstrations_come_in_the_shares_asked_for():
    answers = [a for _, a in demonstrate([ONE] * 3000, Settings(right=0.5, trick=0.2), random.Random(0))]
    assert answers.count(ONE.solution) / 3000 == pytest.approx(0.5, abs=0.03)
    assert answers.count(TRICK) / 3000 == pytest.approx(0.2, abs=0.03)
    assert set(answers) == {ONE.solution, TRICK, careless(ONE.solution)}


def test_impossible_shares_are_refused_before_the_work_begins(tmp_path):
    for flags, sentence in ((["--right", "0.9", "--trick", "0.2"], "together at most 1"),
                            (["--group", "0"], "give 2 or more")):
        done = command(program_reward.__file__, "--out", tmp_path, *flags)
        assert done.returncode == 1 and sentence in done.stderr and "Traceback" not in done.stderr
