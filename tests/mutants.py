"""All wrong answers: the lists MUTANTS of tests/mutants_NN.py, collected for `python learn.py prove`.

One entry is (exercise id, what is wrong, right fragment, wrong fragment). The right fragment occurs exactly
once in the exercise's body; the mutant is the body with the wrong fragment in its place.
"""

import importlib.util
from pathlib import Path

MUTANTS: list[tuple[str, str, str, str]] = []
for _file in sorted(Path(__file__).parent.glob("mutants_*.py")):
    _spec = importlib.util.spec_from_file_location(_file.stem, _file)
    _bank = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_bank)
    MUTANTS += _bank.MUTANTS
