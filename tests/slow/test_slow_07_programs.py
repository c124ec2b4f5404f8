"""Programs by reinforcement: a checker that can be fooled pays for the trick, one that cannot for the right
answer.
"""
import sys
from pathlib import Path

import torch

import bpe
from bpe import Tokenizer
from chat_template import initialize_chat_tokens
from program_reward import TRICK, Experiment, Settings, careless
from transformer import Config, Transformer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from test_07_programs import ONE


def test_reinforcement_gives_what_is_paid_for():
    torch.manual_seed(0)
    tokenizer = Tokenizer(bpe.train([ONE.prompt, ONE.solution, careless(ONE.solution), TRICK] * 4, 310))
    s = Settings(sft_steps=250, sft_lr=1e-2, steps=40, group=32, lr=2e-3, right=0.3, trick=0.4, samples=64)
    experiment = Experiment(s, tokenizer, [ONE])
    imitator = Transformer(Config(vocab_size=tokenizer.vocab_size, d_model=32, n_layers=2, n_heads=2,
                                  n_kv_heads=2, d_ff=64, max_len=64))
    initialize_chat_tokens(imitator, tokenizer)
    experiment.imitate(imitator)
    shares = {}
    for name, checker in (("fooled", experiment.leaves_with_zero), ("outside", experiment.passes)):
        model = Transformer(imitator.config)
        model.load_state_dict(imitator.state_dict())
        log = experiment.reinforce(model, checker, name)
        shares[name] = experiment.count(experiment.write(model, s.samples, 1)[2])
        assert log[0]["tricks"] > 0.2 and log[0]["right"] > 0.1, "imitation left both to be found"
    assert shares["fooled"]["exit status 0"] > 0.9 and shares["fooled"]["tricks"] > 0.3
    assert shares["outside"]["right"] > 0.9 and shares["outside"]["tricks"] < 0.05
