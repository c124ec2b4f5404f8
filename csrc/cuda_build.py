"""Compiles one .cu file: with nvcc for a GPU, or with g++ or clang++ against emulator/ for the CPU.

Three things stand between CUDA and C++ for the CPU: the launch k<<<grid, block>>>(args), which is rewritten
here; the header cuda_runtime.h, which emulator/ replaces; and the keywords, which that header defines.
Everything else in a kernel is C++ already. Modes of the CPU build: "fast"; "check", every memory access
reported to the checker; "debug", unoptimised for gdb. Libraries are kept in out/kernels, named by what they
were made from. Used by cuda_library.py; to see the commands it runs: FIVE_PILLARS_VERBOSE=1 python
csrc/kernel_check.py vector_add
"""

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
EMULATOR = HERE / "emulator"
CACHE = HERE.parent / "out" / "kernels"
GAP = 256  # unused bytes after each __shared__ array in check mode: running over its end meets no neighbour
MODES = {
    "fast": ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"],
    # -gdwarf-4: addr2line does not follow clang's DWARF 5 into inlined functions. -fno-tree-sra: else g++
    # splits a uint4 into four requests of one word before the checker sees it.
    "check": ["-O1", "-gdwarf-4", "-fno-tree-sra", "-fsanitize=thread", "-ftrivial-auto-var-init=pattern"],
    "debug": ["-O0", "-g"],
}
UNCHECKED = ["fibers", "scheduler", "barriers", "tensor_core", "unchecked"]
CHECKED = [*UNCHECKED[:-1], "checker", "reports", "counters", "sanitizer_hooks"]
REFUSED = {
    r"\basm\s*(volatile)?\s*\(":
        "the emulator does not read PTX assembly: use the functions of flash/tensor_core.cuh, or a GPU",
    r"extern\s+__shared__[^;]*?\b(?!smem\b)\w+\s*\[\s*\]":
        "the emulator knows one name for dynamic shared memory: write `extern __shared__ float smem[];`",
}
FOR_GPUS = re.compile(r"#ifdef __CUDA_EMULATOR__.*?#else.*?#endif", re.S)  # what the emulator never sees


SHARED_BY_NVCC = ["-shared", "-Xcompiler", "-fPIC"]


class BuildError(ValueError):
    """The source does not compile; the message is the compiler's first error."""


def cpu_compiler() -> str | None:
    """Path of the C++ compiler for the emulation: $CXX, else g++, else clang++; None if there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    return next((path for path in map(shutil.which, names) if path), None)


def no_compiler() -> str:
    """Why cpu_compiler() finds none, and what helps: one sentence."""
    if os.environ.get("CXX"):
        return (f"CXX is {os.environ['CXX']!r}, and no such program is here: unset it, or give the name of "
                "a C++ compiler alone (EMU_FLAGS takes options)")
    return "no C++ compiler found: install g++ or clang++, or set CXX"


def load(library: Path) -> ctypes.CDLL:
    """Open a library. BuildError, after which it is made anew: a C compiler linked it, or another machine."""
    try:
        return ctypes.CDLL(str(library))
    except OSError as problem:
        library.unlink(missing_ok=True)
        why = str(problem).replace(f"{library}: ", "")
        raise BuildError(f"{library.name} cannot be loaded ({why}): run this again, and if CXX is set let it "
                         "name a C++ compiler, as g++") from None


def rewrite_launches(source: str) -> str:
    """Replace k<<<grid, block>>>(args) by emu::launch("k", k, grid, block)(args); line numbers stay."""
    return re.sub(r"(\w+)(<[^<>;]*>)?<<<(.*?)>>>", r'emu::launch("\1\2", \1\2, \3)', source, flags=re.S)


def headers(cu: Path, flags: tuple) -> str:
    """The text of the headers that `cu` includes with quotes, and of those that they include.

    They are looked for beside it and in the folders that flags name with -I.
    """
    folders = [cu.parent, *(Path(flag[2:]) for flag in flags if flag.startswith("-I"))]
    seen, todo = [], [cu]
    while todo:
        names = re.findall(r'^\s*#include\s+"([^"]+)"', todo.pop().read_text(), flags=re.M)
        paths = [folder / name for name in names for folder in folders]
        new = [path for path in dict.fromkeys(paths) if path.exists() and path not in seen]
        seen, todo = seen + new, todo + new
    return "".join(path.read_text() for path in seen)


def refuse(source: str) -> None:
    """Raise BuildError, one sentence, for what the compiler would explain badly."""
    code = FOR_GPUS.sub("", re.sub(r"//[^\n]*", "", source))
    for pattern, sentence in REFUSED.items():
        if re.search(pattern, code):
            raise BuildError(sentence)


def prepare_for_checks(assembly: str) -> str:
    """Leave GAP bytes unused after each __shared__ array (it is in thread-local storage); call our memcpy."""
    out, in_storage = [], False
    for line in assembly.split("\n"):
        if re.match(r"\s*\.(section|text|data|bss|pushsection|popsection)", line):
            in_storage = ".tbss" in line
        space = re.match(r"(\s*\.(?:zero|skip)\s+)(\d+)", line) if in_storage else None
        line = re.sub(r"\b(?:__tsan_)?(?:memcpy|memmove)(@PLT)?$", r"emu_memcpy\1", line)
        line = re.sub(r"\b(?:__tsan_)?memset(@PLT)?$", r"emu_memset\1", line)
        out.append(f"{space[1]}{int(space[2]) + GAP}" if space else line)
    return "\n".join(out)


def run(command: list) -> None:
    """Run a compiler; its last word is the file to make. BuildError: its first error line, or no file."""
    if os.environ.get("FIVE_PILLARS_VERBOSE"):
        print(" ".join(map(str, command)), file=sys.stderr)
    done = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        lines = done.stderr.splitlines() + done.stdout.splitlines()
        error = next((line for line in lines if "error:" in line), lines[-1] if lines else "no message")
        raise BuildError(error.replace(f"{HERE}/", ""))
    if not Path(command[-1]).exists():
        raise BuildError(f"{command[0]} ended well but made no {Path(command[-1]).name}: is it a compiler? "
                         "Let CXX name one, as g++")


@functools.cache
def accepts(compiler: str, flag: str) -> bool:
    """Does this compiler know this flag?"""
    command = [compiler, flag, "-Werror", "-x", "c++", "-E", os.devnull, "-o", os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


def short_hash(parts: list[str]) -> str:
    """16 hexadecimal digits that stand for these texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@functools.cache
