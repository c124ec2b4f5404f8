"""Thoughts before answers: a transcript worked by hand, the parser, votes, and what tokens are counted."""
import importlib
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

import think
from bpe import EOS
from chat_template import chat_prompt
from scratchpad import (
    COUNT,
    DIGITS,
    FORMS,
    demonstration,
    one_wrong,
    question,
    says,
    split,
    thought,
    truth,
    vote,
)
from study_cells import modules_of_cells
from think import BYTES, CARELESS, LONGEST, ROWS, Experiment, Row, Settings, cost_of

NUMBERS = (473, 526, 918, 264)   # 3+6+8+4 = 21; 7+2+1+6+2 = 18; 4+5+9+2+1 = 21; the sum is 2181


def test_a_transcript_worked_by_hand():
    assert COUNT == len(NUMBERS) and DIGITS == 3
    assert question(NUMBERS) == "473+526+918+264" and truth(NUMBERS) == "2181"
    assert thought(NUMBERS) == "211821"
    assert demonstration(NUMBERS, "first") == "211821:2181"
    assert demonstration(NUMBERS, "dots") == "......:2181"
    assert demonstration(NUMBERS, "after") == "2181;211821"
    assert demonstration(NUMBERS, "at once") == "2181"
    # Without carries: 21, 7+2+1+6 = 16, 4+5+9+2 = 20, which come to 2061.
    assert thought(NUMBERS, forgets=True) == "211620"
    assert demonstration(NUMBERS, "first", forgets=True) == "211620:2061"
    assert question((5, 60, 0, 999)) == "005+060+000+999" and truth((1, 0, 0, 0)) == "0001"


def test_totals_of_columns_come_to_the_sum_also_where_every_column_carries():
    rng = random.Random(0)
    drawn = [tuple(rng.randrange(1000) for _ in range(4)) for _ in range(200)]
    for numbers in [(0,) * 4, (999,) * 4, *drawn]:
        totals = [int(thought(numbers)[i:i + 2]) for i in (0, 2, 4)]
        ones = sum(total % 10 * 10**i for i, total in enumerate(totals))
        assert ones + totals[-1] // 10 * 1000 == sum(numbers)
        assert says(thought(numbers)) == truth(numbers)


@pytest.mark.parametrize("text, want", [
    ("211821:2181", ("211821", "2181")), ("2181;211821", ("211821", "2181")), ("2181", ("", "2181")),
    ("1:2:3", ("1:2", "3")), ("21:", ("21", "")), ("", ("", "")), (":", ("", "")), ("21:7 ", ("21", "7 "))])
def test_the_answer_stands_behind_the_last_colon(text, want):
    assert split(text) == want


@pytest.mark.parametrize("form", FORMS)
def test_the_answer_of_every_form_is_found_again(form):
    told, answer = split(demonstration(NUMBERS, form))
    assert answer == "2181" and told == {"dots": "......", "at once": ""}.get(form, "211821")


def test_forms_cost_the_same_tokens_with_a_thought_dots_or_an_explanation():
    cost = {form: len(BYTES.encode(demonstration(NUMBERS, form))) for form in ("first", "dots", "after")}
    assert set(cost.values()) == {11} and LONGEST == 11 + 1 + 2
    assert [cost_of(form) for form in FORMS] == [5, 12, 12, 12]
    assert len(BYTES.encode(demonstration(NUMBERS, "at once"))) == 4


def test_a_vote_goes_to_the_most_frequent_answer_of_equals_the_first():
    assert vote(["7", "8", "8"]) == "8" and vote(["7", "8"]) == "7" and vote(["8", "7", "7", "8"]) == "8"
    assert vote(["", "", "", "5"]) == "5" and vote(["", ""]) == "" and vote([]) == ""
    rng = random.Random(1)
    for _ in range(50):
        answers = [str(rng.randrange(4)) for _ in range(9)]
        assert answers.count(vote(answers)) == max(Counter(answers).values())


def test_one_total_is_made_wrong_and_its_carry_left():
    for seed in range(30):
        wrong = one_wrong("211821", random.Random(seed))
        [i] = [i for i in range(6) if wrong[i] != "211821"[i]]
        assert i % 2 == 1 and sum(a != b for a, b in zip(says(wrong), "2181")) == 1


