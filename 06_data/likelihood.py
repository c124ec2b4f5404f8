"""How likely a text is after another: what every multiple-choice score is made of.

Context and continuation are tokenised *together* and split after, because a tokenizer cuts a text otherwise
than its halves: "Answer: " and "yes" are three tokens apart, while together the blank belongs to " yes", as
in all training text. Apart, the right answer of a well-trained model looks like a misprint.

Source: `_encode_pair` of the Language Model Evaluation Harness (Gao et al. 2021),
https://github.com/EleutherAI/lm-evaluation-harness
Used by quality.py and evaluate.py.
"""
from collections.abc import Callable

import torch

from bpe import EOS, Tokenizer
from cross_entropy import cross_entropy
from transformer import Transformer


def encode_pair(encode: Callable[[str], list], context: str, continuation: str) -> tuple[list, int]:
    """(tokens of the whole, how many are context). Blanks at the end of the context are the continuation's.

    When both ends melt into one token, that token is the continuation's: something must be scored.
    """
    before, whole = encode(context.rstrip()), encode(context + continuation)
    return whole, len(before) if whole == before else min(len(before), len(whole) - 1)


class TransformerModel:
    """A transformer and its tokenizer as a `Scorer` of evaluate.py. Texts follow <|eos|>, as in training."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer):
        self.model, self.tokenizer = model.eval(), tokenizer
        self.device = next(model.parameters()).device

    @torch.no_grad()
    def log_likelihood(self, context: str, continuation: str) -> tuple[float, int]:
        """(nats, tokens) of `continuation`. What does not fit is read in windows that half overlap."""
        T, eos = self.model.config.max_len, self.tokenizer.special[EOS]
        whole, split = encode_pair(self.tokenizer.encode, context, continuation)
        ids, total, done = [eos, *whole], 0.0, 1 + split
        while done < len(ids):
            end = min(len(ids), max(done + T // 2, T))
            start = max(0, end - T)
            window = torch.tensor([ids[start:end]], device=self.device)                   # (1, T)
            logits = self.model(window[:, :-1])[0, done - start - 1:]                      # (scored, V)
            targets = window[0, done - start:]
            total -= float(cross_entropy(logits, targets)) * len(targets)
            done = end
        return total, len(whole) - split

    @torch.no_grad()
    def generate(self, prompt: str, tokens: int = 24, temperature: float = 0.0, stop: str = "\n",
                 seed: int = 0) -> str:
        """Continue a prompt until `stop`, the end-of-text token or `tokens` tokens."""
        eos = self.tokenizer.special[EOS]
        ids, new = [eos] + self.tokenizer.encode(prompt), []
        generator = torch.Generator().manual_seed(seed)
        while len(new) < tokens and stop not in self.tokenizer.decode(new):
            window = torch.tensor([(ids + new)[-self.model.config.max_len:]], device=self.device)
            logits = self.model(window)[0, -1].float().cpu()                               # (V,)
            if temperature == 0:
                token = int(logits.argmax())
            else:
                token = int(torch.multinomial((logits / temperature).double().softmax(0), 1,
                                              generator=generator))
            if token == eos:
                break
            new.append(token)
        return self.tokenizer.decode(new).split(stop)[0]
