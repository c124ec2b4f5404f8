"""Data, pipeline and tensor parallelism together, on a mesh of ranks; checkpoints fit any other mesh.

Tensor-parallel ranks talk most, so they are neighbours (on a cluster: the GPUs of one machine);
data-parallel ranks talk once a step. Rank numbers run fastest along tensor, then pipeline, then data, as in
Megatron-LM (Narayanan 2021).

    python 04_systems/parallel_3d.py --data 2 --pipeline 2 --tensor 2              starts its 8 ranks itself
    torchrun --nproc-per-node 8 04_systems/parallel_3d.py --data 2 --pipeline 2 --tensor 2
    torchrun --nnodes 2 --node-rank 0 --master-addr HOST --nproc-per-node 8 04_systems/parallel_3d.py ...
"""
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

try:
    from workbench import (
        RunSettings,
        content_hash,
        fingerprint,
        parse_settings,
        read_json,
        run_main,
        seed_everything,
        write_json,
    )
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch
from torch import Tensor

from adamw import AdamW
from batches import TextBatches
from checkpoint import read, write
from collectives import Team, all_reduce
from data_parallel import average_gradients_bucketed, counted, shard
from pipeline_parallel import Pipeline, sum_tied_gradients
from ranks import RankError, joined, run_ranks
from tensor_parallel import cut, join, split_heads_and_widths, sum_partial_gradients
from token_file import open_tokens
from transformer import Config, Transformer


@dataclass
class Layout:
    """How many ranks along each axis; their product is the number of ranks."""
    data: int = 1            # data-parallel copies
    pipeline: int = 1        # pipeline stages
    tensor: int = 1          # tensor-parallel slices
    micro_batches: int = 1   # micro-batches a copy and step
    schedule: str = "1f1b"   # 1f1b or gpipe
    sequence: bool = False   # cut norms and residual stream along time too

    @property
    def ranks(self) -> int:
        """How many processes this takes."""
        return self.data * self.pipeline * self.tensor


class Mesh:
    """Where this rank stands, and its team along each axis."""

    def __init__(self, world: Team, layout: Layout):
        d, p, t = layout.data, layout.pipeline, layout.tensor
        if world.size != layout.ranks:
            raise ValueError(f"data {d} x pipeline {p} x tensor {t} needs {layout.ranks} ranks, but "
                             f"{world.size} were started")
        grid = torch.arange(world.size).view(d, p, t)
        self.world = world
        self.tensor = world.split(grid.reshape(-1, t).tolist())
        pipelines = grid.transpose(1, 2).reshape(-1, p).tolist()
        self.pipeline, self.pipeline_back = world.split(pipelines), world.split(pipelines)
        self.data = world.split(grid.permute(1, 2, 0).reshape(-1, d).tolist())
        ends = [[line[0], line[-1]] for line in pipelines] if p > 1 else []
        inner = [[r] for r in range(world.size) if not any(r in pair for pair in ends)]
        self.ends = world.split(ends + inner)                 # first and last stage, for a tied embedding


