"""What a verdict and a demonstration tell, what compute is spent: by hand and by closed forms."""
import math

import pytest
import torch

import imitation_or_reward
from arithmetic import problem, right_answer
from bpe import Tokenizer
from chat_template import answer_ids, chat_prompt
from imitation_or_reward import ANSWER, PROMPT, bits_of_a_sum, entropy, kind_of, right_ones, units


def test_what_is_told_is_counted_in_bits():
    assert entropy([0.5, 0.5]) == 1 and entropy([1.0, 0.0]) == 0
    assert entropy([0.25, 0.75]) == pytest.approx(2 - 0.75 * math.log2(3))
    # Nearly a triangle over 0 to 1998: its entropy is half a nat and the logarithm of half its base.
    assert bits_of_a_sum() == pytest.approx(0.5 / math.log(2) + math.log2(1000), abs=1e-3)


def test_compute_counts_sampling_once_and_learning_three_times():
    assert units(2) == 3 * 2 * 14 and units(2, 8, 1) == units(2) + 8 * 5 + 10
    for pair in ((0, 0), (361, 324), (999, 999)):   # every sum has these lengths, if a digit is a token
        assert len(chat_prompt(Tokenizer([]), problem(pair))) == PROMPT
        assert len(answer_ids(Tokenizer([]), right_answer(pair))) == ANSWER


def test_the_new_kind_has_a_carry_in_every_column():
    assert kind_of((555, 555)) == "new" and kind_of((555, 455)) == "shown" and kind_of((1, 2)) == "shown"


def test_rejection_keeps_what_was_rewarded():
    asked, answers = [[1], [1], [2], [2]], [[3], [4], [5], [6]]
    assert right_ones(asked, answers, torch.tensor([[0.0, 1.0], [1.0, 0.0]])) == [([1], [4]), ([2], [5])]
    loss = imitation_or_reward.Experiment.likelihood(None, torch.nn.Linear(1, 1), [])
    assert loss == 0 and loss.requires_grad
