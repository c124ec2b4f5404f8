"""The exercises of chapter 7: verifier, chat tokens, loss masks, DPO, advantages, the policy loss."""
import math

import pytest
import torch
import torch.nn.functional as F
from ex_compare import call, same

from bpe import BOT, EOS, USER, Tokenizer
from chat_template import answer_batch, initialize_chat_tokens
from cross_entropy import IGNORE
from dpo import best_and_worst, dpo_loss
from grpo import clipped_policy_loss, group_advantages
from rollout import answer_log_probs
from transformer import Config, Transformer
from verifier import is_right

BYTES = Tokenizer([])   # every byte is a token
TAIL = " Thank you for asking."

# 7.1 a strict verifier


def check_verdict(answer, truth, want, likely):
    """is_right on one answer."""
    given = f"answer {answer!r}, truth {truth!r}"
    same(bool(call(given, is_right, answer, truth)), want, given, likely)


@pytest.mark.ex("7.1")
@pytest.mark.parametrize("truth", ["json", "none", "urllib.parse"])
def test_both_forms_are_right(truth):
    """the truth is right in the terse and in the wordy form"""
    for answer in (f" {truth}.", f" {truth}.{TAIL}"):
        check_verdict(answer, truth, True, "both terse(truth) and verbose(truth) are accepted")


@pytest.mark.ex("7.1")
def test_another_answer_is_wrong():
    """another answer is wrong, also one that shares letters with the truth"""
    for answer in (" pickle.", " json5.", " Json.", " js.", " ujson.", f" pickle.{TAIL}"):
        check_verdict(answer, "json", False, "compare whole strings, letter case included")
    for part in ("", " ", "s", ".", " json", "json"):
        check_verdict(part, "json", False, "`a in b` on two strings asks for a part of it: make the accepted forms a tuple")


@pytest.mark.ex("7.1")
def test_more_than_the_answer_is_wrong():
    """anything before or after the answer makes it wrong, so that nobody wins by guessing twice"""
    for answer in (" pickle. json.", " json. pickle.", " It is json.", f" json.{TAIL} json.", " json..", "json.", " json. "):
        check_verdict(answer, "json", False, "a policy that is rewarded for a part of its answer learns to name every "
                      "module: compare the whole answer, spaces included")


# 7.2 vectors for new tokens

def tiny(vocab=260):
    """A tiny model whose outputs are far from uniform, in float64."""
    model = Transformer(Config(vocab_size=vocab, d_model=8, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=8, max_len=32))
    for p in model.parameters():
        p.data *= 4
    return model.double()


def tables():
    """The embedding table of a tiny model before and after initialize_chat_tokens."""
    model = tiny()
    before = model.model.embed_tokens.weight.detach().clone()
    call("a tiny model", initialize_chat_tokens, model, BYTES)
    return before, model.model.embed_tokens.weight.detach()


@pytest.mark.ex("7.2")
def test_user_starts_as_a_line_break():
    """<|user|> starts as a line break"""
    before, after = tables()
    user = BYTES.special[USER]
    same(after[user], before[ord("\n")], "a tiny model; row <|user|> of the table", "table[id] = table[id of the newline]",
         {"nothing was written into the table: index the weight itself, not a copy of it": before[user],
          "it is the row of ':'": before[ord(":")],
          "it is the row of <|bot|>": (before[ord(":")] + before[ord("=")]) / 2})


@pytest.mark.ex("7.2")
def test_bot_starts_as_the_mean_of_colon_and_equals():
    """<|bot|> starts as the mean of ':' and '='"""
    before, after = tables()
    bot, colon, equals = BYTES.special[BOT], before[ord(":")], before[ord("=")]
    same(after[bot], (colon + equals) / 2, "a tiny model; row <|bot|> of the table", "(table[colon] + table[equals]) / 2",
         {"nothing was written into the table": before[bot], "the sum, not the mean: divide by 2": colon + equals,
          "':' alone": colon, "'=' alone": equals, "it is the line break": before[ord("\n")]})