class Trainer3D:
    """A model cut to this rank's place in the mesh, its optimizer, one training step, and checkpoints."""

    def __init__(self, model: Transformer, mesh: Mesh, layout: Layout, lr: float = 1e-3,
                 weight_decay: float = 0.0, slot: float = 0.0):
        self.mesh, self.layout, self.config = mesh, layout, model.config
        self.rows = {name: len(p) for name, p in model.named_parameters()}   # before cutting, for checkpoints
        tensor = mesh.tensor if layout.tensor > 1 else None
        if tensor is not None:
            split_heads_and_widths(model, tensor, layout.sequence)
        self.pipe = Pipeline(model, mesh.pipeline, mesh.pipeline_back, layout.micro_batches, layout.schedule,
                             tensor, layout.sequence and tensor is not None, slot)
        self.model = self.pipe.model
        self.optimizer = AdamW(self.model.parameters(), lr, weight_decay=weight_decay)
        self.device = next(self.model.parameters()).device

    def gradients(self, ids: Tensor, targets: Tensor) -> float:
        """Forward, backward and all exchanges for a global batch (B, T), known to every rank; its loss."""
        for p in self.model.parameters():
            p.grad = None
        d = self.mesh.data
        # The copies' gradients are averaged, so each is divided by the mean number of targets a copy counts.
        loss = self.pipe.step(shard(ids, d), shard(targets, d), counted(targets) / d.size)
        if self.layout.tensor > 1:
            sum_partial_gradients(self.model, self.mesh.tensor, self.pipe.sequence)
        sum_tied_gradients(self.model, self.mesh.ends)
        if self.mesh.data.size > 1:
            average_gradients_bucketed(self.model, self.mesh.data)
        mine = torch.tensor([loss], dtype=torch.float64, device=self.device)   # 0 on all but the last stages
        total = all_reduce(mine, self.mesh.world)
        return total.item() / (self.layout.data * self.layout.tensor)

    def step(self, ids: Tensor, targets: Tensor, scale: float = 1.0) -> float:
        """One optimizer step; returns the loss before it."""
        loss = self.gradients(ids, targets)
        self.optimizer.step(scale)
        return loss

    def wait_for_all(self) -> None:
        """Return when all ranks have called this."""
        all_reduce(torch.zeros(1, device=self.device), self.mesh.world)

    def moments(self, p: Tensor) -> list[Tensor]:
        """Both moments of a parameter; none of a frozen one."""
        o = self.optimizer
        return next(([m, v] for q, m, v in zip(o.parameters, o.m, o.v) if q is p), [])

    def save(self, folder: Path, step: int, recipe: dict | None = None) -> None:
        """Write weights and moments as slices; when all ranks are done, the file that makes them valid.

        Data-parallel copies are equal, so the first one writes. `recipe` says what run this is: see `load`.
        """
        stage, slice_ = self.mesh.pipeline.rank, self.mesh.tensor.rank
        if self.mesh.data.rank == 0:
            write(folder / f"step{step}-stage{stage}-slice{slice_}.pt", {
                name: [x.detach().cpu() for x in (p, *self.moments(p))]
                for name, p in self.model.named_parameters()})
        self.wait_for_all()              # nobody passes before everybody has written
        if self.mesh.world.rank == 0:
            write_json(folder / "latest.json", {
                "step": step, "stages": self.layout.pipeline, "slices": self.layout.tensor,
                "recipe": {**(recipe or {}), "model": asdict(self.config)}})
            for old in folder.glob("step*-stage*-slice*.pt"):
                if not old.name.startswith(f"step{step}-"):
                    old.unlink()

    def load(self, folder: Path, recipe: dict | None = None) -> int:
        """Continue from the newest valid checkpoint in `folder`, of whatever mesh; returns its step, else 0.

        One of another `recipe` (settings, corpus, code, or shape of the model) is not continued but removed,
        and said. Each rank reads all files (memory-mapped by the system), joins slices to full tensors and
        cuts its own.
        """
        file = folder / "latest.json"
        if not file.exists():
            return 0
        latest, wanted = read_json(file), {**(recipe or {}), "model": asdict(self.config)}
        if not isinstance(latest, dict) or not {"step", "stages", "slices", "recipe"} <= latest.keys():
            raise ValueError(f"{file} is no checkpoint of this code: delete it or name another folder with "
                             "--checkpoint")
        if other := [name for name, value in wanted.items() if latest["recipe"].get(name) != value]:
            self.wait_for_all()          # everybody has read it
            if self.mesh.world.rank == 0:
                print(f"  {folder} holds a run with another {', '.join(other)}: starting again", flush=True)
                file.unlink()        # before its files are written over one by one
            return 0
        pieces: dict[str, list] = {}
        try:
            for stage in range(latest["stages"]):
                slices = [read(folder / f"step{latest['step']}-stage{stage}-slice{s}.pt")
                          for s in range(latest["slices"])]
                pieces.update({name: [s[name] for s in slices] for name in slices[0]})
            with torch.no_grad():
                for name, p in self.model.named_parameters():
                    for mine, saved in zip((p, *self.moments(p)), zip(*pieces[name])):
                        full = join(name, list(saved), self.rows[name])
                        mine.copy_(cut(name, full, self.mesh.tensor.rank, self.mesh.tensor.size))
        except (FileNotFoundError, KeyError, RuntimeError) as error:
            raise ValueError(f"the checkpoint in {folder} is incomplete ({error}): delete the "
                             "folder") from None
        self.optimizer.steps = latest["step"]
        return latest["step"]


@dataclass
class Settings(RunSettings, Layout):
    """A training run on a mesh."""
    steps: int = 20           # optimizer steps in all
    batch: int = 16           # rows of the whole batch
    length: int = 64          # tokens a row
    lr: float = 3e-3          # learning rate of AdamW
    checkpoint: str = ""      # folder of the checkpoint; if not given, 04_systems/mesh in the folder of --out
    save_every: int = 10      # steps between checkpoints
    patience: float = 600.0   # seconds for the whole run, or for one message under torchrun


def recipe_of(settings: Settings, corpus: Path) -> dict:
    """What a run must have in common with a checkpoint to continue it; mesh and number of steps are free."""
    return {"seed": settings.seed, "batch": settings.batch, "length": settings.length, "lr": settings.lr,
            "corpus": content_hash(corpus),
            "code": fingerprint("", "02_transformer", "03_training", "04_systems")}


def train(world: Team, settings: Settings) -> list[float]:
    """What each rank runs: build, continue if there is a checkpoint, train on the corpus of chapter 1."""
    corpus = Path(settings.out, "01_tokenizer", "train.bin")
    tokens, recipe = open_tokens(corpus), recipe_of(settings, corpus)
    config = Config(**read_json(Path(settings.out, "02_transformer", "config.json")))
    seed_everything(settings.seed)
    device = torch.device("cuda", torch.cuda.current_device()) if world.native else torch.device("cpu")
    trainer = Trainer3D(Transformer(config).to(device), Mesh(world, settings), settings, settings.lr)
    batches = TextBatches(tokens, settings.batch, settings.length, settings.seed)
    folder = Path(settings.checkpoint or Path(settings.out, "04_systems", "mesh"))
    step, losses = trainer.load(folder, recipe), []
    if step and world.rank == 0:
        print(f"  continuing at step {step}", flush=True)
    while step < settings.steps:
        ids, targets = batches(step)
        losses.append(trainer.step(ids.to(device), targets.to(device)))
        step += 1
        if world.rank == 0:
            print(f"  step {step}  loss {losses[-1]:.4f}", flush=True)
        if step % settings.save_every == 0 or step == settings.steps:
            trainer.save(folder, step, recipe)
    return losses


def main() -> None:
    """Start the ranks, or join those that torchrun has started."""
    settings = parse_settings(Settings, __doc__, dict(steps=4))
    if settings.device not in ("auto", "cpu"):
        raise ValueError(f"--device {settings.device}: torchrun gives each rank a GPU where there are some; "
                         "ranks that this command starts itself are on the CPU")
    if "RANK" in os.environ:
        with joined(settings.patience) as world:
            train(world, settings)
    else:
        try:
            run_ranks(train, settings.ranks, settings, timeout=settings.patience)
        except RankError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    run_main(main)
