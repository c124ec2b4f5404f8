"""Each command that a page or a module's first lines show can be typed: its file, options, goals exist."""
import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("0*", "csrc", "tools")
PAGES = [p for pattern in ("*.md", "0*/*.md", "csrc/*.md") for p in sorted(ROOT.glob(pattern))]
MODULES = [p for folder in FOLDERS for p in sorted(ROOT.glob(f"{folder}/*.py"))]
WHOLE = len(list(ROOT.glob("0*_*"))) == 8 and (ROOT / "TEACHING.md").exists()
pytestmark = pytest.mark.skipif(not WHOLE, reason="a release has a part of what its pages name")
COMMANDS = re.compile(r"(?:python3?(?: -m pytest)?|torchrun(?: --[\w-]+ [\w.]+)*) ([\w./-]+\.py)"
                      r"((?: +(?!\()[\w./=:,\"'<>$-]+)*)")


def shown(path: Path) -> str:
    """What a reader may type: the code of a page (blocks and spans), or a module's docstring."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text), clean=False) or ""   # clean would dedent a lone command
        blocks = [line for line in text.splitlines() if line.startswith("    ")]
    else:
        blocks = re.findall(r"```[^\n]*\n(.*?)```", text, re.DOTALL)
    spans = re.findall(r"(?<!`)`([^`\n]+)`", text)
    return "\n".join(blocks + spans)


@functools.cache
def options(script: Path) -> set[str]:
    """The options that a script may take: fields of its dataclasses, and what it gives to argparse."""
    sources = [script, ROOT / "01_tokenizer" / "settings.py"]
    if script.name == "learn.py":
        sources += sorted(ROOT.glob("tools/*.py"))
    found = {"--help"}
    for source in sources:
        tree = ast.parse(source.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                fields = [f.target.id for f in node.body if isinstance(f, ast.AnnAssign)]
                found |= {"--" + field.replace("_", "-") for field in fields}
            elif isinstance(node, ast.Constant) and str(node.value).startswith("--"):
                found.add(node.value)
    return found


@pytest.mark.parametrize("page", PAGES + MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_python_command_names_a_file_and_options_that_exist(page):
    for name, words in COMMANDS.findall(shown(page)):
        script = ROOT / name
        assert script.is_file(), f"{page.name} shows `python {name}`, which is not there"
        asked = {word.split("=")[0].rstrip(",") for word in words.split() if word.startswith("--")}
        assert asked <= options(script), f"{page.name}: {name} knows no {sorted(asked - options(script))}"


def test_the_commands_of_a_docstring_are_seen_alone_and_between_back_quotes(tmp_path):
    module = tmp_path / "module.py"
    module.write_text('"""What it adds.\n\n    torchrun --nproc-per-node 2 a.py --x 1\n"""\n')
    assert COMMANDS.findall(shown(module)) == [("a.py", " --x 1")]
    module.write_text('"""What it adds: `python b.py exam`.\n\n    python -m pytest tests/c.py\n"""\n')
    assert COMMANDS.findall(shown(module)) == [("tests/c.py", ""), ("b.py", " exam")]


def test_every_make_command_names_a_goal_and_variables_that_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    goals = {g for line in re.findall(r"^([a-z0-9 ]+):(?!=)", makefile, re.MULTILINE) for g in line.split()}
    variables = set(re.findall(r"^([A-Z]+) *:=", makefile, re.MULTILINE))
    seen = 0
    for page in PAGES + MODULES:
        if page.name != "EXERCISES.md":   # its hints say "make a set", "make an array"
            lines = [line.strip().removeprefix("$ ") for line in shown(page).splitlines()]
            for line in lines:
                typed = re.match(r"make((?: (?:[a-z0-9]+\b(?!-)|[A-Z]+=\S+))*)", line)
                for word in typed[1].split() if typed else []:
                    seen += 1
                    known = variables if "=" in word else goals
                    assert word.split("=")[0] in known, f"{page.name}: make has no {word}"
    assert seen > 30