@pytest.mark.ex("7.2")
def test_other_tokens_keep_their_vectors():
    """all other tokens keep their vectors"""
    before, after = tables()
    changed = [i for i in range(260) if not torch.equal(before[i], after[i])]
    same(sorted({*changed} - {BYTES.special[USER], BYTES.special[BOT]}), [], "a tiny model; changed rows besides the two",
         f"only <|user|> and <|bot|> are new (<|eos|>, {BYTES.special[EOS]}, is not)")
    same(len(changed), 2, "a tiny model; number of rows that changed", "write both rows")


# 7.3 group advantages

@pytest.mark.ex("7.3")
def test_advantages_by_hand():
    """one right answer in four gets 1.5, the others -0.5"""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]]).double()
    half = math.sqrt(0.75)
    same(call("two groups", group_advantages, rewards, 0.0),
         torch.tensor([[1.5, -0.5, -0.5, -0.5], [-half, half, half, -half]]), f"rewards {rewards.tolist()}, eps 0",
         "subtract the mean of the group, divide by its standard deviation (torch's, with G - 1)",
         {"not divided by the standard deviation": rewards - rewards.mean(1, keepdim=True),
          "the standard deviation with G, not G - 1":
              (rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, keepdim=True, correction=0),
          "the sign": (rewards.mean(1, keepdim=True) - rewards) / rewards.std(1, keepdim=True),
          "the mean is not subtracted": rewards / rewards.std(1, keepdim=True),
          "divided by the variance": (rewards - rewards.mean(1, keepdim=True)) / rewards.var(1, keepdim=True)}, rtol=1e-5)


@pytest.mark.ex("7.3")
def test_each_group_is_its_own_measure():
    """each group is compared with itself, not with the batch"""
    rewards = torch.randn(3, 5).double() + torch.tensor([[0.0], [10.0], [-10.0]])
    rewards[1] *= 7
    want = torch.stack([(r - r.mean()) / (r.std() + 0.01) for r in rewards])
    same(call("three groups", group_advantages, rewards, 0.01), want, "random rewards (3, 5), group 1 larger, eps 0.01",
         "mean and standard deviation over dimension 1, kept as (K, 1)",
         {"mean and std of the whole batch": (rewards - rewards.mean()) / (rewards.std() + 0.01),
          "the mean is of the whole batch": (rewards - rewards.mean()) / (rewards.std(1, keepdim=True) + 0.01),
          "the std is of the whole batch": (rewards - rewards.mean(1, keepdim=True)) / (rewards.std() + 0.01),
          "the axis: over the samples of a group, not over the groups":
              (rewards - rewards.mean(0)) / (rewards.std(0) + 0.01)}, rtol=1e-5)


@pytest.mark.ex("7.3")
def test_a_group_that_agrees_teaches_nothing():
    """a group that is all right or all wrong gets zeros, not NaN"""
    rewards = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    same(call("agreeing groups", group_advantages, rewards), torch.zeros(2, 3), f"rewards {rewards.tolist()}",
         "0 / 0 is NaN: add eps to the standard deviation")


@pytest.mark.ex("7.3")
def test_eps_is_an_argument():
    """eps is added to the standard deviation"""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).double()
    same(call("eps 0.5", group_advantages, rewards, 0.5), torch.tensor([[0.75, -0.25, -0.25, -0.25]]),
         f"rewards {rewards.tolist()}, eps 0.5", "std + eps = 0.5 + 0.5 here",
         {"eps is not used": torch.tensor([[1.5, -0.5, -0.5, -0.5]])})


# 7.4 loss on the answer only

PROMPTS, ANSWERS = [[1, 2, 3], [4], [5, 6]], [[7, 9], [8, 6, 5, 9], [9]]


