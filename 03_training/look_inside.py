"""Look into the trained model: where its heads look, whether one of them copies, and where a fact appears.

Three instruments, each a few lines, because a model's inside is only tensors:
    attention patterns   what each head of each layer weighs, on one sentence (attention_probe.py)
    induction head       which head copies, in the model as it is and after a short training on text that
                         repeats, proved by silencing heads one by one (induction.py)
    logit lens           the output layer applied to the stream after every layer (nostalgebraist 2020)

    python 03_training/look_inside.py            after `make 03`; a minute
"""
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import RunSettings, announce, content_hash, parse_settings, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import matplotlib.pyplot as plt
import torch
from torch import Tensor

import attention
import attention_probe
import induction
import transformer
from attention import softmax
from attention_probe import patterns
from bpe import EOS, Tokenizer
from cells import Cells
from checkpoint import load_model
from facts import Question
from figures import save
from induction import examine, pieces_of, random_pieces, teach_copying, twice
from recall import fact_recall
from tasks import load_tasks
from token_file import open_tokens
from transformer import Transformer


@dataclass
class Settings(RunSettings):
    """What to look at."""
    pieces: int = setting(32, least=1)           # pieces of text that come twice
    length: int = setting(32, least=4)           # tokens of a piece
    steps: int = setting(150, least=1)           # of training on random tokens that come twice


QUICK = dict(pieces=4, length=8, steps=3)


@torch.no_grad()
def logit_lens(model: Transformer, ids: Tensor) -> Tensor:
    """The distribution of the next token as read after the embedding and after each layer, (L + 1, V)."""
    seen: list = []
    layers = model.model.layers
    hooks = [layer.register_forward_hook(lambda _, args, out: seen.append(out)) for layer in layers]
    hooks.append(layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0])))
    model(ids)
    for hook in hooks:
        hook.remove()
    return torch.stack([softmax(model.unembed(model.model.norm(x)))[0, -1] for x in seen])


def known_fact(model: Transformer, tokenizer: Tokenizer, questions: list[Question]) -> Question:
    """The first question about a module that the model completes rightly, or else the first one."""
    modules = [q for q in questions if q.kind == "module"]
    return next((q for q in modules if fact_recall(model, tokenizer, [q]) == 1), modules[0])


def find_copying(s: Settings, tokenizer: Tokenizer) -> dict[str, dict]:
    """What `examine` says of random tokens and of text, both said twice, as trained and taught to copy."""
    model, eos = load_model(Path(s.out, "03_training", "model.pt")), tokenizer.special[EOS]
    tokens = open_tokens(Path(s.out, "01_tokenizer", "valid.bin"))
    length = min(s.length, (model.config.max_len - 1) // 2)
    rows = {"random": twice(random_pieces(model.config.vocab_size, s.pieces, length, -1), eos),
            "text": twice(pieces_of(tokens, s.pieces, length), eos)}
    found = {f"{name}, as trained": examine(model, ids) for name, ids in rows.items()}
    teach_copying(model, eos, s.steps, length, s.seed)
    return found | {f"{name}, taught": examine(model, ids) for name, ids in rows.items()}


def print_heads(title: str, found: dict, n: int = 4) -> None:
    """The losses of both copies and the heads with the highest scores."""
    first, second = found["first"], found["second"]
    print(f"  {title}: {first:.2f} nats a token the first time, {second:.2f} the second")
    scores, rise = torch.tensor(found["scores"]), torch.tensor(found["rise"])
    for i in scores.flatten().argsort(descending=True)[:n].tolist():
        layer, head = divmod(i, scores.shape[1])
        print(f"    head {layer}.{head}   score {scores[layer, head]:>6.1%}   "
              f"without it the second copy costs {rise[layer, head]:+.2f} nats")


def draw_patterns(weights: Tensor, words: list[str], path: Path) -> None:
    """One small picture a head: query down, key across, dark is much weight. weights (L, H, T, T)."""
    L, H, T, _ = weights.shape
    figure, grid = plt.subplots(L, H, figsize=(1.9 * H, 1.9 * L), squeeze=False)
    for layer in range(L):
        for head in range(H):
            axes = grid[layer][head]
            axes.imshow(weights[layer, head], cmap="Greys", vmin=0, vmax=1)
            axes.set_title(f"layer {layer}, head {head}", fontsize=8)
            last, first = layer == L - 1, head == 0
            axes.set_xticks(range(T) if last else [], words if last else [], rotation=90, fontsize=7)
            axes.set_yticks(range(T) if first else [], words if first else [], fontsize=7)
    save(grid[0][0], path)


def main() -> None:
    """Draw what the heads look at, find the copying head and silence it, read a fact layer by layer."""
    s = parse_settings(Settings, __doc__, QUICK)
    announce("look inside", s, cpu_only=True)
    text, folder = Path(s.out, "01_tokenizer"), Path(s.out, "study")
    file = Path(s.out, "03_training", "model.pt")
    model, tokenizer = load_model(file), Tokenizer.load(text / "tokenizer.json")

    fact = known_fact(model, tokenizer, load_tasks(text / "tasks.json").held_out_questions)
    prompt, answer = tokenizer.encode(fact.completion), tokenizer.encode(f" {fact.answer}.")[0]
    ids = torch.tensor([[tokenizer.special[EOS]] + prompt])
    lens = logit_lens(model, ids)
    token = tokenizer.decode([answer])
    print(f"  {fact.completion!r}: {token!r}, the first token of {fact.answer!r}, after each layer")
    for layer, p in enumerate(lens):
        rank, best = (p > p[answer]).sum().item() + 1, int(p.argmax())
        likeliest = f"{tokenizer.decode([best])!r} {p[best]:.0%}"
        print(f"    {layer} {p[answer]:>7.1%}  place {rank:>4}   likeliest {likeliest}")
    words = ["eos"] + [tokenizer.decode([i]) for i in prompt]
    draw_patterns(patterns(model, ids)[:, 0], words, folder / "attention")

    cells = Cells(folder / "look_inside", [attention, attention_probe, induction, transformer])
    cell = {"model": content_hash(file), "text": content_hash(text / "valid.bin"), "pieces": s.pieces,
            "length": s.length, "steps": s.steps, "seed": s.seed}
    heads = cells.get(cell, lambda: find_copying(s, tokenizer))
    for title, found in heads.items():
        print_heads(title, found)
    write_json(folder / "look_inside.json", {"heads": heads, "lens": lens[:, answer].tolist()})


if __name__ == "__main__":
    run_main(main)
