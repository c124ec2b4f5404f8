"""Five camps: gains and what a pair adds, by hand; and that nothing leaks into the exam."""
import gzip
import json
from types import SimpleNamespace

import pytest
import torch

import camp_levers
from arithmetic import careless_answer, problem, right_answer
from bpe import EOS, PAD, Tokenizer
from camp_levers import CAMPS, ROWS, World, ask, passes, shape_of, sums_right, up_to
from camps import CELLS, PAIRS, Experiment, extra, gain, grid
from cross_entropy import IGNORE
from quantize import quantize_model, stored_bytes
from tasks import Tasks
from transformer import Transformer

TOKENIZER = Tokenizer([])
DEMONSTRATIONS = [((1, 2), "9999"), ((361, 324), "5860")]


def spelled(ids: list[int]) -> str:
    """Ids as text, special tokens by one letter each."""
    letters = {i: name.strip("<|>")[0].upper() for name, i in TOKENIZER.special.items()}
    return "".join(letters.get(i) or TOKENIZER.decode([i]) for i in ids)


def results(**exam: list[float]) -> dict[str, list[dict]]:
    return {name.replace("base", ""): [{"exam": x} for x in values] for name, values in exam.items()}


def test_a_pair_adds_what_is_left_when_both_gains_are_taken_off():
    got = results(base=[0.1, 0.2], A=[0.3, 0.2], D=[0.2, 0.1], AD=[0.6, 0.2])
    assert gain(got, "A", "exam") == pytest.approx([0.2, 0.0])
    assert gain(got, "AD", "exam") == pytest.approx([0.5, 0.0])
    assert extra(got, "AD", "exam") == pytest.approx([0.2, 0.1])       # 0.5 - 0.2 - 0.1 and 0 - 0 + 0.1


def test_gains_are_on_the_diagonal_pairs_above_it_and_extras_below():
    values = {name: [float(i)] for i, name in enumerate(CELLS[1:], 1)}
    got = grid(results(base=[0.0], **values), "exam")
    names = list(CAMPS)
    for i, first in enumerate(names):
        assert got[i][i] == values[first]
        for j, second in enumerate(names[i + 1:], i + 1):
            assert got[i][j] == values[first + second]
            assert got[j][i] == [values[first + second][0] - values[first][0] - values[second][0]]


def test_there_are_sixteen_cells():
    assert len(PAIRS) == 10 and len(set(CELLS)) == 16 and CELLS[0] == ""


def test_casting_out_nines_finds_a_forgotten_carry_and_not_an_error_of_nine():
    assert passes("5860", (361, 324))
    assert passes("2100", (5, 7)) and not passes("2000", (5, 7))
    assert passes("4960", (361, 324))                                  # 694 is 685 + 9
    assert not passes("586", (361, 324)) and not passes("586x", (361, 324))


WORLD = SimpleNamespace(tokenizer=TOKENIZER, tasks=Tasks([], [], [], DEMONSTRATIONS, 1))


def test_a_sum_is_the_first_answer_that_passes_else_the_greedy_one(monkeypatch):
    greedy, more = ["5870", "9999"], [["5860", "4960"], ["1111", "2222"]]
    seen = []

    def sample(model, prompts, n_new, eos, temperature=0.0, n_samples=1, generator=None):
        seen.append((spelled(prompts[0]), n_samples))
        texts = more if temperature else [[text] for text in greedy]
        return [[TOKENIZER.encode(text) for text in answers] for answers in texts]
    monkeypatch.setattr(camp_levers, "sample", sample)
    pairs = [(361, 324), (1, 1)]
    assert sums_right(None, WORLD, pairs, 0, 1, 0) == 0.0
    assert sums_right(None, WORLD, pairs, 0, 3, 0) == 0.5        # 5870 fails, 5860 passes and is right
    assert seen == [("E163+423=", 1), ("E163+423=", 1), ("E163+423=", 2)]


def test_context_chooses_its_examples_by_sums_that_the_exam_does_not_ask(monkeypatch):
    asked, it = [], object.__new__(Experiment)
    it.world = SimpleNamespace(dev="dev", test="test", text=[])
    it.tokenizer, it.trained = None, lambda name, seed: (None, {})

    def right(model, world, pairs, shots, tries, seed):
        asked.append((pairs, shots, tries))
        return shots % 4 / 2
    for name, fake in (("sums_right", right), ("bits_per_byte", lambda *_: 0), ("pack", lambda *_: 0),
                       ("stored_bytes", lambda _: 0)):
        monkeypatch.setattr(f"camps.{name}", fake)
    assert it.measure("D", 0)["exam"] == 0.0 and it.measure("DC", 0)["exam"] == 1.0     # of 0, 2 and 4: two
    assert asked == [("test", 0, 1), ("dev", 0, 8), ("dev", 2, 8), ("dev", 4, 8), ("test", 2, 8)]


def test_post_training_takes_its_steps_from_pretraining(world, monkeypatch):
    steps = []
    monkeypatch.setattr(camp_levers, "train", lambda model, optimizers, loss, n, *_: steps.append(n))
    for name in ("", "P"):
        camp_levers.pretrain(name, world, camp_levers.Budget(sum_steps=7, steps=10, post_share=0.4), 0)
    assert steps == [17, 13]


def test_only_the_data_camp_reads_filtered_text(world, monkeypatch):
    read = []
    monkeypatch.setattr(camp_levers, "stream", lambda documents, *_: read.append(documents))
    monkeypatch.setattr(camp_levers, "TextBatches", lambda *_: None)
    for name in ("", "AP", "D"):
        world.rows(name, 1, 0)
    assert [documents is world.web["filtered"] for documents in read] == [False, False, True]