@pytest.mark.ex("7.4")
def test_loss_falls_on_answers_only():
    """the targets of prompts and padding are ignored"""
    _ = IGNORE
    want = torch.tensor([[_, _, 7, 9], [8, 6, 5, 9], [_, 9, _, _]])
    given = f"prompts {PROMPTS}, answers {ANSWERS}, pad 0; the targets"
    got = call(given, answer_batch, PROMPTS, ANSWERS, 0)[1]
    same(got, want, given, "the target of position t is token t + 1: cut the mask like the targets",
         {"the prompt is not masked": torch.tensor([[2, 3, 7, 9], [8, 6, 5, 9], [6, 9, _, _]]),
          "padding is not masked": torch.tensor([[_, _, 7, 9], [8, 6, 5, 9], [_, 9, 0, 0]]),
          "nothing is masked": torch.tensor([[2, 3, 7, 9], [8, 6, 5, 9], [6, 9, 0, 0]]),
          "the mask is not shifted with the targets: the first answer token is lost":
              torch.tensor([[_, _, _, 9], [_, 6, 5, 9], [_, _, 0, _]]),
          "the first token of each answer is not counted": torch.tensor([[_, _, _, 9], [_, 6, 5, 9], [_, _, _, _]]),
          "the last token, which ends the answer, must count: else the model never learns to stop":
              torch.tensor([[_, _, 7, _], [8, 6, 5, _], [_, _, _, _]]),
          "masked targets must be IGNORE, not the padding id": torch.tensor([[0, 0, 7, 9], [8, 6, 5, 9], [0, 9, 0, 0]])})


@pytest.mark.ex("7.4")
def test_inputs_are_padded_on_the_right():
    """inputs hold prompt and answer, padded on the right with the padding id"""
    for pad in (0, 11):
        want = torch.tensor([[1, 2, 3, 7], [4, 8, 6, 5], [5, 6, 9, pad]])
        given = f"prompts {PROMPTS}, answers {ANSWERS}, pad {pad}; the inputs"
        got = call(given, answer_batch, PROMPTS, ANSWERS, pad)[0]
        same(got, want, given, "inputs keep the prompt: only targets are masked",
             {"the padding id is not used": torch.tensor([[1, 2, 3, 7], [4, 8, 6, 5], [5, 6, 9, 0]])})


@pytest.mark.ex("7.4")
def test_an_answer_may_contain_the_padding_id():
    """a token of an answer counts even if it is the padding id"""
    got = call("an answer with the padding id", answer_batch, [[1, 2], [1]], [[0, 9], [0]], 0)[1]
    want = torch.tensor([[IGNORE, 0, 9], [0, IGNORE, IGNORE]])
    same(got, want, "prompts [[1, 2], [1]], answers [[0, 9], [0]], pad 0; the targets",
         "mask by position, not by the value of a token")


@pytest.mark.ex("7.4")
def test_the_longest_row_sets_the_width():
    """the longest row, wherever it is, sets the width"""
    prompts, answers = [[1], [1, 2, 3, 4], [1]], [[5], [5], [5, 6, 7]]
    x, y = call("the longest row in the middle", answer_batch, prompts, answers, 0)
    same((tuple(x.shape), tuple(y.shape)), ((3, 4), (3, 4)), f"prompts {prompts}, answers {answers}; the shapes",
         "width is the largest len(prompt) + len(answer), and inputs and targets have one less")


# 7.5 a pair to learn from

RIGHT, WORDY, WRONG, WORSE = " json.", " json." + TAIL, " pickle.", " pickle." + TAIL


@pytest.mark.ex("7.5")
def test_best_and_worst_are_found():
    """the best answer comes first, the worst second"""
    for answers, want in (([WORDY, RIGHT, WORSE, WRONG], (RIGHT, WORSE)), ([WRONG, RIGHT, WORDY], (RIGHT, WRONG)),
                          ([RIGHT, WORDY, RIGHT], (RIGHT, WORDY))):
        given = f"truth 'json', answers {answers}"
        same(call(given, best_and_worst, answers, "json"), want, given, "rank the answers by preference(answer, truth)",
             {"best and worst are swapped": want[::-1]})


