"""Reading a submitted body before it runs: does it stay inside its function, does it reach for the checker?

Adds to learn_bodies.py: the first of `grade`'s two defences. A body runs in the same process as its tests, so
a word that reaches files, processes, the interpreter's frames or the checker's own functions is refused
unless the reference body uses it too. An answer needs none of them. The second defence is learn_guard.py.
"""

import ast
import re

from learn_bodies import find, graft

MODULES = set(
    """os sys builtins inspect gc ctypes subprocess importlib io pickle marshal socket threading shutil signal
multiprocessing pathlib tempfile traceback types code codeop pytest unittest conftest faulthandler mmap runpy
pkgutil platform
resource atexit warnings weakref dis ast linecache tokenize zipfile tarfile glob fileinput
asyncio cffi concurrent operator learn_worker learn_run learn_bodies learn_guard site sysconfig""".split()
)
NAMES = (
    set(
        """open eval exec compile globals locals vars setattr delattr getattr input breakpoint exit quit help
Path memoryview fromfile tofile memmap from_file DataSource genfromtxt loadtxt savetxt ctypeslib testing
load save cpp_extension f_back f_globals f_locals f_builtins tb_frame gi_frame cr_frame ag_frame
assert_close _testing hub attrgetter methodcaller make_dataclass load_library import_module""".split()
    )
    | MODULES
)
ORDINARY = set(
    "code types signal site help quit exit input vars compile eval resource platform dis warnings".split()
)
C_NAMES = re.compile(
    r"(?m)^\s*#(?!pragma unroll)|\b(asm|__asm\w*|system|popen|exec\w*|fork|vfork|clone|syscall|dlopen|"
    r"dlsym|fopen|open|ifstream|ofstream|fstream|socket|kill|ptrace|mmap|getenv|__attribute__|"
    r"constructor|exit|_exit|abort|longjmp|include|filesystem)\b"
)


class Strangers(ast.NodeVisitor):
    """Collects the words of a piece of Python through which it could reach past its own arithmetic."""

    def __init__(self):
        self.words = set()

    def visit_Name(self, node):
        """A bare name: the forbidden ones, and every double-underscore name."""
        if isinstance(node.ctx, ast.Load) and node.id in NAMES or node.id.startswith("__"):
            self.words.add(node.id)

    def visit_Attribute(self, node):
        """x.name: forbidden names, every double-underscore name, and assignment into a module."""
        if node.attr.lstrip("_") in NAMES - ORDINARY or node.attr.startswith("__"):
            self.words.add("." + node.attr)
        root = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if (
            isinstance(node.ctx, (ast.Store, ast.Del))
            and isinstance(root, ast.Name)
            and root.id in ("torch", "np", "numpy", "math", "random", "re", "regex", "F", "nn")
        ):
            self.words.add(f"{root.id}.{node.attr} =")
        self.generic_visit(node)

    def visit_Constant(self, node):
        """Text with a double underscore: an attribute's name in disguise."""
        if isinstance(node.value, str) and "__" in node.value:
            self.words.add(repr(node.value[:20]))

    def visit_ClassDef(self, node):
        """class: an answer that says it equals everything."""
        self.words.add("class")

    visit_MatchClass = visit_ClassDef

    def visit_Call(self, node):
        """type(name, bases, names): the same without the word."""
        if (
            isinstance(node.func, ast.Name)
            and node.func.id == "type"
            and len(node.args) + len(node.keywords) > 1
        ):
            self.words.add("type() of three arguments")
        self.generic_visit(node)

    def visit_Import(self, node):
        """import x: the standard numeric modules are fine, files and processes are not, nor are tests."""
        for name in [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or "."]:
            parts = set(name.split("."))
            if parts & NAMES or parts & {"", "_pytest"} or re.match(r"test_|mutants|_", name):
                self.words.add(f"import {name}")
        if any(a.name in NAMES or a.name == "*" for a in node.names):
            self.words.add(f"import {node.names[0].name}")

    visit_ImportFrom = visit_Import

    def visit_Global(self, node):
        """global x: a body has no business outside its function."""
        self.words.add(f"global {node.names[0]}")


def outside(tree: ast.AST, first: int, last: int) -> str:
    """A dump of everything but the statements inside functions within lines first..last."""

    class Cut(ast.NodeTransformer):
        def generic_visit(self, node):
            super().generic_visit(node)
            for field in ("body", "orelse", "finalbody"):
                block = getattr(node, field, None)
                if isinstance(block, list) and not isinstance(node, (ast.Module, ast.ClassDef)):
                    setattr(node, field, [s for s in block if not first <= s.lineno <= last])
            return node

    return ast.dump(Cut().visit(tree))


def words_of(text: str, id: str) -> set:
    """The risky words inside the body of exercise `id` in `text`."""
    spot = {e.id: e for e in find(text)}[id]
    first, last = spot.line + 1, spot.line + len(spot.body.splitlines())
    seen, own = Strangers(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt) and first <= node.lineno <= last:
            seen.visit(node)
            own |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return {word for word in seen.words if word not in own or word.startswith("__")}


def screen_c(exercise, body: str) -> str:
    """The same for a body of C++: words, preprocessor lines and braces."""
    allowed = {m[0].strip() for m in C_NAMES.finditer(exercise.body)}
    bad = sorted({m[0].strip() for m in C_NAMES.finditer(body)} - allowed)
    depth = 0
    code = re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'', "", body, flags=re.S)
    for brace in re.findall(r"[{}]", code):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return "the body closes a brace that it did not open, so it leaves its function"
    return f"the body uses {', '.join(bad)}, which no answer needs" if bad else ""


def screen(text: str, exercise, body: str) -> str:
    """Why `body` is refused as exercise in the reference file `text`: one sentence, or "" if it is not.

    Words that the reference body itself uses are allowed.
    """
    if len(body.encode()) > 20_000:
        return "the body is longer than 20,000 bytes"
    if any(marker in body for marker in (" EXERCISE ", "\0")):
        return "the body contains a marker line"
    if exercise.comment == "//":
        return screen_c(exercise, body)
    whole = graft(text, exercise.id, body)
    try:
        tree = ast.parse(whole)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        where = f"line {max(1, (getattr(problem, 'lineno', 0) or 0) - exercise.line)} of the body"
        return f"the body is not Python: {getattr(problem, 'msg', 'too complex')} ({where})"
    first, height, original = exercise.line + 1, len(body.splitlines()), len(exercise.body.splitlines())
    if outside(tree, first, first + height - 1) != outside(ast.parse(text), first, first + original - 1):
        return "the body leaves its function: indent every line as the marker is"
    bad = sorted(words_of(whole, exercise.id) - words_of(text, exercise.id))
    bad = [word for word in bad if f"import {word}" not in bad]
    return f"the body uses {', '.join(bad)}, which no answer needs" if bad else ""
