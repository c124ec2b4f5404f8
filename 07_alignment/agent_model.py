"""A language model as an agent: transcripts as tokens, many episodes side by side, and the two losses.

Adds to agent_loop.py the model's side. Each turn is `<|user|>what was shown<|bot|>what was done<|eos|>`, and
loss falls on what was done. Before <|bot|> a turn is filled up to a multiple of 8 tokens, so that the model
acts at few different lengths and episodes can be sampled together; it sees the same filling in training.

    python 07_alignment/code_agent.py      trains with it
"""
from collections.abc import Sequence

import torch
from torch import Tensor

from agent_loop import Agent, Place, turns_of
from bpe import BOT, EOS, PAD, USER, Tokenizer
from chat_template import pad_id
from cross_entropy import IGNORE, cross_entropy
from grpo import clipped_policy_loss, group_advantages
from rollout import sample
from transformer import Transformer

GRID = 8              # tokens; an action begins at a multiple of it
ACTION_TOKENS = 28    # of one action, at most


def transcript_ids(tokenizer: Tokenizer, transcript: str,
                   unlearned: frozenset[str] = frozenset()) -> tuple[list[int], list[bool]]:
    """The tokens of a transcript, and which are actions to be learned (those in `unlearned` are not).

    If it is the agent's turn, the last token is the <|bot|> after which it speaks.
    """
    t, ids, learned = tokenizer.special, [tokenizer.special[EOS]], [False]
    turns = turns_of(transcript)
    for i, (shown, done) in enumerate(turns):
        before = [t[USER], *tokenizer.encode(shown)]
        before += [t[PAD]] * (-(len(ids) + len(before) + 1) % GRID) + [t[BOT]]
        ids, learned = ids + before, learned + [False] * len(before)
        if done or i < len(turns) - 1:
            action = [*tokenizer.encode(done), t[EOS]]
            ids, learned = ids + action, learned + [done not in unlearned] * len(action)
    return ids, learned


def act_all(model: Transformer, tokenizer: Tokenizer, places: Sequence[Place], temperature: float = 0.0,
            seed: int = 0) -> None:
    """Play many episodes to their ends, all that are not done taking their turns together.

    Where a transcript has outgrown the model, it submits.
    """
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    eos, room = tokenizer.special[EOS], model.config.max_len - ACTION_TOKENS
    while live := [place for place in places if not place.done]:
        prompts = [transcript_ids(tokenizer, place.transcript)[0] for place in live]
        fits = [i for i, p in enumerate(prompts) if len(p) <= room]
        asked = [prompts[i] for i in fits]
        said = dict(zip(fits, sample(model, asked, ACTION_TOKENS, eos, temperature, 1, generator)))
        for i, place in enumerate(live):
            place.act(tokenizer.decode([t for t in said[i][0] if t != eos]) if i in said else "submit")


def model_agent(model: Transformer, tokenizer: Tokenizer) -> Agent:
    """One model as an agent, greedy: text in, text out."""
    def agent(transcript: str) -> str:
        ids, eos = transcript_ids(tokenizer, transcript)[0], tokenizer.special[EOS]
        if len(ids) > model.config.max_len - ACTION_TOKENS:
            return "submit"
        [[answer]] = sample(model, [ids], ACTION_TOKENS, eos)
        return tokenizer.decode([t for t in answer if t != eos])
    return agent


def action_batch(rows: list[tuple[list[int], list[bool]]], pad: int, max_len: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, (B, T) each, with IGNORE wherever no action is to be learned."""
    width = min(max(len(ids) for ids, _ in rows), max_len + 1)
    x, y = torch.full((len(rows), width), pad), torch.full((len(rows), width), IGNORE)
    for i, (ids, learned) in enumerate(rows):
        cut = torch.tensor(ids[:width])
        x[i, :len(cut)] = cut
        y[i, :len(cut)] = cut.masked_fill(~torch.tensor(learned[:width]), IGNORE)
    return x[:, :-1], y[:, 1:]


def imitation_loss(model: Transformer, tokenizer: Tokenizer,
                   shown: list[tuple[str, frozenset[str]]]) -> Tensor:
    """Mean loss a token on the actions of (transcript, actions not to be learned) pairs."""
    rows = [transcript_ids(tokenizer, text, unlearned) for text, unlearned in shown]
    x, y = action_batch(rows, pad_id(tokenizer), model.config.max_len)
    device = next(model.parameters()).device
    return cross_entropy(model(x.to(device)), y.to(device))


def trial_loss(model: Transformer, tokenizer: Tokenizer, transcripts: list[str], rewards: Tensor) -> Tensor:
    """GRPO on whole episodes: every action of one has its advantage. rewards (K, G), transcripts K * G."""
    advantages = group_advantages(rewards).flatten()
    used = advantages.nonzero()[:, 0].tolist()
    if not used:
        return 0 * next(iter(model.parameters())).sum()
    rows = [transcript_ids(tokenizer, transcripts[i]) for i in used]
    x, y = action_batch(rows, pad_id(tokenizer), model.config.max_len)
    device = next(model.parameters()).device
    x, y = x.to(device), y.to(device)
    scored = model(x).log_softmax(-1)                                                        # (N, T, V)
    log_p = scored.gather(-1, y.clamp(min=0).unsqueeze(-1)).squeeze(-1)                      # (N, T)
    mask = (y != IGNORE).to(log_p)
    loss = clipped_policy_loss(log_p * mask, log_p.detach() * mask, advantages[used].to(log_p), mask)
    return loss * (len(used) / len(transcripts))
