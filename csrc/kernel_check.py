"""Runs the kernels on the emulator, compares them with torch in float64, and says what is wrong.

Break a line in a .cu file, run this, read the sentence. In check mode every memory access is watched;
"fast" only compares the numbers; "debug" is for gdb; "gpu" runs on a CUDA device.
    python csrc/kernel_check.py                      every kernel, check mode
    python csrc/kernel_check.py reduction --mode fast
    EMU_ORDER=7 python csrc/kernel_check.py reduction --mode fast     threads take turns in another order
"""

import argparse
import sys

try:
    import torch
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, and before that, once, `make setup`") from None

import kernels
from kernel_ladder import matmul, online_softmax, reduction, transpose, vector_add


def numbers(*shape: int, seed: int = 0, mode: str = "check") -> torch.Tensor:
    """Normal random numbers, on the device that the mode needs."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return x.cuda() if mode == "gpu" else x


def check_attention(mode: str, forward_only: bool) -> list:
    """(what, got, wanted in float64) for O and, unless forward_only, the three gradients."""
    q, k, v, d_o = (numbers(1, heads, 77, 32, seed=i, mode=mode) for i, heads in enumerate((4, 2, 2, 4)))
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    wanted = kernels.attention_torch(*leaves)
    if forward_only:
        return [("O", kernels.naive_attention(q, k, v, mode=mode), wanted.detach())]
    ours = [x.requires_grad_() for x in (q, k, v)]
    o = kernels.flash_attention(*ours, mode=mode)
    gradients, wanted_gradients = (
        torch.autograd.grad(o, ours, d_o),
        torch.autograd.grad(wanted, leaves, d_o.double()),
    )
    return [("O", o.detach(), wanted.detach()), *zip(("dQ", "dK", "dV"), gradients, wanted_gradients)]


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
    return check_attention(mode, forward_only=name == "attention_naive")


def main() -> None:
    """Check the kernels named on the command line; exit 1 if one of them is wrong."""
    names = [
        "vector_add",
        "reduction",
        "transpose",
        "matmul",
        "online_softmax",
        "attention_naive",
        "flash_attention",
    ]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kernel", nargs="*", help=f"which ones: {', '.join(names)} (default: all)")
    parser.add_argument(
        "--mode", choices=["check", "fast", "debug", "gpu"], default="check", help="how to build and run them"
    )
    args = parser.parse_args()
    unknown = set(args.kernel) - set(names)
    if unknown:
        sys.exit(f"no kernel named {min(unknown)}: choose from {', '.join(names)}")
    reason = kernels.why_not("cuda" if args.mode == "gpu" else "cpu")
    if reason:
        sys.exit(reason)
    wrong = 0
    for name in args.kernel or names:
        try:
            for what, got, wanted in cases(name, args.mode):
                error = (got - wanted).abs().max().item()
                good = error < 1e-5  # false for NaN
                wrong += not good
                print(
                    f"{'ok   ' if good else 'WRONG'} {name}: {what} differs from float64 by at most {error:.1e}"
                )
        except (kernels.KernelFault, ValueError, NotImplementedError) as report:
            wrong += 1
            print(f"FAULT {name}: {report}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
