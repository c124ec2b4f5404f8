"""The trained model at four times its length: rows of 512 tokens for a model that learned from rows of 128.

Adds to long_context.py the model of `make 03` itself: the same weights, read with plain RoPE, with RoPE
stretched in three ways, and through windows; as they are, and after a few steps on long rows. It has never
been asked for a pass key before those steps.

    python 03_training/stretch_trained.py           after `make 03`; two minutes, kept cell by cell
"""
from dataclasses import dataclass, replace
from pathlib import Path

try:
    from workbench import (
        RunSettings,
        announce,
        content_hash,
        parse_settings,
        run_main,
        seed_everything,
        setting,
        write_json,
    )
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import attention
import pass_keys
import rope_scaling
import sliding_window
import transformer
from bpe import Tokenizer
from cells import Cells
from checkpoint import load_model
from long_context import fit, measure
from pass_keys import Rows
from token_file import open_tokens
from transformer import Transformer

SHORT, FACTOR = 128, 4                   # tokens of a row of chapter 3's pretraining; a long row has 4 times
LONG = SHORT * FACTOR
STRETCHED = dict(rope_factor=float(FACTOR), trained_len=SHORT)
KINDS = {"RoPE": {}, "RoPE, interpolated": dict(rope_scaling="linear", **STRETCHED),
         "RoPE, NTK": dict(rope_scaling="ntk", **STRETCHED),
         "RoPE, YaRN": dict(rope_scaling="yarn", **STRETCHED),
         "RoPE, windows of 64": dict(attention="window", window=64)}


@dataclass
class Settings(RunSettings):
    """How much to tune and to measure."""
    tune: int = setting(30, least=1)     # steps on rows of 512
    rows: int = setting(16, least=8)     # held-out rows


QUICK = dict(tune=1, rows=8)


def stretched(trained: Transformer, then: dict) -> Transformer:
    """The weights of `trained` in a model for rows of LONG tokens, with other settings for its positions."""
    model = Transformer(replace(trained.config, max_len=LONG, **then))
    model.load_state_dict(trained.state_dict())
    return model.eval()


def one_kind(kind: str, s: Settings) -> dict[str, dict]:
    """Measure before and after tuning."""
    text = Path(s.out, "01_tokenizer")
    tokenizer = Tokenizer.load(text / "tokenizer.json")
    rows = Rows(open_tokens(text / "train.bin"), tokenizer, s.seed)
    held_out = Rows(open_tokens(text / "valid.bin"), tokenizer, 0)
    seed_everything(s.seed)
    model = stretched(load_model(Path(s.out, "03_training", "model.pt")), KINDS[kind])
    before = measure(model, held_out, s.rows, SHORT, LONG)
    fit(model, rows, s.tune, LONG, 0.1, kind)
    return {"before": before, "after": measure(model, held_out, s.rows, SHORT, LONG)}


def print_table(results: dict[str, dict]) -> None:
    """Loss in each quarter of the long rows, and keys found, before and after tuning."""
    print(f"\n{'':<22} {'loss in each ' + str(SHORT) + ' tokens':<26} {'tuned':<26} keys found, tuned")
    for kind, found in results.items():
        losses = ["  ".join(f"{loss:.2f}" for loss in found[when]["loss"]) for when in ("before", "after")]
        keys = [" ".join(f"{share:.0%}" for share in found[when]["keys"].values())
                for when in ("before", "after")]
        print(f"{kind:<22} {losses[0]:<26} {losses[1]:<26} {keys[0]}, {keys[1]}")


def main() -> None:
    """Measure every kind that is not on disk yet, print the table."""
    s = parse_settings(Settings, __doc__, QUICK)
    announce("the trained model, stretched", s, cpu_only=True)
    folder, file = Path(s.out, "study"), Path(s.out, "03_training", "model.pt")
    code = [transformer, attention, pass_keys, rope_scaling, sliding_window]
    cells, text = Cells(folder / "stretch_trained", code), Path(s.out, "01_tokenizer")
    data = content_hash(file, text / "train.bin", text / "valid.bin")
    results = {}
    for kind, then in KINDS.items():
        cell = {"then": then, "made from": data, "seed": s.seed, "tune": s.tune, "rows": s.rows}
        results[kind] = cells.get(cell, lambda: one_kind(kind, s))
    print_table(results)
    write_json(folder / "stretch_trained.json", results)


if __name__ == "__main__":
    run_main(main)