@pytest.mark.ex("7.5")
def test_of_equal_answers_the_first_is_taken():
    """of answers that are equally bad the first is taken"""
    answers = [" zlib.", RIGHT, WRONG, " abc."]
    given = f"truth 'json', answers {answers}"
    same(call(given, best_and_worst, answers, "json"), (RIGHT, " zlib."), given, "min and index find the first of equals")


@pytest.mark.ex("7.5")
def test_no_perfect_answer_no_pair():
    """without an answer that is right and terse there is no pair"""
    for answers in ([WORDY, WRONG, WORSE], [WRONG, WORSE], [WORDY, WORSE]):
        given = f"truth 'json', answers {answers}"
        same(call(given, best_and_worst, answers, "json"), None, given,
             "the best must have preference 3: a pair whose better half is wrong or wordy teaches the wrong thing")


@pytest.mark.ex("7.5")
def test_equal_answers_make_no_pair():
    """when all answers are equally good there is no pair"""
    for answers in ([RIGHT], [RIGHT, RIGHT, RIGHT]):
        given = f"truth 'json', answers {answers}"
        same(call(given, best_and_worst, answers, "json"), None, given, "the worst must have less than 3")


# 7.6 the loss of DPO

def log_probs(n=4, scale=2.0):
    """chosen, rejected, ref_chosen, ref_rejected: summed log-probabilities (n,) in float64."""
    return [scale * torch.randn(n).double() - 8 for _ in range(4)]


@pytest.mark.ex("7.6")
def test_dpo_loss_follows_the_formula():
    """the loss is the mean of -log sigmoid(beta * margin)"""
    c, r, rc, rr = log_probs()
    for beta in (0.1, 0.7):
        def mean(margin, beta=beta):
            return -F.logsigmoid(beta * margin).mean()
        want, margin = mean(c - rc - r + rr), c - rc - r + rr
        same(call(f"beta {beta}", dpo_loss, c, r, rc, rr, beta), want, f"random log-probabilities of 4 pairs, beta {beta}",
             "margin = beta * ((chosen - ref_chosen) - (rejected - ref_rejected)), then the mean of log(1 + exp(-margin))",
             {"the sign of the margin": mean(-margin), "the reference is not used": mean(c - r),
              "the reference is added, not subtracted": mean(c + rc - r - rr), "beta is not used": mean(margin / beta),
              "beta is written in": mean(0.1 / beta * margin), "the sum, not the mean": 4 * want,
              "the mean was taken before the logarithm": -F.logsigmoid(beta * margin.mean()),
              "the probability, not its -log": (beta * margin).sigmoid().mean(), "the sign of the loss": -want})


@pytest.mark.ex("7.6")
def test_at_the_reference_the_loss_is_log_two():
    """a model equal to its reference pays log 2"""
    c, r, _, _ = log_probs()
    same(call("the reference itself", dpo_loss, c, r, c, r, 0.3), math.log(2), "chosen = ref_chosen, rejected = ref_rejected",
         "the margin is 0 and -log sigmoid(0) = log 2")


@pytest.mark.ex("7.6")
def test_dpo_gradient():
    """the loss pushes the chosen up and the rejected down, most where the pair is wrong"""
    c, r, rc, rr = log_probs()
    c.requires_grad_(), r.requires_grad_()
    loss = call("random log-probabilities", dpo_loss, c, r, rc, rr, 0.5)
    wrong = (-0.5 * (c - rc - r + rr)).sigmoid().detach() * 0.5 / 4
    same(call("its gradient", torch.autograd.grad, loss, (c, r)), (-wrong, wrong), "4 pairs, beta 0.5; the gradients of "
         "chosen and rejected", "by hand: -beta * sigmoid(-margin) / B for the chosen, the same with plus for the rejected")


