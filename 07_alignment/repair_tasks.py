"""Repositories with a bug, in numbers, and their tests.

code_tasks.py reads instances in SWE-bench's form; here they are made, of two files each, from the functions
and mistakes of bug_templates.py. A mistake counts only if a test fails because of it. Which bugs a model is
shown, which it may only try, and which it never meets before the end is the caller's to split.

    python 07_alignment/repair_tasks.py    how many there are, and one of them
"""
import argparse
import functools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

try:
    from workbench import run_main
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
from agent_loop import Budget, Repository
from bug_templates import FUNCTIONS, STYLES, Function, called, mutations, own_texts, styled
from code_tasks import LIMITS, Instance
from sandbox import Failed, Sandbox
from unified_diff import make_patch


@dataclass(frozen=True)
class Bug:
    """A function's line (from 0), what stands there, and what kind of mistake that is."""
    function: str
    line: int
    text: str
    kind: str


@dataclass(frozen=True)
class Task:
    """A repository of two files; in one of them is the bug. `wrong` and `right` are that file's text."""
    bug: Bug
    other: str       # the function in the file beside it
    style: int

    @property
    def file(self) -> str:
        """The file with the bug."""
        return f"{self.bug.function}.py"

    @functools.cached_property
    def right(self) -> str:
        """The file as it should be."""
        return styled(FUNCTIONS[self.bug.function].source, self.style)

    @functools.cached_property
    def wrong(self) -> str:
        """The file as it is found."""
        lines = FUNCTIONS[self.bug.function].source.split("\n")
        lines[self.bug.line] = self.bug.text
        return styled("\n".join(lines), self.style)

    @property
    def files(self) -> dict[str, str]:
        """{path: text} as it is found."""
        return {self.file: self.wrong, f"{self.other}.py": styled(FUNCTIONS[self.other].source, self.style)}

    @property
    def issue(self) -> str:
        """What a user reports: the first test that fails."""
        return next(filter(None, failures(self.bug.function, self.wrong)))

    def place(self, budget: Budget = Budget()) -> Repository:
        """Where an agent works on it: it sees the tests up to the first that the bug fails, no more."""
        n = 1 + next(i for i, said in enumerate(failures(self.bug.function, self.wrong)) if said)

        def visible(files: dict[str, str]) -> str:
            said = [line for line in failures(self.bug.function, files[self.file])[:n] if line]
            return f"FAIL {said[0]}" if said else "PASS"
        return Repository(self.issue, self.files, visible, budget)

    def solved(self, place: Repository) -> bool:
        """Were these files submitted, and do all tests of both pass? SWE-bench's verdict, file by file."""
        return place.submitted and not any(any(failures(path.removesuffix(".py"), text))
                                           for path, text in place.files.items())

    def instance(self) -> Instance:
        """The same task in SWE-bench's form, for `grade`."""
        tests, names = {}, {}
        for name in (self.bug.function, self.other):
            f = FUNCTIONS[name]
            cases = [f"def test_{i}():\n    assert {called(f, args)} == {value!r}\n"
                     for i, (args, value) in enumerate(zip(f.calls, expected(name)))]
            path = f"tests/test_{name}.py"
            tests[path] = f"from {name} import {name}\n\n\n" + "\n\n".join(cases)
            names[name] = [f"{path}::test_{i}" for i in range(len(cases))]
        said = failures(self.bug.function, self.wrong)
        mine = names[self.bug.function]
        return Instance(f"{self.bug.function}-{self.bug.line}-{self.bug.kind.replace(' ', '-')}", self.issue,
                        make_patch(self.files, {**self.files, self.file: self.right}), make_patch({}, tests),
                        [t for t, s in zip(mine, said) if s],
                        [t for t, s in zip(mine, said) if not s] + names[self.other], self.files)


@functools.cache
def expected(name: str) -> list[object]:
    """What the right function gives. It is our own code and needs no sandbox."""
    space: dict = {}
    exec(FUNCTIONS[name].source, space)
    return [space[name](*args) for args in FUNCTIONS[name].calls]


def results(f: Function, ask: Callable[..., object]) -> list[str]:
    """What each test says when `ask(*args)` is the function: "" or how it fails."""
    said = []
    for args, want in zip(f.calls, expected(f.name)):
        try:
            got = ask(*args)
            said.append("" if got == want else f"{called(f, args)} is {got!r:.40}, not {want!r}")
        except Exception as error:
            kind = str(error).partition(":")[0] if isinstance(error, Failed) else type(error).__name__
            said.append(f"{called(f, args)} raises {kind:.40}")
    return said


@functools.cache
def failures(name: str, source: str) -> list[str]:
    """What each test says of a file with this function; in the sandbox, unless the text is our own."""
    f, space = FUNCTIONS[name], {}
    if source in own_texts(name):
        exec(source, space)
        return results(f, space[name])
    try:
        with Sandbox(source, LIMITS) as box:
            return results(f, lambda *args: box.call(name, *args))
    except Failed as failure:
        return [f"{name}.py stops with {str(failure).partition(':')[0]:.40}"] * len(f.calls)


@functools.cache
def all_bugs() -> tuple[Bug, ...]:
    """Every mutation that fails a test, once."""
    found = {}
    for name, f in FUNCTIONS.items():
        lines = f.source.split("\n")
        for i, text, kind in mutations(f.source):
            if any(failures(name, "\n".join([*lines[:i], text, *lines[i + 1:]]))):
                found.setdefault((name, i, text), Bug(name, i, text, kind))
    return tuple(found.values())


def make_task(bug: Bug, rng: random.Random) -> Task:
    """This bug beside some other function, in some style."""
    return Task(bug, rng.choice([name for name in FUNCTIONS if name != bug.function]),
                rng.randrange(len(STYLES)))


def main() -> None:
    """Count the bugs by kind, and show one task."""
    argparse.ArgumentParser(description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    kinds = Counter(bug.kind for bug in all_bugs())
    print(f"  {len(FUNCTIONS)} functions, {len(STYLES)} styles, {len(all_bugs())} bugs: "
          + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()))
    print(make_task(all_bugs()[7], random.Random(0)).instance().patch)


if __name__ == "__main__":
    run_main(main)
