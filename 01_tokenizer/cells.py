"""The bookkeeping of a long experiment: each cell of a table is computed once and kept on disk.

Adds to workbench.py a cache keyed by what a result depends on: its settings and the code that makes it. An
experiment that was interrupted continues, a repeated one is free, and a change of the code computes again
what it touches.

    make study         runs the experiments that lessons quote; each keeps its cells in out/study/
"""
import ast
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from workbench import read_json, write_json


def code_of(module: ModuleType) -> str:
    """The syntax tree of a module without comments and docstrings: explaining it better is no other code."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body:
            continue
        if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            del body[0]
    return ast.dump(tree)


def cell_key(cell: dict, modules: list[ModuleType]) -> str:
    """The name under which a cell's result is kept: it changes with any setting and with the code."""
    text = json.dumps([cell, [code_of(m) for m in modules], torch.__version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class Cells:
    """The cells of one experiment in `folder`. `modules` are those whose change makes all of them new."""

    def __init__(self, folder: Path | str, modules: list[ModuleType]):
        self.folder, self.modules = Path(folder), modules

    def get(self, cell: dict, make: Callable[[], dict]) -> dict:
        """The result of `make()`, a dictionary that JSON can hold, computed unless it is on disk already.

        `cell` holds everything the result depends on besides the code: sizes, rates, seed, its data's hash.
        """
        path = self.folder / f"{cell_key(cell, self.modules)}.json"
        if not path.exists():
            write_json(path, {"cell": cell, "result": make()})
        return read_json(path)["result"]
