"""What each of five camps may change about one small model, each with the best of its own chapter alone.

Raffel asked whether a better model comes from its architecture, its data, its post-training, its engineering
or its context. Here each camp has one lever, and a cell of camps.py pulls none, one or two of them. The
skill is chapter 1's three-digit sums, found on a web where two in three were worked out by somebody who
forgets every carry:

- A, architecture and schedule: nanoGPT's blocks become ours (03_training/recipe.py). The base has Muon:
  with AdamW no sum is learned in this budget, and a lever that all others need would hide them;
- D, data: sums that casting out nines finds wrong are filtered out, the text beside them is the crawl after
  all filters, and the mixture has a sixth more sums (chapter 6);
- P, post-training: the last part of the steps goes to SFT on a careless teacher's demonstrations, and to GRPO
  with the right sum as the reward (chapter 7);
- E, engineering: fused operations make steps cheaper, what is saved pays for a wider model (not all of it:
  camps.py prints the seconds), and four bits make it smaller than the narrow one (chapters 3 and 8);
- C, context: the best of three prompts (alone, behind two or four right examples), and an answer that casting
  out nines finds wrong is tried again (chapter 8).

So D, P and C each use, in their own place, the knowledge of what a right sum is.

    python 08_inference/camps.py           pulls them
"""
import random
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adamw import AdamW
from arithmetic import Pair, careless_answer, easy_pair, problem, right_answer
from batches import TextBatches
from bpe import EOS, Tokenizer
from chat_template import answer_batch, answer_ids, pad_id
from cross_entropy import cross_entropy
from fast_path import fast_optimizers, loss_on, use_fast_path
from grpo import fresh_sums, group_loss
from ladder import encode_all, stage_documents, stream
from muon import muon_and_adamw
from recall import share
from recipe import OURS, TEXTBOOK, Recipe, optimizers_of
from rollout import sample
from schedule import constant_then_decay, cosine, warmup
from skills import SUM_TOKENS
from tasks import Tasks
from train import train
from transformer import Config, Transformer
from verifier import sum_is_right

CAMPS = {"A": "architecture", "D": "data", "P": "post-training", "E": "engineering", "C": "context"}
BASE = Recipe("the base", TEXTBOOK, "muon", 0.02, "cosine")
# On rows of 128 tokens a fused step of these takes as long as a plain step of the base; on the short rows of
# this study longer (camps.py prints the seconds).
WIDTH, WIDER = 64, {"base": 96, "A": 80}
CARELESS = 0.65          # the share of sums on this web whose carries are all forgotten
ROWS = {"base": (28, 2), "D": (33, 1)}    # rows of sums, and of 64 tokens of text, in a step


@dataclass(frozen=True)
class Budget:
    """What every cell may spend, in steps."""
    sum_steps: int = 150     # steps of sums alone
    steps: int = 60          # after them, steps of sums and text
    post_share: float = 0.4  # P: the share of the latter that goes to post-training
    sft_steps: int = 6       # P: of SFT
    grpo_steps: int = 20     # P: of GRPO