def test_examples_are_right_even_where_their_teacher_was_careless():
    assert spelled(ask(WORLD, (5, 7), 2)) == "E100+200=3000E163+423=5860E500+700="
    assert spelled(ask(WORLD, (5, 7), 0)) == "E500+700="


@pytest.mark.parametrize("camps", ["", "A"])
def test_the_wider_model_in_four_bits_is_smaller_than_the_narrow_one(camps):
    (_, narrow), (_, wide) = shape_of(camps, 1024), shape_of(camps + "E", 1024)
    assert wide.d_model > narrow.d_model
    assert stored_bytes(quantize_model(Transformer(wide))) < stored_bytes(Transformer(narrow)) / 2


def test_text_is_taken_until_there_is_enough():
    assert up_to(["aa", "bbb", "c"], 3) == ["aa", "bbb"] and up_to(["aa", "bbb"], 2) == ["aa"]
    assert up_to(["aa"], 100) == ["aa"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """A world of twelve pages that differ, whose test sums leave half of all pairs."""
    out = tmp_path_factory.mktemp("out")
    pages = [{"url": f"{i}", "domain": "modules", "text": f"page number {i} " * 20} for i in range(12)]
    for stage in ("1-extract", "2-private"):
        folder = out / "06_data" / "stages" / stage
        folder.mkdir(parents=True)
        with gzip.open(folder / "00000.jsonl.gz", "wt", encoding="utf-8") as file:
            file.write("".join(json.dumps(page) + "\n" for page in pages))
    banned = [(a, b) for a in range(1000) for b in range(0, 1000, 2)]
    return World(out, TOKENIZER, Tasks([], [], banned, DEMONSTRATIONS, 1), test_text=3)


def found(world: World, camps: str) -> list[tuple[tuple[int, int], str]]:
    """The sums of one step: the pair and what was answered, read back from the rows."""
    x, y = world.sums(camps, 300, 0, 0)
    eos, pad, sums = TOKENIZER.special[EOS], TOKENIZER.special[PAD], []
    for inputs, targets in zip(x.tolist(), y.tolist()):
        asked, _, answer = TOKENIZER.decode([i for i in inputs[1:] if i not in (eos, pad)]).partition("=")
        a, _, b = asked.partition("+")
        sums.append(((int(a[::-1]), int(b[::-1])), answer))
        assert TOKENIZER.decode([i for i in targets if i not in (IGNORE, eos)]) == answer   # loss on it alone
        assert inputs[0] == eos and [i for i in targets if i != IGNORE][-1] == eos
        assert asked == problem(sums[-1][0])
    return sums


def test_no_sum_and_no_text_of_the_exam_is_trained_on(world):
    for camps in ("", "D"):
        assert not {pair for pair, _ in found(world, camps)} & world.banned
    assert not {*world.dev} & {*world.test} and {*world.dev, *world.test} <= world.banned
    for documents in world.web.values():
        texts = [TOKENIZER.decode([int(i) for i in d[:-1]]) for d in documents]      # without <|eos|>
        assert len(texts) == 9 and len(world.text) == 3
        assert not any(text in other or other in text for text in world.text for other in texts)


def test_two_in_three_of_the_sums_found_are_careless_and_the_filter_leaves_no_forgotten_carry(world):
    as_found, kept = found(world, ""), found(world, "D")
    careless = [a == careless_answer(p) for p, a in as_found if careless_answer(p) != right_answer(p)]
    assert 0.5 < sum(careless) / len(careless) < 0.8
    assert all(a == right_answer(pair) for pair, a in kept)


def test_the_data_camp_reads_more_sums_and_less_text_in_as_many_tokens():
    (sums, text), (more, less) = ROWS["base"], ROWS["D"]
    assert more > sums and less < text
    assert (more * 13 + less * 64) == pytest.approx(sums * 13 + text * 64, rel=0.05)     # a sum has 13 tokens


def test_only_right_answers_that_end_are_rewarded(world, monkeypatch):
    eos, seen = TOKENIZER.special[EOS], {}

    def sample(model, prompts, n_new, end, temperature, n, generator):
        pairs = [tuple(int(x[::-1]) for x in TOKENIZER.decode(p[1:-1]).split("+")) for p in prompts]
        right = [TOKENIZER.encode(right_answer(pair)) for pair in pairs]
        return [[[*a, eos], a, [*a[:3], eos], [*TOKENIZER.encode("9999"), eos]] + [[eos]] * 4 for a in right]

    def loss(model, tokenizer, asked, answers, rewards):
        seen.update(asked=asked, rewards=rewards)
        return torch.zeros(())
    monkeypatch.setattr(camp_levers, "sample", sample)
    monkeypatch.setattr(camp_levers, "group_loss", loss)
    assert camp_levers.rollout_loss(None, world, 0, 0)[1] == {"reward": 1 / 8}
    assert seen["rewards"].tolist() == [[1.0] + [0.0] * 7] * 16
    assert len(seen["asked"]) == 128 and seen["asked"][0] == seen["asked"][7] != seen["asked"][8]


def test_post_training_is_imitation_and_then_rewards(world, monkeypatch):
    steps, model = [], Transformer(shape_of("", TOKENIZER.vocab_size)[1])

    def train(model, optimizers, loss_of, n, scale_of, label):
        if "sft" in label:
            assert loss_of(0).item() > 1          # untrained: about the log of the vocabulary, twice
        steps.append((label.split()[-1], n))
        return [{"reward": 0.25}]
    monkeypatch.setattr(camp_levers, "train", train)
    got = camp_levers.post_train(model, "P", world, camp_levers.Budget(sft_steps=3, grpo_steps=2), 0)
    assert got == 0.25 and steps == [("sft", 3), ("grpo", 2)]