def said(monkeypatch, greedy: str, samples: list[str], asked: list | None = None, **settings) -> Experiment:
    """An experiment of one held-out sum whose model says these texts; prompts are noted in `asked`."""
    experiment = Experiment(Settings(sums=1, samples=len(samples), **settings), 0, torch.device("cpu"))
    experiment.test = [NUMBERS]

    def sample(model, prompts, n_new, eos, temperature, n, generator):
        assert (temperature == 0) == (n == 1)
        (asked if asked is not None else []).extend(prompts)
        return [[[*text.encode(), BYTES.special[EOS]] for text in ([greedy] if n == 1 else samples)]]
    monkeypatch.setattr(think, "sample", sample)
    return experiment


def test_one_answer_is_greedy_several_are_sampled_and_one_cut_short_keeps_its_last_token(monkeypatch):
    temperatures = []

    def sample(model, prompts, n_new, eos, temperature, n, generator):
        temperatures.append(temperature)
        return [[[*b"21", eos], [*b"218"]][-n:]]
    experiment = said(monkeypatch, "", [""])
    monkeypatch.setattr(think, "sample", sample)
    assert experiment.texts(None, 1) == ([["218"]], 3) and experiment.texts(None, 2) == ([["21", "218"]], 3)
    assert temperatures == [0, 1]


def test_votes_and_best_of_n_are_counted_over_all_parts_of_the_samples(monkeypatch):
    samples = ["211821:2181", "xx:0000", "1:2181", "0000"]
    got = said(monkeypatch, "211821:2181", samples).measure(None, "dots")
    assert (got["right"], got["thought"], got["tokens"]) == (100, 100, 12) and "follows" not in got
    # One by one two of four are right; of the pairs both hold a right one, and a vote takes the first.
    assert [(p["n"], p["vote"], p["best"]) for p in got["curve"]] == [
        (1, 50, 50), (2, 100, 100), (4, 100, 100)]
    mean = sum(len(text) + 1 for text in samples) / 4
    assert [p["tokens"] for p in got["curve"]] == [mean, 2 * mean, 4 * mean]


