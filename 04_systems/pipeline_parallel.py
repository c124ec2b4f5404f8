"""Pipeline parallelism: rank s holds some consecutive layers, and micro-batches flow through the ranks.

While the first micro-batch is on its way, the other ranks have nothing to do: with p stages and m
micro-batches a share (p-1)/(m+p-1) of the time is lost, the bubble. Two schedules with the same bubble:
    GPipe   all forward passes, then all backward passes: m micro-batches' activations are held at once
    1F1B    as soon as possible one backward pass after each forward pass: at most p - s are held
Huang et al. 2019; Narayanan et al. 2021 (section 2.2).

    python 04_systems/run.py --only pipelines
"""
import time
from typing import Any

from torch import Tensor, nn

from collectives import Team
from cross_entropy import cross_entropy
from data_parallel import counted
from tensor_parallel import split_loss, sum_gradient
from transformer import Transformer

Action = tuple[str, int]   # ("F", 3): the forward pass of micro-batch 3


def gpipe(stage: int, n_stages: int, n_micro: int) -> list[Action]:
    """All forward passes, then all backward passes."""
    return [("F", i) for i in range(n_micro)] + [("B", i) for i in range(n_micro)]


def one_f_one_b(stage: int, n_stages: int, n_micro: int) -> list[Action]:
    """Just enough forward passes to fill the stages behind, then forward and backward in turn, the rest."""
    # EXERCISE 4.2 the 1F1B schedule
    warm_up = min(n_stages - 1 - stage, n_micro)
    actions = [("F", i) for i in range(warm_up)]
    for i in range(n_micro - warm_up):
        actions += [("F", warm_up + i), ("B", i)]
    return actions + [("B", i) for i in range(n_micro - warm_up, n_micro)]
    # END EXERCISE 4.2


SCHEDULES = {"gpipe": gpipe, "1f1b": one_f_one_b}


def simulate(schedule: str, n_stages: int, n_micro: int, forward: float = 1.0,
             backward: float = 2.0) -> list[list[tuple]]:
    """When each action runs if ranks wait for nothing but data: per stage (action, i, start, end)."""
    todo = [SCHEDULES[schedule](s, n_stages, n_micro) for s in range(n_stages)]
    lines: list[list[tuple]] = [[] for _ in range(n_stages)]
    end: dict[tuple, float] = {}
    while any(todo):
        before = len(end)
        for s in range(n_stages):
            if todo[s]:
                kind, i = todo[s][0]
                needs = (kind, i, s - 1 if kind == "F" else s + 1)
                at_edge = not 0 <= needs[2] < n_stages                 # fed by the data or its own forward
                if at_edge or needs in end:
                    start = max(lines[s][-1][3] if lines[s] else 0.0, 0.0 if at_edge else end[needs])
                    end[kind, i, s] = start + (forward if kind == "F" else backward)
                    lines[s].append((kind, i, start, end[kind, i, s]))
                    todo[s].pop(0)
        if len(end) == before:
            raise ValueError(f"schedule {schedule!r} deadlocks: every stage waits for another")
    return lines


def bubble(lines: list[list[tuple]]) -> float:
    """The share of all ranks' time in which they do nothing, from (action, i, start, end) per stage."""
    # EXERCISE 4.8 the bubble
    begin, finish = min(line[0][2] for line in lines), max(line[-1][3] for line in lines)
    busy = sum(end - start for line in lines for _, _, start, end in line)
    return 1 - busy / (len(lines) * (finish - begin))
    # END EXERCISE 4.8


def layers_of(stage: int, n_stages: int, n_layers: int) -> range:
    """Which layers a stage holds: the first ones get one more if it does not divide."""
    if n_layers < n_stages:
        raise ValueError(f"{n_layers} layers cannot fill {n_stages} pipeline stages: use at most {n_layers}")
    least, extra = divmod(n_layers, n_stages)
    first = stage * least + min(stage, extra)
    return range(first, first + least + (stage < extra))


def keep_stage(model: Transformer, stage: int, n_stages: int) -> Transformer:
    """Throw away, in place, what other stages hold. Names of the remaining weights stay as they are.

    A tied embedding is needed at both ends: first and last stage each hold it, and must add up its gradients.
    """
    decoder: Any = model.model
    decoder.layers = nn.ModuleDict({str(i): decoder.layers[i]
                                    for i in layers_of(stage, n_stages, model.config.n_layers)})
    first, last = stage == 0, stage == n_stages - 1
    if not (first or last and model.config.tied):
        decoder.embed_tokens = None
    if not first:
        decoder.embed_positions = None
    if not last:
        decoder.norm, model.lm_head = None, None
    return model


