"""Output that must match a pattern: before each choice, forbid the tokens after which no match is left.

A token is allowed if walking its bytes through the pattern's automaton does not end in DEAD; the end of the
text is allowed where what was written is a whole match. Which tokens those are depends on the automaton's
state alone, so each state is worked out once (Willard and Louf 2023). Tokens that begin alike are walked
together, along a tree of all tokens.

A mask is not a condition: the model still chooses step by step by what it thought of *unlimited* text, and
may be led into a corner that it would not have entered had it known (Park et al. 2024).

    make serve                             the field "response_format" of a request
"""
from functools import lru_cache

import torch
from torch import Tensor

from bpe import EOS, Tokenizer
from pattern_automaton import DEAD, Pattern


class TokenTree:
    """All tokens of a tokenizer as a tree of bytes. Node 0 is the root; special tokens are left out."""

    def __init__(self, tokenizer: Tokenizer):
        self.vocab_size, self.eos = tokenizer.vocab_size, tokenizer.special[EOS]
        self.bytes_of = tokenizer.bytes_of
        self.children: list[dict[int, int]] = [{}]
        self.tokens: list[list[int]] = [[]]               # that end at a node
        for token, data in enumerate(self.bytes_of):
            node = 0
            for byte in data:
                if byte not in self.children[node]:
                    self.children[node][byte] = len(self.children)
                    self.children.append({})
                    self.tokens.append([])
                node = self.children[node][byte]
            self.tokens[node].append(token)


class TokenAutomaton:
    """A pattern over the tokens of one tokenizer; state 0 is the beginning. Many requests may share it."""

    def __init__(self, pattern: str, tree: TokenTree):
        self.pattern, self.tree = Pattern(pattern), tree
        self._masks: dict[int, Tensor] = {}

    def allowed(self, state: int) -> Tensor:
        """True for the tokens (V,) that may come next, <|eos|> where the text so far is a whole match."""
        if state not in self._masks:
            # EXERCISE 8.11 which tokens may come next
            mask = torch.zeros(self.tree.vocab_size, dtype=torch.bool)
            mask[self.tree.eos] = self.pattern.accepts(state)
            left = [(0, state)]
            while left:
                node, here = left.pop()
                mask[self.tree.tokens[node]] = True
                for byte, child in self.tree.children[node].items():
                    there = self.pattern.step(here, byte)
                    if there != DEAD:
                        left.append((child, there))
            # END EXERCISE 8.11
            self._masks[state] = mask
        return self._masks[state]

    def next(self, state: int, token: int) -> int:
        """The state after a token, DEAD if it was not allowed; <|eos|> leaves it where it is."""
        if token == self.tree.eos:
            return state
        for byte in self.tree.bytes_of[token] if token < len(self.tree.bytes_of) else [None]:
            state = DEAD if byte is None or state == DEAD else self.pattern.step(state, byte)
        return state


class Constrainer:
    """Makes the automata of one tokenizer, and keeps those of the last patterns: requests repeat them."""

    def __init__(self, tokenizer: Tokenizer):
        self._tree = TokenTree(tokenizer)
        self.automaton = lru_cache(maxsize=32)(self._automaton)

    def _automaton(self, pattern: str) -> TokenAutomaton:
        return TokenAutomaton(pattern, self._tree)