@pytest.mark.ex("7.6")
def test_dpo_loss_is_stable():
    """margins of a thousand neither overflow nor lose their gradient"""
    chosen, zero = torch.tensor([1000.0, -1000.0], requires_grad=True), torch.zeros(2)
    loss = call("margins of 1000", dpo_loss, chosen, zero, zero, zero, 1.0)
    same(loss, torch.tensor(500.0), "margins 1000 and -1000, beta 1",
         "exp(1000) is infinite: log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)")
    same(call("its gradient", torch.autograd.grad, loss, chosen)[0], torch.tensor([0.0, -0.5]),
         "margins 1000 and -1000, beta 1; the gradient", "inf / inf in the backward pass gives NaN")


# 7.7 how likely an answer is

@pytest.mark.ex("7.7")
def test_each_answer_token_has_its_log_probability():
    """every answer token has the log-probability that the model gives it"""
    model = tiny(12)
    log_p, mask = call("three answers", answer_log_probs, model, PROMPTS, ANSWERS, 0)
    want, targets, unmasked = torch.zeros(3, 4).double(), torch.zeros(3, 4).double(), torch.zeros(3, 4).double()
    for i, (p, a) in enumerate(zip(PROMPTS, ANSWERS)):
        every = model(torch.tensor([p + a]))[0].detach()
        for j, token in enumerate(a, len(p) - 1):
            want[i, j] = every[j].log_softmax(-1)[token]
            targets[i, j] = every[j].log_softmax(-1)[(p + a)[j]]
            unmasked[i, j] = every[j][token]
    given = f"prompts {PROMPTS}, answers {ANSWERS}; log_p"
    same(log_p, want, given, "log_p[i, t] = log softmax(logits[i, t])[y[i, t]], 0 where y is IGNORE",
         {"logits, not log-probabilities: subtract logsumexp": unmasked, "probabilities, not their logarithms":
          want.exp() * (want != 0), "the input tokens were scored, not the targets": targets, "the sign": -want})
    same(mask.double(), (want != 0).double(), given + "; the mask", "1 where the target is not IGNORE")


@pytest.mark.ex("7.7")
def test_padding_and_prompts_add_nothing():
    """prompt and padding add nothing to the sum of an answer"""
    model = tiny(12)
    log_p, mask = call("three answers", answer_log_probs, model, PROMPTS, ANSWERS, 0)
    given = f"prompts {PROMPTS}, answers {ANSWERS}"
    same(mask.sum(1).double(), torch.tensor([2.0, 4.0, 1.0]), given + "; sums of the mask", "one for each answer token")
    for i in range(3):
        alone = call("one answer", answer_log_probs, model, PROMPTS[i:i + 1], ANSWERS[i:i + 1], 0)[0].sum()
        same(log_p[i].sum(), alone.detach(), given + f"; the sum of row {i} in the batch and alone",
             "multiply by the mask: a target that is IGNORE has no log-probability")


@pytest.mark.ex("7.7")
def test_token_zero_counts():
    """an answer may contain token 0"""
    model = tiny(12)
    _, mask = call("an answer with token 0", answer_log_probs, model, [[1, 2]], [[0, 3]], 0)
    same(mask.double(), torch.tensor([[0.0, 1.0, 1.0]]), "prompt [1, 2], answer [0, 3]; the mask",
         "compare with IGNORE, not with 0")


@pytest.mark.ex("7.7")
def test_log_probabilities_have_a_gradient():
    """the log-probabilities have a gradient"""
    model = tiny(12)
    log_p, _ = call("three answers", answer_log_probs, model, PROMPTS, ANSWERS, 0)
    if not log_p.requires_grad:
        pytest.fail("got log-probabilities without a gradient: no .detach(), no torch.no_grad(): they are to be trained",
                    pytrace=False)


# 7.8 the clipped policy loss

def by_loop(new, old, advantages, mask, clip):
    """The formula, one token at a time."""
    total = 0.0
    for i in range(len(new)):
        for t in range(new.shape[1]):
            ratio, a = math.exp(new[i, t] - old[i, t]), advantages[i].item()
            total += mask[i, t].item() * min(ratio * a, min(max(ratio, 1 - clip), 1 + clip) * a)
    return -total / max(mask.sum().item(), 1)


