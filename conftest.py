"""Seeds for every test, and a clear word from tests that meet an exercise which is still blank.

Every test starts from seed 0 of `random`, numpy and torch; one that makes its own generator takes the fixture
`seed`. `LEARN_SEEDS=0,1,2` runs the tests of the exercises once for each (`python learn.py prove` gives 20).
"""

import gc
import os
import random
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):   # in a hook of git: tests have repositories too
    os.environ.pop(name, None)
SEEDS = [int(s) for s in os.environ.get("LEARN_SEEDS", "0").split(",")]


def pytest_collection_finish():
    """Keep all that was imported out of the garbage collector's sight: walking through torch again and again
    made it take 1.7 times as long to parse the standard library (tests/test_01_corpus.py)."""
    gc.freeze()


def pytest_generate_tests(metafunc):
    """Repeat an exercise's tests over SEEDS, unless the test chooses its own seeds."""
    own = any("seed" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if len(SEEDS) > 1 and not own and metafunc.definition.get_closest_marker("ex"):
        metafunc.parametrize("seed", SEEDS, indirect=True)


@pytest.fixture
def seed(request) -> int:
    """The number that seeds this test."""
    return getattr(request, "param", SEEDS[0])


@pytest.fixture(autouse=True)
def seeded(seed):
    """Seed every generator that this test could use."""
    random.seed(seed)
    for name, sow in (("numpy", lambda m: m.random.seed(seed)), ("torch", lambda m: m.manual_seed(seed))):
        if name in sys.modules:
            sow(sys.modules[name])


def chain(error: BaseException | None):
    """An error and those it was raised from: of a blank, pytest.warns says only that nothing warned."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """In a learner's tree only: skip a test that runs into a blank exercise, itself or in a process."""
    report = (yield).get_result()
    learning = (ROOT / ".learn").exists() or (ROOT / "release.json").exists()
    said = "\n".join(map(str, chain(call.excinfo.value))) if call.excinfo else ""
    blank = re.search(r"exercise (?:\d+|c)\.\d+: [\w ,-]*", said)
    if learning and blank and isinstance(call.excinfo.value,
                                         (RuntimeError, AssertionError, pytest.fail.Exception)):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1] or 0, f"Skipped: {blank[0]} is still blank")
