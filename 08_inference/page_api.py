"""What the page at / asks: models, next tokens, layers, heads, trees, tokens, answers side by side.

The page is hand-written in page/ (HTML, style and scripts) and served as one file that asks nobody but this
server. Each function here takes the body of a POST and returns what JSON can hold; the server calls one at a
time in a thread of its own, beside the engine.

    make serve                             http://127.0.0.1:8000/
"""
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from bpe import EOS, Tokenizer
from checkpoint import load_model
from engine import Engine
from http_protocol import HttpError
from logit_lens import alternatives, lens, look_inside, surprise
from model_words import STAGES, as_read, as_trained, ends_at, prompt_of, sum_of
from openai_api import encode, get, is_integer, parse_sampling
from paged_cache import BLOCK
from scheduler import Request
from streaming import StreamDecoder
from transformer import Transformer
from workbench import wide

FOLDER = Path(__file__).parent / "page"
MOST_LOGITS, MOST_SEEN, MOST_NEW, MOST_NODES = 4096, 128, 96, 128
Function = Callable[[dict], dict]


def page_html() -> bytes:
    """The page with its style and scripts inside: one file."""
    html = (FOLDER / "page.html").read_text(encoding="utf-8")
    scripts = "\n".join(p.read_text(encoding="utf-8") for p in sorted(FOLDER.glob("*.js")))
    html = html.replace("/* STYLE */", (FOLDER / "page.css").read_text(encoding="utf-8"))
    return html.replace("/* SCRIPTS */", scripts).encode()


def stage_models(out: Path) -> dict[str, Path]:
    """The files of the stages that `make` has written."""
    paths = {s: out / ("03_training/model.pt" if s == "base" else f"07_alignment/{s}.pt") for s in STAGES}
    return {stage: path for stage, path in paths.items() if path.exists()}