class World:
    """Text before and after all filters, and held-out items: to choose by (dev), to measure by (test)."""

    def __init__(self, out: Path, tokenizer: Tokenizer, tasks: Tasks, web_chars: int = 200_000,
                 test_text: int = 12):
        self.tokenizer, self.tasks, rng = tokenizer, tasks, random.Random("camps")
        self.dev, self.test = tasks.test_sums[:60], tasks.test_sums[60:260]
        self.banned = {*tasks.test_sums}
        folder = out / "06_data" / "stages"
        clean, raw = (list(stage_documents(folder, stage)) for stage in ("private", "extract"))
        kept = rng.sample(sorted(d["url"] for d in clean if d["domain"] in ("modules", "topics")), test_text)
        self.text = [d["text"][:2000] for d in clean if d["url"] in kept]
        self.web = {}
        for name, documents in (("extracted", raw), ("filtered", clean)):
            texts = [d["text"] for d in documents if d["url"] not in kept]
            rng.shuffle(texts)
            self.web[name] = encode_all(tokenizer, up_to(texts, web_chars))

    def rows(self, camps: str, n_text: int, seed: int) -> TextBatches:
        """Batches of rows of 64 tokens of text."""
        documents = self.web["filtered" if "D" in camps else "extracted"]
        return TextBatches(stream(documents, 50_000, self.tokenizer.special[EOS], seed), n_text, 64, seed)

    def sums(self, camps: str, n: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of sums as found, or of those that pass the check; loss on the answers only."""
        rng, t, found = random.Random(f"web {seed} {step}"), self.tokenizer, []
        while len(found) < n:
            pair = easy_pair(rng, self.banned)
            said = (careless_answer if rng.random() < CARELESS else right_answer)(pair)
            if "D" not in camps or passes(said, pair):
                found.append((pair, said))
        return answer_batch([plain(t, pair) for pair, _ in found], [answer_ids(t, a) for _, a in found],
                            pad_id(t))


def up_to(texts: list[str], chars: int) -> list[str]:
    """The first texts that have together at least `chars` characters, or all."""
    size = 0
    for i, text in enumerate(texts):
        size += len(text)
        if size >= chars:
            return texts[:i + 1]
    return texts


def plain(tokenizer: Tokenizer, pair: Pair) -> list[int]:
    """Ids of a sum as the web writes it, up to its answer."""
    return [tokenizer.special[EOS], *tokenizer.encode(problem(pair) + "=")]


def passes(text: str, pair: Pair) -> bool:
    """Four digits that leave the same rest as the sum when divided by nine: nobody has to add."""
    return bool(re.fullmatch("[0-9]{4}", text)) and (int(text[::-1]) - sum(pair)) % 9 == 0


def shape_of(camps: str, vocab_size: int) -> tuple[Recipe, Config]:
    """The recipe and the model of a cell: three layers, four heads."""
    recipe = OURS if "A" in camps else BASE
    d = WIDER["A" if "A" in camps else "base"] if "E" in camps else WIDTH
    d_ff = 16 * round(d * 11 / 64) if "A" in camps else 4 * d    # groups of 16 weights, for four bits
    changes = {k: v for k, v in recipe.model.items() if k != "d_ff"}
    return recipe, Config(**{**dict(vocab_size=vocab_size, d_model=d, n_layers=3, n_heads=4, n_kv_heads=4,
                                    d_ff=d_ff, max_len=128), **changes})


def pretrain(camps: str, world: World, budget: Budget, seed: int) -> Transformer:
    """A model from nothing: sums alone, then sums and text, as in chapter 3."""
    steps = budget.steps - round(budget.steps * budget.post_share) * ("P" in camps)
    recipe, config = shape_of(camps, world.tokenizer.vocab_size)
    n_sums, n_text = ROWS["D" if "D" in camps else "base"]
    torch.manual_seed(seed)
    model, fast = Transformer(config), "E" in camps
    if fast:
        use_fast_path(model, "fp32", compiled=False)
    text = world.rows(camps, n_text, seed)

    def loss_of(step: int) -> Tensor:
        loss = loss_on(model, *world.sums(camps, n_sums, seed, step), fast)
        alone = step < budget.sum_steps
        return loss if alone else loss + 0.5 * loss_on(model, *text(step - budget.sum_steps), fast)

    def scale_of(step: int) -> float:
        if step < budget.sum_steps:
            return warmup(step, 10)
        shape = cosine if recipe.schedule == "cosine" else constant_then_decay
        return shape(step - budget.sum_steps, steps, 2)

    optimizers = fast_optimizers(model, recipe.lr, recipe.lr / 5) if fast else optimizers_of(recipe, model)
    train(model, optimizers, loss_of, budget.sum_steps + steps, scale_of, f"{camps or 'base'} {seed}")
    return model


def rollout_loss(model: Transformer, world: World, seed: int, step: int) -> tuple[Tensor, dict]:
    """GRPO on eight answers to each of sixteen fresh sums, asked as the web writes them; the mean reward."""
    t, pairs = world.tokenizer, fresh_sums(world.banned, 16)(random.Random(f"camps grpo {seed} {step}"))
    prompts, eos = [plain(t, pair) for pair in pairs], t.special[EOS]
    tried = sample(model, prompts, SUM_TOKENS, eos, 1.0, 8, torch.Generator().manual_seed(seed + 1000 * step))
    rewards = torch.tensor([[float(a[-1] == eos and sum_is_right(t.decode(a[:-1]), pair)) for a in answers]
                            for answers, pair in zip(tried, pairs)])                           # (16, 8)
    asked = [p for p in prompts for _ in range(8)]
    return group_loss(model, t, asked, [a for answers in tried for a in answers], rewards), {
        "reward": rewards.mean().item()}


def post_train(model: Transformer, camps: str, world: World, budget: Budget, seed: int) -> float:
    """SFT on demonstrations, then GRPO, in place, both beside a little text; the mean reward at the end.

    In the plain form: to learn chapter 7's chat form takes more steps than there are.
    """
    text, t = world.rows(camps, 2, seed), world.tokenizer

    def replay(step: int) -> Tensor:
        x, y = text(step)
        return cross_entropy(model(x), y)

    def imitate(step: int) -> Tensor:
        shown = random.Random(f"camps sft {seed} {step}").choices(world.tasks.demonstrations, k=32)
        x, y = answer_batch([plain(t, p) for p, _ in shown], [answer_ids(t, a) for _, a in shown], pad_id(t))
        return cross_entropy(model(x), y) + replay(step)

    def reinforce(step: int) -> tuple[Tensor, dict]:
        loss, numbers = rollout_loss(model, world, seed, step)
        return loss + replay(step), numbers

    n = budget.sft_steps
    train(model, muon_and_adamw(model, 2e-3, 1.5e-3), imitate, n,
          lambda i: constant_then_decay(i, n, n_warmup=2, decay=0.7), f"{camps} {seed} sft")
    log = train(model, [AdamW(model.parameters(), 1.5e-3, betas=(0.9, 0.98))], reinforce, budget.grpo_steps,
                lambda i: warmup(i, 3), f"{camps} {seed} grpo")
    return log[-1]["reward"] if log else 0.0


def ask(world: World, pair: Pair, shots: int) -> list[int]:
    """Ids of a sum behind `shots` right examples."""
    t = world.tokenizer
    shown = [plain(t, p) + t.encode(right_answer(p)) for p, _ in world.tasks.demonstrations[:shots]]
    return [i for ids in (*shown, plain(t, pair)) for i in ids]


def sums_right(model: Transformer, world: World, pairs: list[Pair], shots: int, tries: int,
               seed: int) -> float:
    """The share of sums whose first answer that passes the check is right; the greedy one if none does."""
    tokenizer, eos = world.tokenizer, world.tokenizer.special[EOS]
    prompts = [ask(world, pair, shots) for pair in pairs]
    texts = [[tokenizer.decode(ids) for ids in a] for a in sample(model, prompts, 4, eos)]
    if tries > 1:
        generator = torch.Generator().manual_seed(seed)
        for said, more in zip(texts, sample(model, prompts, 4, eos, 0.7, tries - 1, generator)):
            said += [tokenizer.decode(ids) for ids in more]
    chosen = [next((t for t in said if passes(t, p)), said[0]) for said, p in zip(texts, pairs)]
    return share([t == right_answer(p) for t, p in zip(chosen, pairs)])
