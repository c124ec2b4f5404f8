"""The study of the agent that repairs: what is drawn, tried, paid, kept, imitated and measured."""
import random
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

import code_agent
from code_agent import Course, Settings, draw
from repair_tasks import all_bugs

WEIGHT = torch.nn.Parameter(torch.zeros(1))


@pytest.fixture
def course(monkeypatch):
    """One seed of the study, whose training takes the loss of one step and whose model does nothing."""
    made = object.__new__(Course)
    made.s, made.seed, made.tokenizer, made.shown, made.own = Settings(tests=5), 0, None, [], []
    monkeypatch.setattr(code_agent, "act_all", lambda *given: None)
    monkeypatch.setattr(code_agent, "muon_and_adamw", lambda *given: [])
    monkeypatch.setattr(code_agent, "train", lambda model, optimizers, loss_of, *given: loss_of(0))
    monkeypatch.setattr(code_agent, "demonstrate", lambda bugs, rng: ("shown", frozenset({"slip"})))
    return made


def test_a_kind_is_drawn_as_often_as_the_root_of_its_number_times_its_weight(monkeypatch):
    monkeypatch.setattr(code_agent, "make_task", lambda bug, rng: bug)
    bugs = [SimpleNamespace(kind=kind, number=i) for kind, n in (("many", 16), ("few", 4)) for i in range(n)]
    for weights, few in ((None, 1 / 3), ({"many": 0.5}, 1 / 2), ({"few": 4.0}, 2 / 3)):
        rng = random.Random(0)
        drawn = Counter(draw(bugs, rng, weights).kind for _ in range(2000))
        assert abs(drawn["few"] / 2000 - few) < 0.04, weights   # four standard errors


def test_every_stage_is_measured_on_the_same_tasks(course, monkeypatch):
    seen = []
    monkeypatch.setattr(code_agent, "act_all", lambda model, tokenizer, places: seen.append(
        [place.files for place in places]))
    bugs = all_bugs()[:40]
    first, *_ = [course.measure(None, bugs, salt) for salt in ("last", "last", "before round 1")]
    assert seen[0] == seen[1] != seen[2]
    assert first["each"] == [False] * 5 and first["ways"] == {"never submitted": 5}
    assert sum(first["broke"].values()) == sum(first["asked"].values()) == 5


def test_what_is_paid_is_what_the_tests_of_its_own_task_say_and_what_worked_is_kept(course, monkeypatch):
    """Two tasks, three episodes each; task 0 is solved in episodes 0 and 2, task 1 in 1; 2 is malformed."""
    course.s, paid = Settings(tried_tasks=2, group=3, tried_steps=1), []
    numbers = iter(range(2))

    def task(bugs, rng, weights):
        n, tries = next(numbers), iter(range(3))

        def place():
            i = next(tries)
            return SimpleNamespace(task=n, trial=i, transcript=f"{n}.{i}", malformed=i == 2)
        return SimpleNamespace(place=place, solved=lambda at: at.task == n and at.trial in ((0, 2), (1,))[n])

    def trial_loss(model, tokenizer, transcripts, rewards):
        paid.append((transcripts, rewards.tolist()))
        return WEIGHT.sum()
    monkeypatch.setattr(code_agent, "draw", task)
    monkeypatch.setattr(code_agent, "trial_loss", trial_loss)
    monkeypatch.setattr(code_agent, "imitation_loss", lambda model, tokenizer, rows: WEIGHT.sum() + len(rows))
    loss, numbers_of_step = course.try_out(torch.nn.Linear(1, 1), [], {}, "try")
    assert paid == [(["0.0", "0.1", "0.2", "1.0", "1.1", "1.2"], [[1, 0, 1], [0, 1, 0]])]
    assert course.own == ["0.0", "1.1"] and numbers_of_step == {"reward": pytest.approx(0.5)}
    assert loss.item() == pytest.approx(0.3 * 4)   # four demonstrations, so as not to forget


def test_half_of_what_is_imitated_is_the_models_own_once_there_is_any(course, monkeypatch):
    shown = []
    monkeypatch.setattr(code_agent, "imitation_loss", lambda model, tokenizer, rows: shown.append(rows))
    course.s = Settings(shown_batch=4)
    course.imitate(None, 1, 0.1, "imitate")
    course.own = ["mine"]
    course.imitate(None, 1, 0.1, "imitate")
    one, own = ("shown", frozenset({"slip"})), ("mine", frozenset())
    assert shown == [[one] * 4, [one, one, own, own]]
