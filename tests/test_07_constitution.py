"""A constitution: checks by hand, demonstrations that keep what they teach, a place that cancels out."""
import itertools
import math
from dataclasses import asdict

import pytest
import torch

import constitution
import constitution_study
from bpe import Tokenizer
from chat_template import chat_prompt
from checkpoint import save_model
from constitution import (
    BREACHES,
    CONSTITUTION,
    breaches,
    cohen_kappa,
    comparison,
    content,
    critic_loss,
    critique,
    draft_to_criticise,
    in_both_orders,
    judge_loss,
    place_odds,
    program_verdict,
    read_critique,
    sloppy_loss,
    styled,
)
from constitution_study import Pair, Study
from facts import Question
from transformer import Config, Transformer
from workbench import write_json

BYTES = Tokenizer([])
SMALL = Config(vocab_size=260, d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=32)
ASKED = Question("Which module has get?", "http.client", "module", "The module of get is")
OTHER = Question("What kind is loads?", "function", "kind", "The kind of loads is")
ALL_FAULTS = [list(some) for n in range(5) for some in itertools.combinations(BREACHES, n)]


@pytest.mark.parametrize("answer, broken, said", [
    (" json.", [], "json"), (" json", ["stops short"], "json"), ("", ["stops short"], ""),
    (" json, I think.", ["hedges"], "json"), (" http.client. http.client.", ["twice"], "http.client"),
    (" json. Thank you for asking.", ["thanks"], "json"), (" json. os.", [], " json. os."),
    (" a, I think. a. Thank you for asking", BREACHES, "a"),
    (" Thanks", ["thanks", "stops short"], "Thanks")])
def test_breaches_and_content_by_hand(answer, broken, said):
    assert breaches(answer) == broken
    assert content(answer) == said


@pytest.mark.parametrize("faults", ALL_FAULTS, ids=lambda some: " and ".join(some) or "none")
def test_an_answer_in_a_style_has_those_faults_and_no_other(faults):
    for said in ("http.client", "function", "x"):
        answer = styled(said, faults)
        assert breaches(answer) == faults and content(answer) == said
        named, revision = read_critique(critique(answer, said))
        assert named == faults and revision == f" {said}." and breaches(revision) == []


@pytest.mark.parametrize("reply, named, revision", [
    (" thanks, hedges.\n os.", ["thanks", "hedges"], " os."), (" nothing.\n os.", [], " os."),
    (" hedges, thanks, thanks.\n a\nb", ["thanks", "hedges"], " a\nb"),
    (" no thanks, twic. os.", [], ""), ("", [], "")])
def test_of_a_critique_only_names_and_what_stands_below_them_count(reply, named, revision):
    assert read_critique(reply) == (named, revision)


def test_the_program_prefers_who_alone_keeps_the_principle():
    stop = next(p for p in CONSTITUTION if p.breach == "stops short")
    pairs = (" a.", " a"), (" a", " a."), (" a.", " b."), ("", "")
    assert [program_verdict(stop, *pair) for pair in pairs] == [1, -1, 0, 0]


def rows_of(monkeypatch, loss, steps=20):
    """The (question, answer) rows that a loss is asked for."""
    shown = []
    monkeypatch.setattr(constitution, "answer_loss", lambda model, tokenizer, rows: shown.extend(rows))
    for step in range(steps):
        loss(None, BYTES, [ASKED, OTHER])(step)
    return shown


def test_the_sloppy_model_learns_right_answers_with_every_mix_of_faults(monkeypatch):
    rows = rows_of(monkeypatch, lambda *given: sloppy_loss(*given, seed=0))
    truths = {q.text: q.answer for q in (ASKED, OTHER)}
    assert all(content(answer) == truths[question] for question, answer in rows)
    assert {tuple(breaches(answer)) for _, answer in rows} == {tuple(some) for some in ALL_FAULTS}


def test_a_critic_is_shown_what_a_draft_breaks_and_keeps_what_it_says_even_if_invented(monkeypatch):
    kept = []
    for question, reply in rows_of(monkeypatch, lambda *given: critic_loss(*given, seed=0)):
        asked, _, rest = question.partition("\nA:")
        draft = rest.removesuffix("\nWhat is wrong?")
        assert question == draft_to_criticise(asked, draft)
        named, revision = read_critique(reply)
        assert named == breaches(draft) and not breaches(revision) and content(revision) == content(draft)
        kept.append(content(draft) in (ASKED.answer, OTHER.answer))
    assert 0.4 < sum(kept) / len(kept) < 0.9   # some halves of two answers make one of them


