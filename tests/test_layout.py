"""The shape of the repository: what may import what, names, the map in each lesson."""
import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from commands import command

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted(p.name for p in ROOT.glob("0[1-8]_*") if p.is_dir())
# csrc counts as part of chapter 4.
MODULES = sorted(p for folder in [*CHAPTERS, "csrc"] for p in (ROOT / folder).glob("*.py") if p.stem != "run")
RIVALS = {"datasketch", "tokenizers", "tiktoken", "sentencepiece", "transformers"}
SCRIPTS = sorted(ROOT.glob("0[1-8]_*/run.py"))


def chapter_number(path: Path) -> int:
    return 4 if path.parent.name == "csrc" else int(path.parent.name[:2])


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_no_module_imports_from_a_later_chapter(path):
    home = {m.stem: m for m in MODULES}
    late = [name for name in imported_names(path)
            if name in home and chapter_number(home[name]) > chapter_number(path)]
    assert not late, f"{path.relative_to(ROOT)} imports {late} from a later chapter"


def test_no_test_of_a_chapter_needs_a_file_of_a_later_one():
    """A release without the later chapters keeps these tests, and they must pass there."""
    for path in sorted((ROOT / "tests").glob("test_*0[1-8]*.py")):
        number = int(re.search(r"0[1-8]", path.name)[0])
        late = [c for c in CHAPTERS if int(c[:2]) > number and f"{c}/" in path.read_text(encoding="utf-8")]
        assert not late, f"{path.name} names files of {late}"


def test_module_names_are_unique():
    names = [m.stem for m in MODULES]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)


def test_module_names_shadow_no_other_module():
    installed = {name for name, owners in importlib.metadata.packages_distributions().items()
                 if "five-pillars" not in owners}
    taken = set(sys.stdlib_module_names) | installed
    assert not [m.stem for m in MODULES if m.stem in taken]


def test_only_the_five_packages_are_imported():
    allowed = set(sys.stdlib_module_names) | {"numpy", "torch", "regex", "matplotlib", "pytest"}
    allowed |= {m.stem for m in MODULES}
    for path in MODULES + SCRIPTS:
        rivals = RIVALS if path.name.startswith("bench_") else set()   # it runs what it compares with
        foreign = imported_names(path) - allowed - rivals
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_no_module_is_longer_than_300_lines_and_each_says_what_it_is():
    for path in MODULES + SCRIPTS:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 300, f"{path.relative_to(ROOT)} has {text.count(chr(10))} lines"
        assert ast.get_docstring(ast.parse(text)), f"{path.relative_to(ROOT)} has no docstring"


def test_no_line_of_code_is_wider_than_110_columns():
    """Counted in characters, in all folders and in the tests too; `ruff check` counts the same."""
    folders = (".", *CHAPTERS, "csrc", "tools", "tests", "tests/answers", "tests/peers", "tests/slow")
    files = [p for folder in folders for p in (ROOT / folder).glob("*.py")]
    wide = [f"{p.relative_to(ROOT)}:{i}" for p in files
            for i, line in enumerate(p.read_text(encoding="utf-8").splitlines(), 1) if len(line) > 110]
    assert not wide, wide


RUFF = Path(sys.executable).with_name("ruff")


@pytest.mark.skipif(not RUFF.exists(), reason="ruff is not installed here: make style installs it")
@pytest.mark.skipif(not (ROOT / "tests/mutants.py").exists(), reason="a student's copy has its own manner")
def test_ruff_finds_nothing():
    if any('raise NotImplementedError("exercise ' in p.read_text(encoding="utf-8") for p in MODULES):
        pytest.skip("what a blank body imported waits for its new one")
    done = subprocess.run([RUFF, "check", "--no-cache", "-q", ROOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("folder", [*CHAPTERS, "csrc"])
def test_each_lesson_ends_in_a_line_for_each_of_its_files(folder):
    lesson = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    files = lesson[lesson.index("\n## Files\n"):]
    mapped = re.findall(r"^- .*", files, re.MULTILINE)
    named = {name for line in mapped for name in re.findall(r"`([\w/]+\.py)`", line)}
    actual = {p.name for p in MODULES + SCRIPTS if p.parent.name == folder}
    missing, extra = sorted(actual - named), sorted(named - actual)
    assert named == actual, f"not in the lesson: {missing}; not in the tree: {extra}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.parent.name)
def test_every_chapter_explains_its_options(path):
    """The last one in a fresh Python, which imports nearly everything."""
    done = command(path, "--help") if path != SCRIPTS[-1] else \
        subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    for flag in ("--quick", "--seed", "--out"):
        assert flag in text
    undocumented = re.findall(r"^  (--[\w-]+)(?: [A-Z]+)?\s*$(?!\n {20})", text, re.MULTILINE)
    assert not undocumented, f"no comment on the field behind {undocumented}"


def test_every_command_says_what_to_do_in_a_python_without_the_packages():
    """`-S` hides what is installed, as the system's own Python does: one sentence, not a missing module."""
    marks = ("\n    run_main(main)", "argparse.ArgumentParser(description=__doc__")
    commands = [p for p in MODULES + SCRIPTS if any(mark in p.read_text(encoding="utf-8") for mark in marks)]
    for path in commands:
        done = subprocess.run([sys.executable, "-S", path, "--help"], capture_output=True, text=True)
        said = done.stderr
        assert said.startswith("error: ") and "`source .venv/bin/activate`" in said, (path, said)
        assert said.count("\n") == 1


def test_no_chapter_makes_float64_of_what_may_be_on_a_device_that_has_none():
    """mps knows no float64. Tables of the CPU may be wide; what a model gives goes through workbench.wide."""
    for path in MODULES + SCRIPTS:
        if chapter_number(path) in (2, 3, 7, 8):
            wide = re.findall(r"\w+\.double\(\)", path.read_text(encoding="utf-8"))
            assert not wide, f"{path.name} has {wide}: take workbench.wide"


def test_processes_start_from_one_place():
    """A pool that forks a process which has trained fails where there is a GPU: workbench and ranks know how
    not to.
    """
    for path in MODULES + SCRIPTS:
        if path.name not in ("workbench.py", "ranks.py"):
            text = path.read_text(encoding="utf-8")
            words = ("ProcessPoolExecutor(", "multiprocessing.Pool(", "multiprocessing.Process(", "os.fork(")
            found = [word for word in words if word in text]
            assert not found, f"{path.name} uses {found}: take workbench.process_pool"


@pytest.mark.skipif(len(CHAPTERS) < 8, reason="a release has a part of what the pages link to")
def test_every_relative_link_of_a_page_leads_somewhere():
    pages = [p for p in [*ROOT.glob("*.md"), *ROOT.glob("0*/*.md"), *ROOT.glob("csrc/*.md")]]
    assert len(pages) > 20
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http://", "https://", "mailto:")):
                there = (page.parent / target).exists()
                assert there, f"{page.relative_to(ROOT)} links to {target}, which is not there"
