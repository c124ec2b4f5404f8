"""Repositories with a bug: the form of SWE-bench, and its grade.

An instance has files, a problem in words, and tests that the solver does not see (`test_patch`). A patch
resolves it if the tests that failed because of the bug pass (FAIL_TO_PASS) and those that passed still do
(PASS_TO_PASS): Jimenez et al. 2024, section 2. The repository's code runs in chapter 6's sandbox, the tests
out here, so that a patch cannot pass by leaving early or by changing the tests: a solver's changes to tests
are overwritten, as there.

    python 07_alignment/code_tasks.py      grades the reference patches (all resolved) and empty ones (none)
"""
import argparse
import builtins
import importlib.util
import json
import unittest
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

try:
    from workbench import run_main
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
from sandbox import Failed, Limits, Sandbox
from unified_diff import DoesNotApply, apply_patch

TASKS = Path(__file__).parent / "sets" / "small_repositories.jsonl"
LIMITS = Limits(cpu_seconds=2, wall_seconds=4.0)
IMPORTS = '''
import importlib, importlib.abc, importlib.util, sys
class _Repository(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        base = name.replace(".", "/")
        for file in (base + ".py", base + "/__init__.py"):
            if file in FILES:
                package = file.endswith("__init__.py")
                return importlib.util.spec_from_loader(name, self, origin=file, is_package=package)
        if any(file.startswith(base + "/") for file in FILES):
            return importlib.util.spec_from_loader(name, self, origin="", is_package=True)
    def exec_module(self, module):
        exec(compile(FILES.get(module.__spec__.origin, ""), module.__spec__.origin, "exec"), module.__dict__)
sys.meta_path.insert(0, _Repository())
_module = importlib.import_module
'''


@dataclass(frozen=True)
class Instance:
    """One task, with SWE-bench's names; `files` {path: text} stands in for a repository at a commit."""
    instance_id: str
    problem_statement: str
    patch: str
    test_patch: str
    FAIL_TO_PASS: list[str]
    PASS_TO_PASS: list[str]
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Grade:
    """Whether a patch resolves its instance; `failed` {test: reason} should pass and do not."""
    resolved: bool
    applied: bool
    failed: dict[str, str]


def load_instances(path: Path | str) -> list[Instance]:
    """Read a JSONL file in SWE-bench's form.

    The lists of tests may be JSON in a string, as the published set has them.

    ValueError names the line and what is wrong with it.
    """
    found = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            tests: dict[str, Any] = {k: json.loads(row[k]) if isinstance(row[k], str) else list(row[k])
                     for k in ("FAIL_TO_PASS", "PASS_TO_PASS")}
            if not all(isinstance(t, list) and all(isinstance(x, str) for x in t) for t in tests.values()):
                raise TypeError("its tests are no lists of names")
            text: dict[str, Any] = {k: str(row[k] or "") for k in ("instance_id", "problem_statement",
                                                                   "patch", "test_patch")}
            found.append(Instance(**text, **tests, files=dict(row.get("files") or {})))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number} is no instance of SWE-bench's form "
                             f"({error!r})") from None
    return found


def resolved(passed: dict[str, bool], fail_to_pass: list[str], pass_to_pass: list[str]) -> bool:
    """All of both lists pass; what was not run has not. ValueError if nothing had to be mended."""
    # EXERCISE 7.15 the grade of a patch
    if not fail_to_pass:
        raise ValueError("no test fails before the patch: any patch would do")
    return all(passed.get(test, False) for test in [*fail_to_pass, *pass_to_pass])
    # END EXERCISE 7.15