def test_samples_without_a_thought_are_as_many_as_fit_into_the_same_tokens(monkeypatch):
    asked = []
    experiment = said(monkeypatch, "2181", ["0"])
    monkeypatch.setattr(experiment, "texts", lambda model, n: asked.append(n) or ([["2181"] * n], 5.0))
    experiment.s = Settings(samples=4)
    got = experiment.measure(None, "at once")
    # Five tokens each, beside 1, 2 and 4 thoughts of twelve.
    assert asked == [1, 48 // 5] and [p["n"] for p in got["curve"]] == [2, 4, 9]
    assert [p["tokens"] for p in got["curve"]] == [10, 20, 45]


def test_a_right_answer_with_a_wrong_thought_is_right_and_its_thought_is_not(monkeypatch):
    got = said(monkeypatch, "999999:2181", ["2181"] * 2).measure(None, "dots")
    assert (got["right"], got["thought"]) == (100, 0)


def test_a_model_that_says_what_the_truth_is_does_not_follow_a_wrong_thought(monkeypatch):
    assert said(monkeypatch, "2181", ["2181"] * 2).measure(None, "first")["follows"] == 0
    told, prompts = one_wrong("211821", random.Random("wrong 0")), []
    assert said(monkeypatch, says(told), ["2181"] * 2, prompts).measure(None, "first")["follows"] == 100
    plain = chat_prompt(BYTES, question(NUMBERS))
    assert prompts == [plain, plain + BYTES.encode(told + ":"), plain]


@pytest.mark.parametrize("reward, paid", [("right", {1.0}), ("random", {0.0, 1.0})])
def test_the_reward_looks_at_the_final_answer_alone(monkeypatch, reward, paid):
    experiment = Experiment(Settings(batches=1, prompts=1, sums=1), 0, torch.device("cpu"))
    seen = {}

    def objective(model, tokenizer, draw, group, seed, variant, ask, verify, n_new):
        seen.update(verify=verify)
        return lambda step: 0 * model.model.norm.weight.sum()
    monkeypatch.setattr(think, "task_objective", objective)
    monkeypatch.setattr(think, "train", lambda *_: [])
    experiment.reinforce(torch.nn.Linear(1, 1), reward)
    assert {float(seen["verify"]("000000:2181", NUMBERS)) for _ in range(40)} == paid
    assert reward == "random" or not any(seen["verify"](t, NUMBERS) for t in ("2181:", "2181:2180", ""))


def test_forms_of_fewer_tokens_get_more_steps_and_no_held_out_sum(monkeypatch):
    taken, shown = [], []
    monkeypatch.setattr(think, "train", lambda model, optimizers, loss_of, steps, *_: taken.append(steps)
                        or loss_of(0))
    monkeypatch.setattr(think, "answer_loss", lambda model, tokenizer, pairs: shown.append(pairs))
    experiment = Experiment(Settings(steps=230, careless=0.25, rows=200), 0, torch.device("cpu"))
    [first] = experiment.draw(1, random.Random("think 0 0"))
    experiment.banned.add(first)
    for row in (Row("first"), Row("at once"), replace(CARELESS, times=2)):
        experiment.imitate(row)
    # 3 + 15 tokens of a question with 11 of an answer, or with 4.
    assert taken == [230, 230 * 29 // 22, 460] and [len(pairs) for pairs in shown] == [200] * 3
    assert question(first) not in [asked for pairs in shown for asked, _ in pairs]
    wrong = [sum(split(text)[1] != truth(tuple(map(int, asked.split("+")))) for asked, text in pairs)
             for pairs in shown]
    assert wrong[:2] == [0, 0] and 20 < wrong[2] < 80


def test_a_sum_that_is_held_out_is_never_drawn():
    experiment = Experiment(Settings(sums=5), 0, torch.device("cpu"))
    assert len(set(experiment.test)) == 5
    assert not set(experiment.test) & set(experiment.draw(5, random.Random("think 0 held out")))


def test_imitators_of_one_seed_start_alike_in_their_own_positions_and_are_what_is_trained(monkeypatch):
    trained = []
    monkeypatch.setattr(think, "train", lambda model, *_: trained.append(model))
    models = [Experiment(Settings(sums=1), seed, torch.device("cpu")).imitate(row) for seed, row in (
        (0, Row("first")), (0, Row("dots")), (1, Row("first")), (0, Row("first", positions="rope")))]
    assert all(a is b for a, b in zip(models, trained, strict=True))
    assert [m.config.positions for m in models] == ["learned", "learned", "learned", "rope"]
    one, same, other, _ = (m.model.embed_tokens.weight for m in models)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_rows_that_start_from_one_imitator_train_it_once_and_leave_it_alone(monkeypatch):
    experiment, made = Experiment(Settings(sums=1), 0, torch.device("cpu")), []
    monkeypatch.setattr(experiment, "imitate", lambda row: made.append(row) or torch.nn.Linear(1, 1))

    def reinforce(model, reward):
        with torch.no_grad():
            model.weight.add_(1)
        return model
    monkeypatch.setattr(experiment, "reinforce", reinforce)
    plain, right = (experiment.model_of(ROWS[name]) for name in ("careless teacher", "careless, then GRPO"))
    again = experiment.model_of(ROWS["careless teacher"])
    assert made == [CARELESS] and torch.equal(plain.weight, again.weight)
    torch.testing.assert_close(right.weight, plain.weight + 1)


def test_a_number_of_samples_that_is_no_power_of_two_is_refused(monkeypatch):
    monkeypatch.setattr("sys.argv", ["think.py", "--samples", "12"])
    with pytest.raises(ValueError, match="choose 16"):
        think.main()


@pytest.mark.parametrize("name", ["code_agent", "constitution_study", "distill", "grpo_study",
                                  "imitation_or_reward", "lora", "model_collapse", "overoptimization",
                                  "reward_hacking", "synthetic", "think", "tool_study"])
def test_a_change_of_a_study_makes_its_cells_new(name, monkeypatch, tmp_path):
    assert importlib.import_module(name) in modules_of_cells(name, monkeypatch, tmp_path)