class Pipeline:
    """One rank's stage of a model, and the loop that runs a schedule.

    The backward team is a second one over the same ranks: messages that go back must not queue behind those
    that go forward (nccl would wait for ever).
    """

    def __init__(self, model: Transformer, team: Team, backward_team: Team, n_micro: int,
                 schedule: str = "1f1b", tensor_team: Team | None = None, sequence: bool = False,
                 slot: float = 0.0):
        """`tensor_team` if the model is also cut by tensor parallelism.

        With `slot`, a forward pass takes at least `slot` seconds and a backward pass twice that, as if each
        rank had a processor of its own.
        """
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule {schedule!r} is unknown: choose {' or '.join(SCHEDULES)}")
        self.model = keep_stage(model, team.rank, team.size)
        self.team, self.back, self.tensor, self.sequence = team, backward_team, tensor_team, sequence
        self.first, self.last = team.rank == 0, team.rank == team.size - 1
        self.n_micro, self.slot = n_micro, slot
        self.actions = SCHEDULES[schedule](team.rank, team.size, n_micro)
        self.timeline: list[tuple] = []   # (action, i, start, end) of the last step, seconds
        self.most_held = 0                # micro-batches whose activations were held at once

    def stage_forward(self, x: Tensor) -> Tensor:
        """ids (b, T) on the first stage, else the previous stage's output (b, T, C), to this one's."""
        decoder = self.model.model
        T = self.tokens
        if self.first:
            x = decoder.embed_tokens(x)
            if decoder.embed_positions is not None:
                x = x + decoder.embed_positions.weight[:T]
        for layer in decoder.layers.values():
            x = layer(x, decoder.cos[:T], decoder.sin[:T])
        return x

    def micro_loss(self, x: Tensor, targets: Tensor, total: float) -> Tensor:
        """A micro-batch's share of the loss on the last stage: the sum over its counted targets by `total`.

        Not its mean divided by the number of micro-batches, which is another loss where they count unequally.
        """
        x = self.model.model.norm(x)
        loss = cross_entropy(self.model.unembed(x), targets) if self.tensor is None else \
            split_loss(self.model, x, targets, self.tensor, self.sequence)
        return loss * (counted(targets) / total)

    def step(self, ids: Tensor, targets: Tensor, total: float | None = None) -> float:
        """Forward and backward of a whole batch (B, T); gradients are left in the parameters.

        The loss is the sum over counted targets divided by `total`, their number if it is not given. Returns
        it on the last stage, 0 elsewhere.
        """
        total = max(counted(targets) if total is None else total, 1e-9)   # nothing counted: 0, no gradient
        if len(ids) % self.n_micro:
            raise ValueError(f"a batch of {len(ids)} rows cannot be cut into {self.n_micro} equal "
                             "micro-batches")
        b, self.tokens = len(ids) // self.n_micro, ids.shape[1]
        time_here = self.tokens // (self.tensor.size if self.tensor and self.sequence else 1)
        shape = (b, time_here, self.model.config.d_model)
        like = next(self.model.parameters())
        held, loss = {}, 0.0
        sending: Any = None
        self.timeline, self.most_held = [], 0
        for kind, i in self.actions:
            rows = slice(i * b, (i + 1) * b)
            if kind == "F":
                x = ids[rows]
                if not self.first:
                    x = like.new_empty(shape)
                    self.team.exchange(None, 0, x, self.team.rank - 1)
                    x.requires_grad_()
                start = time.monotonic()
                y = self.stage_forward(x)
                if self.last:
                    y = self.micro_loss(y, targets[rows], total)
                    loss += y.item()
                self._note(kind, i, start, self.slot)
                sent = None if self.last else self.team.start_send(y.detach(), self.team.rank + 1)
                held[i] = (x, y, sent)
                self.most_held = max(self.most_held, len(held))
            else:
                x, y, sent = held.pop(i)
                grad = None
                if sent is not None:
                    sent.wait()                                            # long done: its gradient comes
                    grad = like.new_empty(shape)
                    self.back.exchange(None, 0, grad, self.back.rank + 1)
                start = time.monotonic()
                if y.requires_grad:                                        # not if all up to here is frozen
                    y.backward(grad)
                self._note(kind, i, start, 2 * self.slot)
                if sending is not None:
                    sending[1].wait()
                if not self.first:
                    sending = (x.grad, self.back.start_send(x.grad, self.back.rank - 1))
        if sending is not None:
            sending[1].wait()
        return loss

    def _note(self, kind: str, i: int, start: float, at_least: float) -> None:
        """Enter an action that began at `start` into the timeline, once it took `at_least` seconds."""
        time.sleep(max(0.0, at_least - (time.monotonic() - start)))
        self.timeline.append((kind, i, start, time.monotonic()))


def sum_tied_gradients(model: Transformer, ends: Team | None) -> None:
    """Add up the gradients of a tied embedding that the first and the last stage, team `ends`, both hold."""
    if ends is not None and ends.size > 1 and model.config.tied:
        sum_gradient(model.model.embed_tokens.weight, ends)