def grade(instance: Instance, patch: str) -> Grade:
    """Apply the patch, put the hidden tests over it, run what the lists name."""
    wanted = [*instance.FAIL_TO_PASS, *instance.PASS_TO_PASS]
    try:
        tests = apply_patch(instance.files, instance.test_patch) if instance.test_patch else instance.files
    except DoesNotApply as error:
        raise ValueError(f"the test_patch of {instance.instance_id} does not apply: {error}") from None
    try:
        files = apply_patch(instance.files, patch) if patch.strip() else instance.files
    except DoesNotApply as error:
        return Grade(False, False, {test: f"the patch does not apply: {error}" for test in wanted})
    files = {**{p: t for p, t in files.items() if not is_test(p)},
             **{p: t for p, t in tests.items() if is_test(p)}}
    given = top_names(instance.files) | top_names(tests)
    own = given | {name for name in top_names(files) if importlib.util.find_spec(name) is None}
    said = {test: run_test(files, test, own) for test in wanted}
    passed = {test: reason is None for test, reason in said.items()}
    return Grade(resolved(passed, instance.FAIL_TO_PASS, instance.PASS_TO_PASS), True,
                 {test: reason for test, reason in said.items() if reason is not None})


def is_test(path: str) -> bool:
    """Does this file hold tests, which are not the solver's to change?"""
    *folders, name = path.split("/")
    named = name.startswith("test_") or name.endswith("_test.py") or name == "conftest.py"
    return named or "test" in folders or "tests" in folders


def top_names(files: dict[str, str]) -> set[str]:
    """What can be imported from these files, without what is inside packages."""
    return {path.split("/")[0].removesuffix(".py") for path in files}


def run_test(files: dict[str, str], test: str, own: set[str]) -> str | None:
    """Run one test, "path::function" or "path::Class::method"; None if it passes, else the reason.

    The test's own code runs here; what it imports under one of the names `own` stays in the sandbox. A patch
    that adds a `math.py` or a `pytest.py` is not among them: the test would ask the solver whether two
    numbers are equal.
    """
    path, *names = test.split("::")
    if path not in files or len(names) not in (1, 2):
        return "there is no such test"
    program = f"FILES = {json.dumps(files)}\n" + IMPORTS
    space: dict = {"__name__": Path(path).stem}
    try:
        with Sandbox(program, LIMITS) as box:
            box.raise_as_in(space)
            space["__builtins__"] = {**vars(builtins),
                                     "__import__": importer(own, lambda name: box.call("_module", name))}
            # also under `python -O` a test is made of its asserts
            exec(compile(files[path], path, "exec", dont_inherit=True, optimize=0), space)
            found = space.get(names[0])
            if not callable(found) or names[1:] and not hasattr(found, names[1]):
                return "there is no such test"
            call(found, *names[1:])
    except KeyboardInterrupt:
        raise
    except Failed as failure:
        return str(failure)
    # pytest.fail and pytest.skip are no Exceptions, and a skipped test has not passed
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None


def call(found: Callable, method: str = "") -> None:
    """A function; or a method of a class, with what unittest and pytest do before and after it."""
    if not method:
        found()
    elif isinstance(found, type) and issubclass(found, unittest.TestCase):
        found(method).debug()
    else:
        it = found()
        getattr(it, "setup_method", lambda: None)()
        getattr(it, method)()


def importer(own: set[str], fetch: Callable[[str], object]) -> Callable:
    """An `__import__` for the test: the repository's modules come from the sandbox, all others from here."""
    def bring(name, globals=None, locals=None, fromlist=(), level=0):
        top = name.split(".")[0]
        if top not in own:
            return builtins.__import__(name, globals, locals, fromlist, level)
        module = fetch(name)
        return module if fromlist else fetch(top)
    return bring


def main() -> None:
    """Grade the reference patches, and no patch."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", default=str(TASKS),
                        help="instances in SWE-bench's form, one a line")
    rows = load_instances(parser.parse_args().file)
    for row in rows:
        if not row.files:
            raise ValueError(f"{row.instance_id} has no files, and no repository is fetched here: put them "
                             "into its field `files`, {path: text}")
        right, none = grade(row, row.patch), grade(row, "")
        print(f"  {row.instance_id:<28} reference {'resolved' if right.resolved else right.failed}   "
              f"no patch {'RESOLVED' if none.resolved else 'not resolved'}", flush=True)


if __name__ == "__main__":
    run_main(main)
