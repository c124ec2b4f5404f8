"""What a benchmark's tests find around them: what the prompt defines, and names that only the program has.

The official harnesses run prompt, program and tests as one file, so a test may use anything of the first two.
Here the tests run outside the sandbox, and each name is put where it belongs: what the prompt defines is
trusted and runs here, what only the program defines is asked for.

Source: https://github.com/openai/human-eval, `check_correctness`: what a test may count on.
Used by sandbox.py.
"""
import ast
import builtins
import contextlib
import re
import sys
from collections.abc import Iterator


def define(prompt: str, space: dict) -> None:
    """Run what a prompt defines before it breaks off: its helpers and imports.

    A prompt may end in a comment, a docstring, an import, or a head without a body, indented in any way.
    """
    indents = re.findall(r"(?m)^([ \t]+)\S", prompt)
    whole = [prompt] + [f"{prompt}\n{indent}pass\n" for indent in dict.fromkeys([*reversed(indents), "    "])]
    lines = prompt.splitlines()
    starts = [i for i, line in enumerate(lines) if line[:1].strip()]
    for source in [*whole, *("\n".join(lines[:i]) for i in reversed(starts))]:
        with contextlib.suppress(SyntaxError, ValueError):
            code = compile(source, "<prompt>", "exec")
            break
    else:
        return
    with contextlib.suppress(Exception):                     # a package that is not here is not inside either
        exec(code, space)


def unknown_names(test: str, space: dict) -> list[str]:
    """Names that a test uses and that neither it nor `space` nor Python defines: the program's."""
    used = [node for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Name)]
    given = {n.id for n in used if not isinstance(n.ctx, ast.Load)} | set(dir(builtins)) | set(space)
    return list(dict.fromkeys(n.id for n in used if n.id not in given))


@contextlib.contextmanager
def long_numbers(digits: int = 100_000) -> Iterator[None]:
    """Let tests write numbers of more than 4,300 digits, which Python refuses since 2022."""
    if not hasattr(sys, "set_int_max_str_digits"):
        yield
        return
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(max(digits, before) if before else 0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)