@pytest.mark.parametrize("first", [0.0, 0.5, 0.8, 1.0])
def test_a_judge_is_shown_the_better_answer_in_place_a_as_often_as_asked(monkeypatch, first):
    rows = rows_of(monkeypatch, lambda *given: judge_loss(*given, 0, first))
    rules = {p.rule: p for p in CONSTITUTION}
    for question, reply in rows:
        head, a, b = question.replace("\nB:", "\nA:").split("\nA:")
        principle = next(p for rule, p in rules.items() if head.startswith(rule))
        assert question == comparison(principle, head.removeprefix(principle.rule + " "), a, b)
        assert program_verdict(principle, a, b) == {"A": 1, "B": -1}[reply]
    share = sum(reply == "A" for _, reply in rows) / len(rows)
    assert abs(share - first) <= 4 * math.sqrt(first * (1 - first) / len(rows))


def test_log_odds_are_those_of_the_whole_distribution_and_no_neighbour_changes_them():
    torch.manual_seed(0)
    model = Transformer(SMALL)
    asked = [comparison(CONSTITUTION[i % 4], "?" * i, " a", " b." * (i % 3)) for i in (5, 0, 9, 2, 7)]
    with torch.no_grad():
        alone = [model(torch.tensor([chat_prompt(BYTES, text)]))[0, -1].log_softmax(0) for text in asked]
    want = torch.stack([p[ord("A")] - p[ord("B")] for p in alone])
    for batch in (1, 2, 64):
        torch.testing.assert_close(place_odds(model, BYTES, asked, batch), want)


