"""From text model to assistant: two new tokens say who speaks; loss falls only on what the assistant says.

A conversation is `<|eos|><|user|>question<|bot|> answer<|eos|>`. Pretraining never saw <|user|> and <|bot|>;
their vectors start as copies of tokens that play the same part in plain text (for what this alone does, see
the scoreboard).

    python 07_alignment/run.py             uses it in every stage
"""
from pathlib import Path

import torch
from torch import Tensor

from batches import inputs_and_targets
from bpe import BOT, EOS, PAD, USER, Tokenizer
from checkpoint import load_model
from cross_entropy import IGNORE
from transformer import Transformer


def chat_prompt(tokenizer: Tokenizer, question: str) -> list[int]:
    """Ids up to the point where the assistant begins to speak."""
    t = tokenizer.special
    return [t[EOS], t[USER], *tokenizer.encode(question), t[BOT]]


def answer_ids(tokenizer: Tokenizer, answer: str) -> list[int]:
    """Ids of an answer with the <|eos|> that ends it: a model that is not taught to stop talks on."""
    return [*tokenizer.encode(answer), tokenizer.special[EOS]]


def answer_batch(prompts: list[list[int]], answers: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, both (B, T), with loss on the answers only.

    Rows are padded on the right: a causal model can't see padding from before it, so no mask is needed.
    """
    # EXERCISE 7.4 loss on the answer only
    width = max(len(p) + len(a) for p, a in zip(prompts, answers))
    rows = torch.full((len(prompts), width), pad)
    keep = torch.zeros(len(prompts), width, dtype=torch.bool)
    for i, (p, a) in enumerate(zip(prompts, answers)):
        rows[i, :len(p) + len(a)] = torch.tensor(p + a)
        keep[i, len(p):len(p) + len(a)] = True
    x, y = inputs_and_targets(rows)
    return x, y.masked_fill(~keep[:, 1:], IGNORE)
    # END EXERCISE 7.4


@torch.no_grad()
def initialize_chat_tokens(model: Transformer, tokenizer: Tokenizer) -> None:
    """<|user|> starts as a line break, <|bot|> as the mean of ":" and "=", which announce an answer."""
    table = model.model.embed_tokens.weight                       # (V, C), also the output layer
    # EXERCISE 7.2 vectors for new tokens
    newline, colon, equals = (tokenizer.encode(c)[0] for c in "\n:=")
    table[tokenizer.special[USER]] = table[newline]
    table[tokenizer.special[BOT]] = (table[colon] + table[equals]) / 2
    # END EXERCISE 7.2


def load_chat_base(out: Path | str, tokenizer: Tokenizer, device) -> Transformer:
    """The pretrained model of the run in `out`, with vectors for the two chat tokens."""
    model = load_model(Path(out, "03_training", "model.pt"), device)
    initialize_chat_tokens(model, tokenizer)
    return model


def pad_id(tokenizer: Tokenizer) -> int:
    """The id that fills rows up."""
    return tokenizer.special[PAD]
