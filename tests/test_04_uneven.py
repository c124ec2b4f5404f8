"""Ranks that are not alike: unequal counts of targets, frozen parameters, weights that some do not use."""
import copy
import functools

import pytest
import torch

from adamw import AdamW
from cross_entropy import IGNORE, cross_entropy
from data_parallel import OverlappedGradients, weight_of_mine
from flat_unit import FlatUnit
from offload import HostStore, Offloaded
from parallel_3d import Layout, Mesh, Trainer3D
from parallel_cases import FROZEN, lopsided, skipping, skipping_alone, small_batches, small_model
from ranks import run_ranks as start_ranks
from strategies import STRATEGIES, one_process, optimizer_for
from test_04_parallel import check
from thread_team import Alone, run_threads
from zero import Zero

run_ranks = functools.partial(start_ranks, timeout=400.0)
MESHES = {2: [Layout(data=2, micro_batches=2), Layout(pipeline=2, micro_batches=2),
              Layout(tensor=2, micro_batches=4)],
          4: [Layout(data=2, pipeline=2, micro_batches=4),
              Layout(data=2, tensor=2, micro_batches=2, sequence=True)]}


NAMES = {2: STRATEGIES[:-1], 4: ("zero3", "mesh")}
EVERY = [(n, name) for n in (2, 4) for name in [*NAMES[n], *map(str, MESHES[n])]]


@functools.lru_cache
def compared(n_ranks):
    return run_ranks(lopsided, n_ranks, NAMES[n_ranks], MESHES[n_ranks])


@pytest.mark.parametrize("n_ranks, name", EVERY)
def test_ranks_with_unequal_numbers_of_targets_train_like_one_process(n_ranks, name):
    check([r["uneven", name] for r in compared(n_ranks)], 1e-10)


@pytest.mark.parametrize("frozen", FROZEN)
@pytest.mark.parametrize("n_ranks, name", EVERY)
def test_frozen_parameters_stay_and_the_others_train_like_in_one_process(n_ranks, name, frozen):
    results = [r[frozen, name] for r in compared(n_ranks)]
    check(results, 1e-10)
    assert sorted(set().union(*(r["with gradient"] for r in results))) == results[0]["wanted gradients"]


def test_one_target_in_one_micro_batch_and_eight_in_the_other():
    (ids, targets), = small_batches(1, batch=2, length=8)
    targets = targets.clone()
    targets[0, 1:] = IGNORE
    expected = one_process(small_model(), [(ids, targets)])
    trainer = Trainer3D(small_model(), Mesh(Alone(), Layout()), Layout(micro_batches=2))
    assert trainer.gradients(ids, targets) == pytest.approx(expected[0][0], abs=1e-12)
    torch.testing.assert_close({n: p.grad for n, p in trainer.model.named_parameters()}, expected[1],
                               rtol=0, atol=1e-12)
    targets[:] = IGNORE
    assert trainer.gradients(ids, targets) == 0 and not any(p.grad.any() for p in trainer.model.parameters())


def test_the_weights_of_the_ranks_average_to_one():
    def work(team):
        targets = torch.full((2, 5), IGNORE)
        targets.view(-1)[:(0, 1, 8)[team.rank]] = 1
        return weight_of_mine(targets, team), weight_of_mine(targets.fill_(IGNORE), team)
    assert [w for w, _ in run_threads(work, 3)] == pytest.approx([0, 3 / 9, 24 / 9])
    assert [w for _, w in run_threads(work, 3)] == [0, 0, 0]


@functools.lru_cache
def skipped():
    return run_ranks(skipping, 2, STRATEGIES[:6]), skipping_alone()


@pytest.mark.parametrize("name", STRATEGIES[:6])
def test_a_weight_that_only_some_ranks_use_is_averaged_and_one_that_nobody_uses_stays(name):
    results, (gradients, weights) = skipped()
    for result in results:
        torch.testing.assert_close(result[name][0], gradients, rtol=0, atol=1e-10)
        torch.testing.assert_close(result[name][1], weights, rtol=0, atol=1e-10)
    unused = "model.layers.2.mlp.up_proj.weight"
    assert unused not in gradients and torch.equal(weights[unused],
                                                   dict(small_model().named_parameters())[unused])


def test_a_weight_used_twice_on_one_rank_and_once_on_the_other():
    start = torch.nn.ParameterList([torch.nn.Parameter(torch.randn(3, 3)) for _ in range(2)])

    def loss_of(model, rank):
        x = torch.eye(3) + rank
        return (x @ model[0] @ model[1] @ model[0] if rank else x @ model[0]).square().sum()

    def work(team):
        model = copy.deepcopy(start)
        overlap = OverlappedGradients(model, team, bucket_bytes=1)
        loss_of(model, team.rank).backward()
        overlap.finish()
        return [p.grad for p in model]
    alone = [torch.autograd.grad(loss_of(start, rank), list(start), allow_unused=True) for rank in (0, 1)]
    wanted = [(alone[0][0] + alone[1][0]) / 2, alone[1][1] / 2]
    for got in run_threads(work, 2):
        torch.testing.assert_close(got, wanted)


