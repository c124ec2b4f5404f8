"""Runs the kernels on the emulator, compares them with torch in float64, and says what is wrong.

Break a line in a .cu file, run this, read the sentence. In check mode every memory access is watched;
"fast" only compares the numbers; "debug" is for gdb; "gpu" runs on a CUDA device.
    python csrc/kernel_check.py                      every kernel, check mode
    python csrc/kernel_check.py reduction --mode fast
    python csrc/kernel_check.py flash_4_pipeline --mode gpu
    EMU_ORDER=7 python csrc/kernel_check.py reduction --mode fast     threads take turns in another order
"""

import argparse
import sys
from pathlib import Path

try:
    import torch
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None

import kernels
from flash_rungs import BACKWARD, DETERMINISTIC, FORWARD, flash_backward, flash_forward, library
from kernel_ladder import matmul, online_softmax, reduction, transpose, vector_add

FORWARDS = {Path(rung.source).stem: rung for rung in FORWARD.values()}
BACKWARDS = {Path(rung.source).stem: rung for rung in (*BACKWARD.values(), DETERMINISTIC)}
RUNGS = {**FORWARDS, **BACKWARDS}
NAMES = ["vector_add", "reduction", "transpose", "matmul", "online_softmax", "attention_naive", *RUNGS]


def numbers(*shape: int, seed: int = 0, mode: str = "check") -> torch.Tensor:
    """Normal random numbers, on the device that the mode needs."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return x.cuda() if mode == "gpu" else x


def check_attention(name: str, mode: str, T: int = 77, D: int = 32) -> list:
    """(what, got, wanted in float64) for what a kernel computes: O, or the gradients, or both."""
    dtype = RUNGS[name].dtype if name in RUNGS else torch.float32
    q, k, v, d_o = (numbers(1, H, T, D, seed=i, mode=mode).to(dtype) for i, H in enumerate((4, 2, 2, 4)))
    leaves = Q, K, V = [x.double().requires_grad_() for x in (q, k, v)]
    wanted = kernels.attention_torch(Q, K, V)
    if name not in RUNGS:
        return [("O", kernels.naive_attention(q, k, v, mode=mode), wanted.detach())]
    o, lse = flash_forward(library(FORWARDS.get(name, FORWARD[5]), D, mode), q, k, v, True)
    results = [("O", o, wanted.detach())] if name in FORWARDS else []
    if name in BACKWARDS:
        got = flash_backward(library(BACKWARDS[name], D, mode), q, k, v, o, lse, d_o, True)
        results += zip(("dQ", "dK", "dV"), got, torch.autograd.grad(wanted, leaves, d_o.double()))
    return results


def cases(name: str, mode: str) -> list:
    """(what, got, wanted) of one kernel at sizes that fill no tile."""
    x, a, b = (numbers(*shape, mode=mode) for shape in ((1000,), (50, 70), (70, 45)))
    if name == "vector_add":
        return [("z", vector_add(x, x.cos(), mode), x.double() + x.cos().double())]
    if name == "reduction":
        return [("the sum", reduction(x, mode).double().sum(), x.double().sum())]
    if name == "transpose":
        return [("y", transpose(a, mode), a.T.double())]
    if name == "matmul":
        return [("C", matmul(a, b, mode), a.double() @ b.double())]
    if name == "online_softmax":
        return [("y", online_softmax(a, mode), a.double().softmax(-1))]
    return check_attention(name, mode)


def main() -> None:
    """Check the kernels named on the command line; exit 1 if one of them is wrong."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("kernel", nargs="*", help=f"which ones: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--mode", choices=["check", "fast", "debug", "gpu"], default="check",
                        help="how to build and run them")
    args = parser.parse_args()
    unknown = set(args.kernel) - set(NAMES)
    if unknown:
        sys.exit(f"no kernel named {min(unknown)}: choose from {', '.join(NAMES)}")
    reason = kernels.why_not("cuda" if args.mode == "gpu" else "cpu")
    if reason:
        sys.exit(reason)
    wrong = 0
    for name in args.kernel or NAMES:
        try:
            for what, got, wanted in cases(name, args.mode):
                error = (got - wanted).abs().max().item()
                # bfloat16 keeps 8 bits of a number: a few roundings move it by 2^-6 of the largest at most
                good = error < (wanted.abs().max().item() * 2**-6 if got.dtype == torch.bfloat16 else 1e-5)
                wrong += not good  # a NaN is not good
                word = "ok   " if good else "WRONG"
                print(f"{word} {name}: {what} differs from float64 by at most {error:.1e}")
        except (kernels.KernelFault, ValueError, NotImplementedError) as report:
            wrong += 1
            print(f"FAULT {name}: {report}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
