"""Measures the attention kernels while they run: bytes moved, and what each source line costs.

Prints the traffic of naive and flash attention (counted, and by formula), then the lines of the forward
kernel with their bank conflicts and sectors, then the transpose with and without its padding; draws traffic
against tile size and length.
    python csrc/kernel_profile.py            about a minute
    python csrc/kernel_profile.py --time     CPU seconds of the fast and the check mode instead
"""

import argparse
import sys
import time
from pathlib import Path

try:
    import torch
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None

import attention_traffic as traffic
import kernels
from kernel_ladder import ladder, transpose

HERE = Path(__file__).resolve().parent


def print_traffic(D: int = 64) -> dict:
    """Print bytes against length; return {T: (naive, flash)} as counted."""
    print(f"Bytes to and from global memory, one head of width {D}, not causal, forward (counted = formula)")
    print("     T   naive, KiB   flash, KiB   naive / flash   one T x T matrix, KiB")
    counted = {}
    for T in (64, 128, 256, 512):
        naive, flash = traffic.count_naive(T, D), traffic.count_flash_forward(T, D)
        if naive != traffic.naive_forward_bytes(T, D) or flash != traffic.flash_forward_bytes(T, D):
            sys.exit(f"T={T}: counted {naive} and {flash} bytes, the formulas say otherwise: "
                     "was a kernel changed?")
        counted[T] = naive, flash
        print(traffic_row(T, naive, flash))
    for T in (4096, 131072):
        naive, flash = traffic.naive_forward_bytes(T, D), traffic.flash_forward_bytes(T, D)
        print(traffic_row(T, naive, flash), "  (formula)")
    return counted


def traffic_row(T: int, naive: int, flash: int) -> str:
    """One row of the table of bytes."""
    return f"{T:6} {naive / 1024:12.0f} {flash / 1024:12.0f} {naive / flash:15.2f} {4 * T * T / 1024:23.0f}"


def print_lines(title: str, cu: str, profile: dict) -> None:
    """Print each source line that touches memory, with the mean cost of one request of a warp."""
    text = (HERE / cu).read_text().splitlines()
    print(f"\n{title}\n{'line':>5}  {'memory':<13} {'requests':>8} {'each':>6} {'least':>6}   source")
    for (file, line, space, access), (requests, cost, least) in sorted(profile.items()):
        if file == Path(cu).name:
            mark = " <-- bank conflicts" if space == "shared" else " <-- scattered"
            costs = f"{requests:8} {cost / requests:6.2f} {least / requests:6.2f}"
            source = text[line - 1].strip()[:62] + (mark if cost > 1.5 * least else "")
            print(f"{line:5}  {space + ' ' + access:<13} {costs}   {source}")


def draw(counted: dict, figure: Path, D: int = 64) -> None:
    """Draw traffic against the rows of a tile (T = 256), and against the length."""
    from figures import plt, save_png

    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    tiles = (8, 16, 32, 64)
    flash = [traffic.count_flash_forward(256, D, tile) / 1024 for tile in tiles]
    left.plot(tiles, flash, "ko-", label="flash")
    left.axhline(counted[256][0] / 1024, color="k", linestyle="--", label="naive (tiles of 32)")
    left.set(xscale="log", xticks=tiles, xticklabels=tiles, xlabel="rows of Q in a tile (T = 256)",
             ylim=(0, None), ylabel="global memory traffic, KiB")
    left.minorticks_off()
    lengths = list(counted)
    right.plot(lengths, [n / 1024 for n, _ in counted.values()], "ks--", label="naive")
    right.plot(lengths, [f / 1024 for _, f in counted.values()], "ko-", label="flash (tiles of 64)")
    right.set(xscale="log", yscale="log", xticks=lengths, xticklabels=lengths, xlabel="length T",
              ylabel="global memory traffic, KiB")
    right.minorticks_off()
    for axis in (left, right):
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    fig.suptitle(f"Bytes between the kernel and global memory, one head of width {D}")
    save_png(fig, figure)
    print(f"\ndrew {figure}")


def print_times() -> None:
    """CPU seconds of one call at B=2, H=4, T=256, D=64, not causal, after the libraries are built."""
    q, k, v, d_o = (torch.randn(2, 4, 256, 64, generator=torch.Generator().manual_seed(i)) for i in range(4))
    print("CPU seconds at B=2 H=4 T=256 D=64, not causal\n mode     forward   backward")
    for mode in ("fast", "check"):
        lib = kernels.load("flash_attention.cu", mode, ("-DHEAD_WIDTH=64",))
        kernels.flash_forward(lib, q[:1], k[:1], v[:1], False)
        start = time.process_time()
        o, lse = kernels.flash_forward(lib, q, k, v, False)
        middle = time.process_time()
        kernels.flash_backward(lib, q, k, v, o, lse, d_o, False)
        print(f" {mode:6} {middle - start:9.3f} {time.process_time() - middle:10.3f}")


def main() -> None:
    """Count, print, draw; or, with --time, time."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--time", action="store_true", help="print CPU seconds instead")
    parser.add_argument("--figure", type=Path, default=HERE.parent / "out/kernels/traffic.png",
                        help="where to draw")
    args = parser.parse_args()
    reason = kernels.why_not()
    if reason:
        sys.exit(reason)
    if args.time:
        return print_times()
    counted = print_traffic()
    lib, (q, k, v, _) = traffic.flash_library(64), traffic.inputs(256, 64)
    kernels.flash_forward(lib, q, k, v, False, profile=True)
    title = "Forward kernel, one block, T = 256: cost of a warp's request, in bank passes or 32-byte sectors"
    print_lines(title, "flash_attention.cu", lib.profile())
    for pad in (1, 0):
        flags = (f"-DPAD={pad}",)
        transpose(torch.randn(64, 64), "check", flags, profile=True)
        table = ladder("transpose", "check", flags).profile()
        print_lines(f"Transpose with PAD = {pad}", "ladder/transpose.cu", table)
    draw(counted, args.figure)


if __name__ == "__main__":
    main()