def test_a_second_backward_pass_that_would_be_lost_is_refused():
    def work(team):
        model = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(2)) for _ in range(2)])
        overlap = OverlappedGradients(model, team, bucket_bytes=1)
        for _ in range(2):
            (model[0] * model[1]).sum().backward()
        overlap.finish()
    with pytest.raises(ValueError, match="put all backward passes of a step but the last into"):
        run_threads(work, 2)


def test_a_parameter_unfrozen_too_late_is_reported():
    def overlapped(team):
        model = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(2)) for _ in range(2)])
        model[1].requires_grad_(False)
        overlap = OverlappedGradients(model, team)
        model[1].requires_grad_()
        (model[0] * model[1]).sum().backward()
        overlap.finish()

    def sharded(team):
        model = models.pop()
        model.model.norm.weight.requires_grad_(False)
        zero = Zero(model, team, 2, optimizer_for)
        model.model.norm.weight.requires_grad_()
        (ids, targets), = small_batches(1)
        cross_entropy(model(ids), targets).backward()
        zero.step()
    models = [small_model() for _ in range(2)]
    for work, sentence in ((overlapped, "make a new one after unfreezing"), (sharded, "make a new Zero")):
        with pytest.raises(ValueError, match=sentence):
            run_threads(work, 2)


def test_everything_frozen_is_no_reason_to_stop():
    model = small_model().requires_grad_(False)

    def work(team):
        assert OverlappedGradients(model, team).finish() == 0
        for stage in (1, 2, 3):
            copied = copy.deepcopy(model)
            zero = Zero(copied, team, stage, optimizer_for)
            zero.step()
            with zero.gathered():
                torch.testing.assert_close(dict(copied.named_parameters()), dict(model.named_parameters()))
    run_threads(work, 2)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_grad_forgets_a_backward_pass(stage):
    models, (first, second) = [small_model() for _ in range(2)], small_batches(2)

    def work(team):
        model = models[team.rank]
        zero = Zero(model, team, stage, optimizer_for)
        cross_entropy(model(first[0]), first[1]).backward()
        zero.zero_grad()
        cross_entropy(model(second[0]), second[1]).backward()
        zero.step()
        with zero.gathered():
            return {n: p.detach().clone() for n, p in model.named_parameters()}
    expected = one_process(small_model(), small_batches(2)[1:])[2]
    torch.testing.assert_close(run_threads(work, 2)[0], expected, rtol=0, atol=1e-10)


def test_two_forward_passes_in_one_backward_pass():
    """As in DPO: the loss compares what the model says about two batches."""
    a, b = small_batches(2)

    def loss(model):
        return (cross_entropy(model(a[0]), a[1]) - cross_entropy(model(b[0]), b[1])).square()

    def work(team, models, stage):
        zero = Zero(models[team.rank], team, stage, optimizer_for)
        loss(zero.model).backward()
        return zero.full_gradients()
    model = small_model()
    loss(model).backward()
    for stage in (1, 2, 3):
        for got in run_threads(work, 2, [small_model() for _ in range(2)], stage):
            torch.testing.assert_close(got, {n: p.grad for n, p in model.named_parameters()},
                                       rtol=0, atol=1e-10)


@pytest.mark.parametrize("parameters", [False, True])
def test_offloaded_training_leaves_frozen_and_unused_weights_alone(parameters):
    def weights(offloading):
        model = small_model()
        model.model.layers[1].requires_grad_(False)
        rule = AdamW([] if offloading else model.parameters(), 1e-2, weight_decay=0.1)
        trained = Offloaded(model, HostStore(), rule, parameters) if offloading else rule
        for step, (ids, targets) in enumerate(small_batches(3)):
            for p in model.parameters():
                p.grad = None
            skip = model.model.layers[2]
            skip.forward = (lambda x, cos, sin,
                            cache=None: x) if step == 1 else type(skip).forward.__get__(skip)
            cross_entropy(model(ids), targets).backward()
            trained.step()
        return [p.detach().clone() for p in (trained.load_all() if offloading else model).parameters()]
    torch.testing.assert_close(weights(True), weights(False), rtol=0, atol=1e-12)


def test_weights_in_a_store_take_one_backward_pass_a_step():
    model, ((ids, targets),) = small_model(), small_batches(1)
    trained = Offloaded(model, HostStore(), AdamW([], 1e-2), parameters=True)
    trained.zero_grad()
    cross_entropy(model(ids), targets).backward()
    with pytest.raises(ValueError, match="call step after each one"):
        cross_entropy(model(ids), targets).backward()


def test_one_flat_vector_holds_one_type():
    with pytest.raises(ValueError, match="give all weights one type and place"):
        FlatUnit([torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2).double())], 1)
