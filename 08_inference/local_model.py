"""A model in this process that answers messages, through the engine: what a harness asks without a server.

    python 08_inference/harness_study.py   asks it
"""
from bpe import EOS, Tokenizer
from constrained import Constrainer
from engine import Engine
from harness import Said
from openai_api import chat_ids
from sampling import Sampling
from scheduler import Request
from transformer import Transformer
from turn_memory import Message


class LocalModel:
    """Messages to text; `n_new` is the longest answer in tokens."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, n_new: int = 48):
        self.engine, self.tokenizer, self.n_new = Engine(model, 64), tokenizer, n_new
        self.constrainer = Constrainer(tokenizer)
        self.room = model.config.max_len - n_new

    def size(self, text: str) -> int:
        """Tokens of a message: its text, and at most three that say who speaks."""
        return len(self.tokenizer.encode(text)) + 3

    def say(self, messages: list[Message], pattern: str | None = None, temperature: float = 0.0,
            seed: int = 0) -> Said:
        """The answer to the last message."""
        ids = chat_ids(messages, self.tokenizer)
        automaton = None if pattern is None else self.constrainer.automaton(pattern)
        request = Request(ids, self.n_new, Sampling(temperature), seed, self.tokenizer.special[EOS],
                          automaton)
        self.engine.run([request])
        return Said(self.tokenizer.decode(request.tokens), len(ids), len(request.tokens))