def label(data: bytes) -> str:
    """A token's bytes as one can see them: blanks and line ends as signs, broken characters as \\xE2."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "".join(chr(b) if 32 < b < 127 else f"\\x{b:02X}" for b in data)
    signs = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}
    return "".join(signs.get(c, c if c.isprintable() else f"\\u{ord(c):04X}") for c in text)


class Page:
    """The functions behind the page. `models` holds models, or files that are loaded when first asked for."""

    def __init__(self, models: dict[str, Transformer | Path], tokenizer: Tokenizer, chosen: str,
                 examples: Iterable[str] = ()):
        self.models, self.tokenizer, self.chosen = dict(models), tokenizer, chosen
        self.examples = list(examples)
        self.engines: dict[str, Engine] = {}       # one text at a time each, beside the server's own

    def posts(self) -> dict[str, Function]:
        """Paths and what answers them."""
        return {"/page/models": self.about, "/page/next": self.next, "/page/layers": self.layers,
                "/page/tree": self.tree, "/page/tokens": self.tokens, "/page/chat": self.chat}

    def model(self, body: dict) -> Transformer:
        """The model that a body names, loaded if need be."""
        name = get(body, "model", self.chosen, lambda v: isinstance(v, str) and v in self.models,
                   f"one of {', '.join(self.models)}")
        model = self.models[name]
        if isinstance(model, Path):
            model = self.models[name] = load_model(model).requires_grad_(False)
        return model

    def ids(self, body: dict, most: int) -> list[int]:
        """Token ids, given as such or as a text, in which special tokens may be written by name."""
        known = is_integer(0, self.tokenizer.vocab_size - 1)
        ids = get(body, "ids", None, lambda v: isinstance(v, list) and all(map(known, v)),
                  f"a list of ids below {self.tokenizer.vocab_size}")
        if ids is None:
            text = get(body, "text", "", lambda v: isinstance(v, str), "a text")
            encode(self.tokenizer, text, "text")
            ids = self.tokenizer.encode(text, "all")
            if ids[:1] != [self.tokenizer.special[EOS]]:     # every text followed it in training
                ids = [self.tokenizer.special[EOS], *ids]
        if not 1 <= len(ids) <= most:
            raise HttpError(400, f"{len(ids)} tokens: between 1 and {most} can be shown here", "text")
        return ids

    def about(self, body: dict) -> dict:
        """The models with their sizes, the vocabulary as labels, questions to try."""
        config = self.model({}).config
        return {"models": list(self.models), "chosen": self.chosen, "examples": self.examples,
                "layers": config.n_layers, "heads": config.n_heads, "max_len": config.max_len,
                "parameters": sum(p.numel() for p in self.model({}).parameters()),
                "special": list(self.tokenizer.special.values()),
                "labels": [label(self.tokenizer.decode_bytes([i])) for i in range(self.tokenizer.vocab_size)]}

    @torch.no_grad()
    def next(self, body: dict) -> dict:
        """The distribution behind token `at` (the last if it is absent), and the surprise of every token.

        `logits` are the largest, in falling order, `order` whose they are: the page shapes them itself.
        """
        model = self.model(body)
        ids = self.ids(body, model.config.max_len)
        at = get(body, "at", len(ids) - 1, is_integer(0, len(ids) - 1), "the place of a token")
        logits = wide(model(torch.tensor([ids]))[0])                                           # (T, V)
        values, order = logits[at].topk(min(MOST_LOGITS, logits.shape[-1]))
        best = logits.argmax(-1).tolist()
        return {"ids": ids, "at": at, "text": self.tokenizer.decode(ids[1:]), "order": order.tolist(),
                "logits": [round(v, 4) for v in values.tolist()], "best": [None, *best[:-1]],
                "bits": [b if b is None else round(b, 3) for b in surprise(logits, ids)]}

    def layers(self, body: dict) -> dict:
        """The likeliest next tokens after each layer, and the attention of one head, for each token."""
        model = self.model(body)
        c, ids = model.config, self.ids(body, min(MOST_SEEN, model.config.max_len))
        layer = get(body, "layer", 0, is_integer(0, c.n_layers - 1), f"a layer below {c.n_layers}")
        head = get(body, "head", 0, is_integer(0, c.n_heads - 1), f"a head below {c.n_heads}")
        inside = look_inside(model, ids)
        p, best = lens(model, inside, 3)
        return {"ids": ids, "best": best.tolist(),
                "p": [[[round(x, 4) for x in top] for top in row] for row in p.tolist()],
                "attention": [[round(x, 4) for x in row[:t + 1]]
                              for t, row in enumerate(inside.weights[layer][head].tolist())]}

    def tree(self, body: dict) -> dict:
        """The tree of alternatives behind a text."""
        model = self.model(body)
        width = get(body, "width", 3, is_integer(1, 5), "1 to 5")
        depth = get(body, "depth", 3, is_integer(1, 5), "1 to 5")
        if width**depth > MOST_NODES:
            raise HttpError(400, f"a tree of at most {MOST_NODES} leaves can be shown", "depth")
        ids = self.ids(body, model.config.max_len - depth)
        return {"ids": ids, "next": alternatives(model, ids, width, depth)}

    def tokens(self, body: dict) -> dict:
        """Ids of any text, and its bytes."""
        text = get(body, "text", "", lambda v: isinstance(v, str) and len(v) <= 20000,
                   "a text of at most 20000 characters")
        ids = encode(self.tokenizer, text, "text")
        return {"ids": ids, "bytes": len(text.encode()), "characters": len(text)}

    def chat(self, body: dict) -> dict:
        """One model's answer to one question, as people read it and in its own words."""
        name, model = body.get("model") or self.chosen, self.model(body)
        text = get(body, "text", "", lambda v: isinstance(v, str) and v.strip() != "", "a text")
        encode(self.tokenizer, text, "text")
        how, stage = parse_sampling(body), name if name in STAGES else "grpo"
        seed = get(body, "seed", 0, is_integer(0, 2**63 - 1), "a whole number")
        prompt = prompt_of(self.tokenizer, stage, text)
        room = min(MOST_NEW, model.config.max_len - len(prompt))
        if room < 1:
            raise HttpError(400, f"{len(prompt)} tokens are too long for this model", "text")
        decoder, words, begin = StreamDecoder(self.tokenizer), "", time.perf_counter()

        def watch(_, token: int) -> bool:
            nonlocal words
            words += decoder.feed(token)
            return ends_at(stage, text, words) is not None

        if name not in self.engines:
            self.engines[name] = Engine(model, -(-model.config.max_len // BLOCK), 1)
        answer = Request(prompt, room, how, seed, self.tokenizer.special[EOS], watch=watch)
        try:
            self.engines[name].run([answer])
        finally:
            self.engines[name].cancel(answer)      # if it went wrong on the way, nothing of it is left
        done = ends_at(stage, text, words)
        words = words + decoder.finish() if done is None else done
        asked = self.tokenizer.decode(prompt[1:])
        return {"read": as_read(text, words).strip(), "words": words, "asked": asked,
                "tokens": len(answer.tokens), "is_sum": sum_of(text) is not None, "sent": as_trained(text),
                "seconds": round(time.perf_counter() - begin, 3)}
