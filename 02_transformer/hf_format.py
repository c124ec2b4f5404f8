"""Load a published checkpoint into our Transformer, and save ours so that the world can load it.

A model on Hugging Face is a folder: config.json says the shape, model.safetensors holds the weights. Large
ones are cut into several files, and model.safetensors.index.json says which weight is where. hf_families.py
knows what four families call things: Llama, Qwen3, Mixtral, GPT-2.

    python 02_transformer/hf_format.py FOLDER      loads it, counts it, and says what it needs
"""
from dataclasses import dataclass, fields
from pathlib import Path

try:
    from workbench import parse_settings, read_json, run_main, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch
from torch import Tensor

from count import cache_bytes
from hf_families import FAMILIES, Family
from model_config import Config
from safetensors_file import read_safetensors, write_safetensors
from transformer import Transformer, angles_of

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


def load_hf(folder: Path | str, dtype: torch.dtype | None = None) -> Transformer:
    """The model in `folder`, in eval mode; its weights keep the type of the file unless `dtype` is given.

    Without `dtype` nothing is copied: weights are views of the mapped files, read from disk when first used.
    ValueError for a folder that is not whole, and for a family or an option that we have no part for.
    """
    family, config = family_and_config(Path(folder))
    weights = family.read(read_folder(Path(folder)))
    if config.tied:
        weights.pop("lm_head.weight", None)     # some files write the tied table twice
    with torch.device("meta"):                  # shapes without memory
        model = Transformer(config)
    compare_names(folder, weights, model.state_dict())
    weights = weights if dtype is None else {name: t.to(dtype) for name, t in weights.items()}
    model.load_state_dict(weights, assign=True)
    for module in model.modules():              # what no file holds: tables, and biases of experts at zero
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name, torch.zeros(buffer.shape))
    model.model.cos, model.model.sin = angles_of(config)
    return model.eval()


def save_hf(model: Transformer, folder: Path | str, shard_bytes: int = 5_000_000_000) -> None:
    """Write config.json and the weights, in files of at most `shard_bytes` bytes (or one larger weight)."""
    config, folder = model.config, Path(folder)
    name = next((name for name, family in FAMILIES.items() if family.holds(config)), None)
    if name is None:
        raise ValueError("no published family looks like this configuration: change it to llama or qwen3 "
                         "(rope, rms, pre, swiglu), mixtral (with experts) or gpt2 (learned, layer, "
                         "gelu_tanh, bias)")
    family = FAMILIES[name]
    weights = family.write(model.state_dict())
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    write_shards(folder, weights, shard_bytes)
    write_json(folder / "config.json", {"architectures": [family.architecture], "model_type": name,
                                        "torch_dtype": dtype, **family.from_ours(config)})


def family_and_config(folder: Path) -> tuple[Family, Config]:
    """What config.json says, in our terms."""
    theirs = read_json(there(folder, "config.json"), "download it again")
    kind = theirs.get("model_type") if isinstance(theirs, dict) else None
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"{folder} holds a model of the family {kind!r}: load one of {', '.join(FAMILIES)}")
    try:
        ours = FAMILIES[kind].to_ours(theirs)
        for field in fields(Config):
            if field.type is int and type(ours.get(field.name, 0)) is not int:
                raise TypeError(f"{field.name} {ours[field.name]!r} is no whole number")
        return FAMILIES[kind], Config(**ours)
    except KeyError as error:
        raise ValueError(f"{folder / 'config.json'} lacks {error}, which every {kind} has: "
                         "download it again") from None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'config.json'} is not that of a {kind} ({error}): "
                         "download it again") from None


def there(folder: Path, name: str) -> Path:
    """A file that the folder of a model must have; ValueError without it."""
    if (folder / name).is_file():
        return folder / name
    why = "give the folder of a whole model, or download it again"
    if name == ONE_FILE and (others := sorted(p.name for p in folder.glob("*.bin"))):
        why = f"only {others[0]}, a pickle, and whoever reads one runs it: get the safetensors"
    raise ValueError(f"{folder} has no {name}: {why}")


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The weights of one file, or of all files that the index names."""
    if not (folder / INDEX).exists():
        return read_safetensors(there(folder, ONE_FILE))
    index = read_json(folder / INDEX, "download it again")
    where = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(where, dict) or not all(isinstance(name, str) and name for name in where.values()):
        raise ValueError(f"{folder / INDEX} does not say which file each weight is in: download it again")
    weights: dict[str, Tensor] = {}
    for name in sorted(set(where.values())):
        if Path(name).name != name:
            raise ValueError(f"{folder / INDEX} names the file {name!r} outside its folder: do not trust it")
        weights |= read_safetensors(there(folder, name))
    if missing := sorted(set(where) - set(weights)):
        raise ValueError(f"{folder / INDEX} promises {missing[0]} and {len(missing) - 1} more that no file "
                         "has: download it again")
    return weights


def compare_names(folder: Path | str, weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """ValueError unless names and shapes are those of the model that config.json describes."""
    for name in sorted(set(wanted) ^ set(weights)):
        said = "is missing" if name in wanted else "has no place in the model"
        raise ValueError(f"{folder}: {name} {said}: do config.json and the weights belong together?")
    for name, t in wanted.items():
        if t.shape != weights[name].shape:
            raise ValueError(f"{folder}: {name} has the shape {tuple(weights[name].shape)}, but config.json "
                             f"says {tuple(t.shape)}: do they belong together?")


def write_shards(folder: Path, weights: dict[str, Tensor], shard_bytes: int) -> None:
    """One file if it fits, else several and an index; what an earlier save would mislead with is removed."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, t in weights.items():
        if shards[-1] and size + t.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = t
        size += t.nbytes
    names = [ONE_FILE] if len(shards) == 1 else \
        [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards):
        write_safetensors(folder / name, shard, {"format": "pt"})
    if len(shards) == 1:
        (folder / INDEX).unlink(missing_ok=True)
    else:
        where = {w: name for name, shard in zip(names, shards) for w in shard}
        total = sum(t.nbytes for t in weights.values())
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
        (folder / ONE_FILE).unlink(missing_ok=True)


@dataclass
class Settings:
    """What to load."""
    folder: str   # with config.json and model.safetensors


def main() -> None:
    """Load a folder and say how large it is."""
    model = load_hf(parse_settings(Settings, __doc__).folder)
    weights = [*model.parameters()]
    print(f"{sum(p.numel() for p in weights):,} parameters of type {weights[0].dtype}, "
          f"{sum(p.nbytes for p in weights) / 1e9:.2f} GB")
    T = model.config.max_len
    print(f"cache of {T:,} tokens in 16 bits: {cache_bytes(model.config, T) / 1e9:.2f} GB")


if __name__ == "__main__":
    run_main(main)
