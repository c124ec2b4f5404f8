"""Distillation: its losses by hand and against torch, where they fall, what a student learns from."""
import math

import pytest
import torch
from torch.nn.functional import kl_div

import distill
from bpe import EOS, Tokenizer
from count import count_parameters
from cross_entropy import IGNORE
from distill import METHODS, Lessons, Plan, distill_loss, forward_kl, reverse_kl, student_config, written_text
from transformer import Config, Transformer

BYTES = Tokenizer([])
SUMS = [((361, 324), "5860"), ((5, 7), "2000")]
PLAN = Plan(steps=6, sum_steps=4, sums=3, text_rows=2)


def tiny(seed=0):
    torch.manual_seed(seed)
    config = Config(vocab_size=260, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=16, max_len=200)
    return Transformer(config).double()


def lessons(plan=PLAN):
    return Lessons(BYTES, SUMS, torch.arange(2000).numpy() % 250, plan, 0)


def test_forward_and_reverse_divergence_by_hand():
    p, q = torch.tensor([[[0.5, 0.5]]]).double().log(), torch.tensor([[[0.9, 0.1]]]).double().log()
    one = torch.ones(1, 1)
    forward = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    reverse = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert forward_kl(q, p, one).item() == pytest.approx(forward)
    assert reverse_kl(q, p, one).item() == pytest.approx(reverse)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_both_are_torchs_divergence_with_its_gradient(temperature):
    torch.manual_seed(1)
    teacher = 3 * torch.randn(2, 4, 7, dtype=torch.float64)
    student = torch.randn(2, 4, 7, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[0.0, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.float64)
    log_p, log_q = (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    want = temperature**2 * kl_div(log_q[mask > 0], log_p[mask > 0], reduction="sum", log_target=True) / 6
    got = forward_kl(student, teacher, mask, temperature)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(*(torch.autograd.grad(x, student, retain_graph=True)[0] for x in (got, want)))
    back = kl_div(teacher.log_softmax(-1)[mask > 0], student.log_softmax(-1)[mask > 0], reduction="sum",
                  log_target=True) / 6
    got = reverse_kl(student, teacher, mask)
    torch.testing.assert_close(got, back)
    torch.testing.assert_close(*(torch.autograd.grad(x, student, retain_graph=True)[0] for x in (got, back)))


def test_at_a_high_temperature_it_is_half_the_squared_difference_of_centred_logits():
    # Hinton et al. 2015, section 2.1, with a mean over V in place of their 1 / N
    torch.manual_seed(2)
    teacher, student = torch.randn(2, 1, 1, 5, dtype=torch.float64)
    difference = (teacher - teacher.mean()) - (student - student.mean())
    got = forward_kl(student, teacher, torch.ones(1, 1), 1e4)
    torch.testing.assert_close(got, (difference**2).sum() / (2 * 5), rtol=1e-3, atol=0)


def test_masked_tokens_count_for_nothing_and_no_token_costs_nothing():
    torch.manual_seed(3)
    student, teacher = torch.randn(2, 1, 3, 4, dtype=torch.float64)
    student.requires_grad_()
    mask = torch.tensor([[1.0, 0, 0]])
    loss = forward_kl(student, teacher, mask)
    torch.testing.assert_close(loss, forward_kl(student[:, :1], teacher[:, :1], torch.ones(1, 1)))
    assert torch.autograd.grad(loss, student)[0][:, 1:].abs().max() == 0
    assert forward_kl(student, teacher, 0 * mask).item() == 0


def test_the_gradient_from_samples_is_that_of_the_probabilities_on_average():
    torch.manual_seed(4)
    teacher = torch.randn(1, 1, 4, dtype=torch.float64)
    student = torch.randn(1, 1, 4, dtype=torch.float64, requires_grad=True)
    grads = [torch.autograd.grad(-student.log_softmax(-1)[0, 0, k], student)[0] for k in range(4)]
    mean = sum(p * g for p, g in zip(teacher.softmax(-1)[0, 0], grads))
    want = torch.autograd.grad(forward_kl(student, teacher, torch.ones(1, 1)), student)[0]
    torch.testing.assert_close(mean, want)


def test_a_student_has_half_the_width_all_the_heads_and_at_most_a_quarter_of_the_weights():
    small = student_config(Config())
    total = sum(p.numel() for p in Transformer(small).parameters())
    assert (small.d_model, small.n_heads, small.D, small.n_layers) == (64, 4, 16, 3) and total == 216_608
    one_more = Config(d_model=64, n_layers=4, d_ff=176)
    assert total <= sum(count_parameters(Config()).values()) / 4 < sum(count_parameters(one_more).values())
    # where the table is most of the model not even one layer fits into a quarter: it gets one
    assert student_config(Config(d_model=64, n_layers=1, d_ff=64)).n_layers == 1


def test_loss_falls_on_the_answers_of_the_data_or_on_those_of_a_model():
    x, y = lessons().chat_rows(0)
    said = [BYTES.decode([i for i in row.tolist() if i != IGNORE][:-1]) for row in y]
    assert set(said) <= {"5860", "2000"} and len(said) == 3
    a, b = tiny(), tiny(1)
    assert torch.equal(lessons().chat_rows(0, a)[1], lessons().chat_rows(0, a)[1])
    own, other = (lessons().chat_rows(0, m)[1] for m in (a, b))
    assert own.shape != other.shape or not torch.equal(own, other)
    assert torch.equal(lessons().chat_rows(0, a)[0][:, :5], x[:, :5])   # the same questions


def test_text_by_the_teacher_begins_at_a_document_and_fills_its_rows():
    rows = written_text(tiny(), BYTES.special[EOS], 3, 0, length=20)
    assert rows.shape == (3, 21) and (rows[:, 0] == BYTES.special[EOS]).all()
    assert torch.equal(rows, written_text(tiny(), BYTES.special[EOS], 3, 0, length=20))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_the_student_and_leaves_the_teacher(method):
    student, teacher = tiny(), tiny(1)
    loss = distill_loss(student, teacher, lessons(), method)
    for step in (0, 5):   # sums alone; sums and text, on-policy
        value = loss(step)
        assert value.isfinite() and value.item() > 0
        value.backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_a_student_that_is_the_teacher_has_nothing_to_learn_from_probabilities_or_from_itself():
    for method in ("probabilities", "on-policy"):
        loss = distill_loss(tiny(), tiny(), lessons(), method)
        assert [loss(step).item() for step in (0, 5)] == pytest.approx([0, 0], abs=1e-12)


def test_on_policy_the_answers_are_the_students_own_in_the_last_third(monkeypatch):
    writers, plain = [], Lessons.chat_rows

    def noted(self, step, writer=None):
        writers.append(writer)
        return plain(self, step, writer)

    monkeypatch.setattr(Lessons, "chat_rows", noted)
    student, teacher = tiny(), tiny(1)
    loss = distill_loss(student, teacher, lessons(), "on-policy")
    for step in range(6):
        loss(step)
    assert writers == [None] * 4 + [student] * 2


def test_an_unknown_method_is_one_sentence():
    with pytest.raises(ValueError, match="choose one of data"):
        distill.distill_loss(tiny(), tiny(1), lessons(), "osmosis")


def test_on_policy_answers_pay_the_reverse_divergence_and_text_the_forward_one(monkeypatch):
    paid = []
    for name in ("forward_kl", "reverse_kl"):
        plain = getattr(distill, name)
        monkeypatch.setattr(distill, name, lambda said, *rest, name=name, plain=plain:
                            paid.append((name, "text" if said.shape[1] == 128 else "answers")) or
                            plain(said, *rest))
    loss = distill_loss(tiny(), tiny(1), lessons(), "on-policy")
    for step in (0, 5):
        loss(step)
    assert [p for p in paid if p != ("forward_kl", "answers")] == [("reverse_kl", "answers"),
                                                                   ("forward_kl", "text")]


def test_each_step_on_samples_has_text_of_its_own(monkeypatch):
    student, seen = tiny(), []
    monkeypatch.setattr(distill, "written_text", lambda *how: torch.arange(4)[:, None].expand(4, 129))
    loss = distill_loss(student, tiny(1), lessons(), "samples")
    student.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    for step in range(6):
        loss(step)
    assert [x[:, 0].tolist() for x in seen if x.shape[1] == 128] == [[0, 1], [2, 3]]