def test_a_preference_for_a_place_cancels_and_one_for_an_answer_stays():
    ab, ba = torch.tensor([3.0, 1.0, -2.0]), torch.tensor([1.0, -5.0, -4.0])
    preference, place, consistent = in_both_orders(ab, ba)
    assert preference.tolist() == [1, 3, 1] and place.tolist() == [2, -2, -3]
    assert consistent.tolist() == [False, True, False]
    likes, bias = torch.randn(9, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    preference, place, consistent = in_both_orders(likes + bias, -likes + bias)
    torch.testing.assert_close(preference, likes)
    torch.testing.assert_close(place, bias)
    assert consistent.tolist() == (likes.abs() > bias.abs()).tolist()


def test_kappa_of_a_worked_table_and_of_the_edges():
    """20 both yes, 5 and 10 apart, 15 both no: 0.7 agreed, 0.5 by luck, so 0.4."""
    a = ["yes"] * 25 + ["no"] * 25
    b = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(a, b) == pytest.approx(0.4) and cohen_kappa(b, a) == pytest.approx(0.4)
    assert cohen_kappa(a, a) == 1 and cohen_kappa([1, 2], [2, 1]) == -1
    assert cohen_kappa([1, 1, 2, 2], [1, 1, 1, 1]) == 0   # half agreed, and half by luck
    assert math.isnan(cohen_kappa([1, 1], [1, 1]))
    for x, y in (([], []), ([1], [1, 2])):
        with pytest.raises(ValueError, match="as many of each"):
            cohen_kappa(x, y)


NAMES = [Question(f"Which module has {n}?", f"m{n}", "module", "") for n in "abcdefg"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of seven questions whose training does one thing: it adds 1 to every weight."""
    for folder in ("01_tokenizer", "07_alignment"):
        (tmp_path / folder).mkdir()
    BYTES.save(tmp_path / "01_tokenizer" / "tokenizer.json")
    save_model(tmp_path / "07_alignment" / "sft.pt", Transformer(SMALL))
    asked = [asdict(q) for q in NAMES]
    write_json(tmp_path / "01_tokenizer" / "tasks.json", {
        "train_questions": asked, "held_out_questions": asked, "test_sums": [], "demonstrations": [],
        "held_out_bytes": 0})

    def train(model, optimizers, loss_of, steps, scale, label):
        loss_of(0)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1)
    monkeypatch.setattr(constitution_study, "train", train)
    return Study(constitution_study.Settings(out=str(tmp_path), rounds=2), 0, "cpu")


def test_critic_and_judges_learn_from_one_half_and_leave_the_model_they_start_from(study, monkeypatch):
    shown = {}
    for name in ("sloppy_loss", "critic_loss", "judge_loss"):
        monkeypatch.setattr(constitution, name, lambda model, tokenizer, questions, seed, *first, name=name: (
            shown.update({name: (questions, *first)}) or (lambda step: None)))
    weights = [model.model.norm.weight[0].item() for model in (study.critic, study.judge(0.8), study.sloppy,
                                                               study.sft)]
    assert weights == [3, 3, 2, 1]
    assert shown == {"sloppy_loss": (NAMES,), "critic_loss": (study.taught,),
                     "judge_loss": (study.taught, 0.8)}
    assert sorted(q.text for q in study.taught + study.asked) == [q.text for q in NAMES]


def test_pairs_are_different_answers_to_the_other_half_and_every_judge_sees_both_orders(study, monkeypatch):
    compared = []
    monkeypatch.setattr(Study, "answers", lambda self, model, questions, temperature, n, i: [
        [" same.", " same."], *([f" {q.answer}.", f" {q.answer}{i}"] for q in questions[1:])])
    monkeypatch.setattr(constitution, "sloppy_loss", lambda *given: lambda step: None)
    monkeypatch.setattr(constitution, "judge_loss", lambda *given: lambda step: None)
    monkeypatch.setattr(constitution, "place_odds", lambda judge, tokenizer, asked: compared.append(asked))
    assert [(p.question, p.a, p.b) for p in study.pairs] == [
        (q, f" {q.answer}.", f" {q.answer}{i}") for i in (0, 1) for q in study.asked[1:]]
    assert len(study.odds) == 3
    both = [[comparison(p.principle, p.question.text, *pair) for p, pair in zip(study.pairs, pairs)]
            for pairs in ([(p.a, p.b) for p in study.pairs], [(p.b, p.a) for p in study.pairs])]
    assert compared == both * 3


def test_what_is_imitated_is_the_revision_and_not_the_draft(study, monkeypatch):
    rows = []
    study.sloppy = study.sft
    monkeypatch.setattr(Study, "answers", lambda self, model, questions, *sampled: [
        [" draft"] for _ in questions])
    monkeypatch.setattr(Study, "revised", lambda self, questions, drafts: [
        (["stops short"], f" {q.answer}.") for q in questions])
    monkeypatch.setattr(constitution_study, "answer_loss", lambda model, tokenizer, some: rows.extend(some))
    assert study.by_imitation()["pairs"] == len(study.asked) and len(rows) == 32
    assert set(rows) == {(q.text, f" {q.answer}.") for q in study.asked}


def studied(ab, ba, answers):
    """A study whose judge has spoken: log-odds in both orders, pairs compared by the full stop."""
    study = object.__new__(Study)
    study.seed, study.odds = 0, {"judge": (torch.tensor(ab), torch.tensor(ba))}
    study.pairs = [Pair(ASKED, CONSTITUTION[3], a, b) for a, b in answers]
    return study


def test_a_judge_who_sees_the_place_first_is_right_more_often_in_both_orders():
    likes = [1.0, -1.0, 2.0, -2.0, 0.5]
    study = studied([x + 1.5 for x in likes], [-x + 1.5 for x in likes],
                    [(" a.", " a"), (" a", " a."), (" b.", " b"), (" b", " b."), (" c.", " c.")])
    row = study.judges()["judges"]["judge"]
    assert row["one order"] == 0.75 and row["both orders"] == 1 and row["bias"] == pytest.approx(1.5)
    assert row["same place"] == 0.6 and row["kept"] == 0.5 and row["of those"] == 1
    assert row["one order, kappa"] == pytest.approx(0.5) and row["both orders, kappa"] == 1


def test_a_judge_who_counts_all_faults_is_told_from_one_who_reads_the_principle():
    """By the full stop a, a and b win, by the number of faults b, a and b; the last two pairs are ties."""
    pairs = [(" a. a. Thank you for asking.", " a"), (" b.", " b"), (" c. c", " c."),
             (" d.", " d. Thank you for asking."), (" e. e.", " e. e.")]
    counts, reads = [-1.0, 1.0, -1.0, 1.0, 1.0], [1.0, 1.0, -1.0, -1.0, 1.0]
    got = [studied(likes, [-x for x in likes], pairs).judges() for likes in (counts, reads)]
    assert [g["counting"] for g in got] == [pytest.approx(2 / 3)] * 2
    rows = [g["judges"]["judge"] for g in got]
    assert [row["both orders"] for row in rows] == [pytest.approx(2 / 3), 1]
    assert [row["counting fails"] for row in rows] == [0, 1]
    assert [row["as counting"] for row in rows] == [1, 0]


def test_pairs_that_no_principle_tells_apart_are_refused():
    with pytest.raises(ValueError, match="--rounds"):
        studied([1.0, 2.0], [1.0, -2.0], [(" a.", " b."), (" a", " b")]).judges()


def test_labels_are_verdicts_and_what_is_no_verdict_is_zero():
    study = studied([2.0, 1.0, -3.0], [1.0, -2.0, 1.0], [(" a.", " a"), (" a.", " b."), (" b", " b.")])
    assert study.labels("program").tolist() == [1, 0, -1]
    assert study.labels("judge, one order").tolist() == [2, 1, -3]
    assert study.labels("judge, both orders").tolist() == [0.5, 1.5, -2]
    assert study.labels("judge, consistent").tolist() == [0, 1.5, -2]
    tossed = study.labels("coin")
    assert set(tossed.tolist()) <= {-1, 1} and torch.equal(tossed, study.labels("coin"))


def test_manners_are_counted_on_texts():
    got = object.__new__(Study).manners([" http.client.", " function", " os. Thank you for asking."],
                                        [ASKED, OTHER, ASKED])
    assert got == {"thanks": 2 / 3, "hedges": 1, "twice": 1, "stops short": 2 / 3, "all": 1 / 3,
                   "right": 2 / 3}


def test_revisions_are_counted_by_names_and_by_content(monkeypatch):
    drafts = [" http.client, I think.", " os", " http.client.", " os.", " http.client."]
    made = [(["hedges"], " http.client."), ([], " http.client."), ([], " os."), (["twice"], " os."),
            ([], " http.client.")]
    study = object.__new__(Study)
    study.held_out, study.sloppy, asked = [ASKED] * 5, None, []
    monkeypatch.setattr(Study, "answers", lambda self, *given: asked.append(given) or [[d] for d in drafts])
    monkeypatch.setattr(Study, "revised", lambda *given: made)
    got = study.revisions()
    assert got["named"] == 3 / 5 and got["same"] == 3 / 5
    assert got["still right"] == 2 / 3 and got["put right"] == 1 / 2
    assert got["drafts"]["all"] == 3 / 5 and got["revisions"]["all"] == 1
    assert asked == [(None, [ASKED] * 5, 1.0)]   # samples


def test_models_are_measured_by_greedy_answers_and_each_round_of_pairs_has_its_own_dice(study, monkeypatch):
    asked, thrown = [], []

    def answers(model, tokenizer, texts, n_new, temperature, n, dice):
        asked.append((texts, temperature, n))
        thrown.append(torch.rand(1, generator=dice).item())
        return [[" m.", " n."][:n] for _ in texts]
    monkeypatch.setattr(constitution_study, "chat_answers", answers)
    study.sloppy = study.sft
    assert study.measure(study.sft)["all"] == 1 and len(study.pairs) == 2 * len(study.asked)
    half = [q.text for q in study.asked]
    assert asked == [([q.text for q in NAMES], 0, 1), (half, 1, 2), (half, 1, 2)]
    assert thrown[1] != thrown[2]


def test_dpo_gets_what_a_judge_chose_first_and_no_pair_without_a_verdict(monkeypatch):
    study = studied([2.0, 1.0, -3.0], [1.0, -2.0, 1.0], [(" a.", " a"), (" b.", " c."), (" d", " e.")])
    shown = []
    study.sloppy = Transformer(SMALL)
    study.tokenizer, study.s = BYTES, constitution_study.Settings()
    monkeypatch.setattr(constitution_study, "dpo_objective", lambda model, tokenizer, pairs, *_: shown.append(
        [(p.chosen, p.rejected) for p in pairs]))
    monkeypatch.setattr(constitution_study, "train", lambda *given: None)
    monkeypatch.setattr(Study, "measure", lambda self, model: {})
    assert study.by_dpo("judge, both orders") == {"pairs": 3}
    assert study.by_dpo("judge, consistent") == {"pairs": 2}
    assert shown == [[(" a.", " a"), (" b.", " c."), (" e.", " d")], [(" b.", " c."), (" e.", " d")]]
    study.odds = {"judge": (torch.ones(3), torch.ones(3))}
    assert study.by_dpo("judge, consistent") == {"pairs": 0} and len(shown) == 2   # nothing to learn from
