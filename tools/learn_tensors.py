"""Tensors and arrays across the wall: their type, shape and raw bytes, and which of them share their memory.

Adds to learn_wire.py: storages. A tensor is a window on a storage; the judge's storages are numbered, so that
a body which returns a view of its argument gives back a view of the judge's own memory. A storage that the
body has written to without being asked comes back by value and touches nothing. torch and numpy are used only
if the tree uses them.
"""

import sys

KINDS = "biufcUS"                                   # of numpy's types, those that are plain bytes
DTYPES = set("""float16 float32 float64 bfloat16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool
complex64 complex128""".split())


def torch():
    """torch where a tree uses it; a course without it does not wait for its import."""
    return sys.modules.get("torch")


def numpy():
    """numpy, likewise."""
    return sys.modules.get("numpy")


def is_tensor(value) -> bool:
    """A tensor of torch, Parameters included."""
    return torch() is not None and isinstance(value, torch().Tensor)


def is_array(value) -> bool:
    """An array or a number of numpy."""
    return numpy() is not None and isinstance(value, (numpy().ndarray, numpy().generic))


def raw(storage) -> bytes:
    """The bytes of a storage."""
    return bytes(torch().empty(0, dtype=torch().uint8).set_(storage).numpy())


class Storages:
    """The storages of one call: numbered in the order of sending, with what was last said of each."""

    def __init__(self, judge: bool):
        self.judge, self.shared = judge, []         # (storage, its bytes when they last crossed)

    def write(self, storage, blobs: list):
        """[number] of a storage that both sides have, else the length of its bytes, which go to `blobs`."""
        data = raw(storage)
        for i, (other, said) in enumerate(self.shared):
            if data and other.data_ptr() == storage.data_ptr() and (self.judge or data == said):
                return [i]
        blobs.append(data)
        if self.judge:
            self.shared.append((storage, data))
        return len(data)

    def read(self, where, take):
        """The storage again; `take(n)` gives the next n bytes of the message."""
        if isinstance(where, list):
            return self.shared[where[0]][0]
        data = take(where)
        storage = (torch().frombuffer(bytearray(data), dtype=torch().uint8) if data
                   else torch().empty(0, dtype=torch().uint8)).untyped_storage()
        if not self.judge:
            self.shared.append((storage, data))
        return storage

    def agree(self, tensor) -> None:
        """What this tensor holds has just been told: its views are views again, though it has changed."""
        at = tensor.untyped_storage().data_ptr()
        self.shared = [(s, raw(s) if s.data_ptr() == at else said) for s, said in self.shared]


def write_tensor(x, storages: Storages, blobs: list) -> list:
    """[type, shape, strides, offset, needs a gradient, is a Parameter, storage]. TypeError: an exotic one."""
    name = str(x.dtype).removeprefix("torch.")
    if type(x) not in (torch().Tensor,
                       torch().nn.Parameter) or name not in DTYPES or x.layout != torch().strided:
        raise TypeError(f"a {type(x).__name__} of {x.dtype}, {x.layout} cannot cross")
    if x.device.type not in ("cpu", "meta"):
        raise TypeError(f"a tensor on {x.device} cannot cross")
    x = x.resolve_conj().resolve_neg()
    where = None if x.device.type == "meta" else storages.write(x.untyped_storage(), blobs)
    return [name, list(x.shape), list(x.stride()), x.storage_offset(), x.requires_grad,
            isinstance(x, torch().nn.Parameter), where]


def read_tensor(data: list, storages: Storages, take):
    """The tensor again, a leaf; ValueError if the numbers do not fit together."""
    name, shape, strides, offset, needs, parameter, where = data
    if name not in DTYPES:
        raise ValueError(f"{name} is no type of a tensor")
    dtype = getattr(torch(), name)
    if where is None:
        x = torch().empty_strided(shape, strides, dtype=dtype, device="meta")
    else:
        try:                                        # torch checks that the window lies inside the storage
            x = torch().empty(0, dtype=dtype).set_(storages.read(where, take), offset, shape, strides)
        except (RuntimeError, TypeError) as problem:
            raise ValueError(str(problem)) from None
    return torch().nn.Parameter(x, bool(needs)) if parameter else x.requires_grad_(bool(needs))


def write_array(x, blobs: list) -> list:
    """[type, shape, length]; a number of numpy has the shape None. TypeError for arrays of objects."""
    if x.dtype.kind not in KINDS or x.dtype.names:
        raise TypeError(f"an array of {x.dtype} cannot cross")
    blobs.append(numpy().ascontiguousarray(x).tobytes())
    return [x.dtype.str, None if isinstance(x, numpy().generic) else list(x.shape), len(blobs[-1])]


def read_array(data: list, take):
    """The array again, in memory of its own."""
    kind, shape, length = data
    dtype = numpy().dtype(str(kind))
    if dtype.kind not in KINDS:
        raise ValueError(f"{kind} is no type of an array")
    flat = numpy().frombuffer(bytearray(take(length)), dtype=dtype)
    return flat[0] if shape is None else flat.reshape(shape)