def emulator_key(compiler: str) -> str:
    """What the emulator and the compiler are, as text."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    files = sorted(EMULATOR.iterdir()) + [Path(__file__)]
    return version + "".join(path.read_text() for path in files)


def build(cu: Path, mode: str = "fast", flags: tuple = (), arch: str = "sm_80") -> Path:
    """Compile `cu` unless a library of the same source, flags, mode and compiler exists; return its path.

    mode: "fast", "check", "debug" (CPU) or "gpu". Raises BuildError (a ValueError) with one sentence or the
    compiler's first error.
    """
    compiler = shutil.which("nvcc") if mode == "gpu" else cpu_compiler()
    if compiler is None:
        raise BuildError("no nvcc found: install the CUDA toolkit" if mode == "gpu" else
                         no_compiler())
    source, included = Path(cu).read_text(), headers(Path(cu), flags)
    extra = os.environ.get("EMU_FLAGS", "").split()
    parts = [source, included, mode, *flags, *extra, arch, compiler, emulator_key(compiler)]
    library = CACHE / f"{Path(cu).stem}-{mode}-{short_hash(parts)}.so"
    if not library.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            made = Path(folder) / "library.so"
            if mode == "gpu":
                run([compiler, "-std=c++17", "-O3", f"-arch={arch}", *SHARED_BY_NVCC, *flags, cu, "-o", made])
            else:
                refuse(source + included)
                compile_for_cpu(compiler, Path(cu), source, mode, [*flags, *extra], Path(folder), made)
            made.replace(library)  # whole or not at all, also when two processes build the same
    return library


def build_host(cpp: Path) -> Path:
    """Compile a .cpp file of plain C++ into a library, kept like those of kernels; return its path.

    Without -march=native: the library may be used on another processor than the one it was made on. Raises
    BuildError, one sentence.
    """
    compiler = cpu_compiler()
    if compiler is None:
        raise BuildError(no_compiler())
    key = short_hash([cpp.read_text(), compiler, platform.machine(), emulator_key(compiler)])
    library = CACHE / f"{cpp.stem}-{key}.so"
    if not library.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            made = Path(folder) / "library.so"
            run([compiler, "-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-w", cpp, "-o", made])
            made.replace(library)
    return library


def compile_for_cpu(compiler: str, cu: Path, source: str, mode: str, flags: list, folder: Path,
                    made: Path) -> None:
    """Rewrite the launches, compile the kernels (instrumented in check mode), link them with the emulator."""
    if mode == "check" and not sys.platform.startswith("linux"):
        raise BuildError("check mode reads Linux's ELF format: on macOS use mode 'fast', or run Linux in a "
                         "container")
    clang = "clang" in compiler or "clang" in emulator_key(compiler)[:200]
    wanted = [*MODES[mode]]
    if mode == "check":
        wanted += ["-fsanitize=array-bounds,alignment" if clang else "-fsanitize=bounds,alignment"]
    if clang and mode == "check":  # else clang skips the read in x += 1, because the write is seen anyway
        wanted += ["-mllvm", "-tsan-instrument-read-before-write"]
    wanted = [flag for flag in wanted if not flag.startswith("-f") or accepts(compiler, flag)]
    text = f'#line 1 "{cu.resolve()}"\n' + rewrite_launches(source)
    (folder / cu.name).write_text(text)
    # A kernel reads two bf16 as one uint32_t, as nvcc lets it: no aliasing by type.
    common = [compiler, "-std=c++17", "-fPIC", "-w", "-fno-strict-aliasing"]
    common += [f"-I{EMULATOR}", f"-I{cu.resolve().parent}"] + ([] if clang else ["-fno-gnu-unique"])
    assembly = folder / "kernels.s"
    run([*common, *wanted, *flags, "-x", "c++", "-S", folder / cu.name, "-o", assembly])
    if mode == "check":
        assembly.write_text(prepare_for_checks(assembly.read_text(encoding="latin-1")), encoding="latin-1")
    own = emulator_object(compiler, mode == "check", [f for f in flags if f.startswith("-DEMU_")])
    # each library uses its own copy of the emulator
    bind = [] if sys.platform == "darwin" else ["-Wl,-Bsymbolic"]
    run([*common, "-shared", *bind, assembly, own, "-o", made])


def emulator_object(compiler: str, checked: bool, flags: list) -> Path:
    """The emulator itself, compiled once per compiler, with the checker or without; never instrumented."""
    key = short_hash([str(checked), compiler, *flags, emulator_key(compiler)])
    made = CACHE / f"emulator-{'checked' if checked else 'fast'}-{key}.o"
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            whole, compiled = Path(folder) / "emulator.cpp", Path(folder) / "emulator.o"
            names = CHECKED if checked else UNCHECKED
            whole.write_text("".join(f'#include "{EMULATOR / name}.cpp"\n' for name in names))
            run([compiler, "-std=c++17", "-fPIC", "-O2", "-g", "-w", *flags, "-c", whole, "-o", compiled])
            compiled.replace(made)
    return made