def policy(n=3, t=3):
    """Log-probabilities now and then (n, t), advantages (n,) and a mask with rows of different length, in float64."""
    mask = (torch.arange(t) < torch.tensor([t, t - 1, 1] * n)[:n, None]).double()
    return 0.5 * torch.randn(n, t).double() - 1, 0.5 * torch.randn(n, t).double() - 1, torch.randn(n).double(), mask


@pytest.mark.ex("7.8")
@pytest.mark.parametrize("shape", [(3, 3), (4, 6)])
def test_policy_loss_follows_the_formula(shape):
    """the loss is minus the mean of min(r A, clip(r) A) over answer tokens"""
    for clip in (0.2, 0.5):
        new, old, a, mask = policy(*shape)
        given = f"random log-probabilities {shape}, clip {clip}"
        got = call(given, clipped_policy_loss, new, old, a, mask, clip)
        r, n = (new - old).exp(), mask.sum()
        clipped = r.clamp(1 - clip, 1 + clip)

        def loss(gain):
            return (-(gain * mask).sum() / n).item()
        A = a[:, None]
        gain = torch.minimum(r * A, clipped * A)
        same(got, by_loop(new, old, a, mask, clip), given, "r = exp(log_p - old_log_p), A is one number a row",
             {"nothing is clipped": loss(r * A), "always clipped: take the smaller of both": loss(clipped * A),
              "the larger, not the smaller": loss(torch.maximum(r * A, clipped * A)), "the sign": -loss(gain),
              "the ratio upside down": by_loop(old, new, a, mask, clip), "padding counts: multiply by the mask":
              (-gain.sum() / n).item(), "the mean is over padding, too": (-(gain * mask).mean()).item(),
              "clip is written in": by_loop(new, old, a, mask, 0.2),
              "a mean of means: each token counts alike, not each row":
              (-((gain * mask).sum(1) / mask.sum(1)).mean()).item()})


@pytest.mark.ex("7.8")
@pytest.mark.parametrize("ratio, advantage, want", [(1.5, 1.0, -1.2), (0.5, 1.0, -0.5), (1.5, -1.0, 1.5), (0.5, -1.0, 0.8)])
def test_the_clip_takes_the_smaller_gain(ratio, advantage, want):
    """beyond the clip the gain stops growing, the loss does not"""
    new = torch.tensor([[math.log(ratio)]]).double()
    given = f"one token, r = {ratio}, A = {advantage}, clip 0.2"
    got = call(given, clipped_policy_loss, new, torch.zeros(1, 1).double(), torch.tensor([advantage]).double(),
               torch.ones(1, 1).double(), 0.2)
    other = -min(max(ratio, 0.8), 1.2) * advantage
    same(got, want, given, "the smaller of r A and clip(r) A", {"the larger was taken": -ratio * advantage
                                                                if want == other else other})


@pytest.mark.ex("7.8")
def test_at_the_sampling_policy_the_gradient_is_that_of_reinforce():
    """where nothing has moved yet, the gradient is -A over the number of tokens"""
    new, _, a, mask = policy(4, 5)
    new.requires_grad_()
    loss = call("log_p = old_log_p", clipped_policy_loss, new, new.detach(), a, mask)
    same(call("its gradient", torch.autograd.grad, loss, new)[0], -a[:, None] * mask / mask.sum(),
         "log_p = old_log_p; the gradient", "the gradient flows through exp(log_p - old_log_p)")


@pytest.mark.ex("7.8")
def test_no_answer_tokens_cost_nothing():
    """an empty mask costs 0, not NaN"""
    new, old, a, mask = policy()
    same(call("an empty mask", clipped_policy_loss, new, old, a, 0 * mask), 0.0, "a mask of zeros", "divide by at least 1")
