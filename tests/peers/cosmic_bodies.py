"""Mutate the bodies of the exercises with cosmic-ray's operators and count the mutants that the tests reject.

Adds to `learn.py prove`: those wrong answers were thought of, these were not. cosmic-ray makes the mutants;
the worker of learn_run.py runs the tests, because a fork costs a tenth of a second and a process with torch
seconds. A survivor is a hole in the tests, or another way to write the same: EQUIVALENT says why. cosmic-ray
knows no CUDA C++, so the kernels' bodies get the same kinds of changes by text.

    pip install cosmic-ray && python tests/peers/cosmic_bodies.py 3 7 c
"""

import re
import sys
import tempfile
from pathlib import Path

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from learn_bodies import course, find  # noqa: E402
from learn_run import Bench  # noqa: E402
from learn_trees import copy_tree  # noqa: E402

# Mutants that mean the same as the reference: (exercise, a piece of the mutated line that is new, why).
EQUIVALENT = [
    ("5.2", "tokens < unique", "both branches give as many tokens there"),
    ("5.9", "products != 0", "no pair has a negative product"),
    ("5.4", "n_symbols - np.roll", "windows have different codes also when digits are subtracted"),
    ("5.4", "/ n_symbols", "windows have different codes also when digits are behind the point"),
    ("5.4", "+offset)", "windows read backwards are as many of each"),
    ("5.4", "~offset)", "every window one place further around the circle"),
    ("5.4", " offset)", "windows read backwards are as many of each"),
    ("5.7", "table != 0", "a probability is never below 0"),
    ("5.7", "log_q, 1)", "it is multiplied by a probability of 0"),
    ("5.7", "log_q, -1)", "it is multiplied by a probability of 0"),
    ("5.7", "table, 2)", "it is multiplied by a probability of 0"),
    ("5.9", "r != 0", "r is never below 0"),
    ("5.9", "sum(+1)", "the last axis of (R, P) is axis 1"),
    ("5.9", "sum(1)", "the last axis of (R, P) is axis 1"),
    ("5.9", "-1.0), scale", "where the product is 0 the scale is kept"),
    ("5.8", "e - 0 * n", "zero times n either way"),
    ("5.6", "not log_size.min() <", "a fitted vertex never lies on the very end"),
    ("5.6", "middle < log_size", "a fitted vertex never lies on the very end"),
    ("5.6", "a >= 0", "a line's vertex is infinite either way"),
    ("c.4", "k0 <= k", "one tile of zeros more"),
    ("c.7", "row <= T", "Q and dO are zero there"),
    ("c.7", "col <= T", "K and V are zero there, and nothing is written"),
    ("c.5", "bit = 17", "17, 8, 4, 2 and 1 reach every lane as well"),
    ("c.6", "Bc * LANES", "an array larger than needed"),
    ("1.2", "while i !=", "i never passes the end"),
    ("1.2", "i + 1 !=", "i is below the length here"),
    ("1.6", "~counts", "~c is -c - 1: the same order"),
    ("1.6", "continue", "without pairs the other rounds do nothing"),
    ("1.8", "<= 0xC0", "no UTF-8 text has the byte C0"),
    ("1.8", "< 193", "no UTF-8 text has the byte C0"),
    ("1.8", "< 191", "bytes 80 to BF do not come here"),
    ("1.8", "[~3:]", "no character of four bytes is unfinished"),
    ("1.8", "[not 3:]", "no character of four bytes is unfinished"),
    ("1.8", "[- 4:]", "no character of four bytes is unfinished"),
    ("1.8", "length = 0", "the one byte is there"),
    ("1.8", "else 5", "it is compared with three at most"),
    ("2.4", "group <= 1", "a group is never smaller than 1"),
    ("2.7", "temperature <= 0", "a temperature is never below 0"),
    ("2.7", "argmax(+1", "the last axis of (B, V) is axis 1"),
    ("2.7", "argmax(1", "the last axis of (B, V) is axis 1"),
    ("2.10", ' is "', "the names are interned strings"),
    ("2.10", '<= "layer"', "the only other norm, rms, sorts after it"),
    ("2.10", '>= "swiglu"', "all other activations sort before it"),
    ("2.10", '>= "pre"', "the only other placement, post, sorts before it"),
    ("2.10", "2 * L |", "2 L is even, so adding one is setting the last bit"),
    ("2.10", "2 * L ^", "2 L is even, so adding one is flipping the last bit"),
    ("2.12", "T >= 1", "the mask of one newest query hides nothing"),
    ("2.12", "T > 0", "the mask of one newest query hides nothing"),
    ("2.12", "T != 1", "there is at least one query"),
    ("2.12", "shape[2]", "the last axis but one of four is axis 2"),
    ("2.12", "shape[+2]", "the last axis but one of four is axis 2"),
    ("2.12", "transpose(-1, 2)", "the last axis but one of four is axis 2"),
    ("2.12", "transpose(-1, +2)", "the last axis but one of four is axis 2"),
    ("2.13", ' is "', "the names are interned strings"),
    ("2.13", '<= "alibi"', "all other positions sort after it"),
    ("2.13", '>= "rope"', "all other positions sort before it"),
    ("3.3", "step <= n_warmup", "both branches give 1 at that step"),
    ("3.4", "norm >= max_norm", "at the limit the factor is 1"),
    ("3.5", "targets > IGNORE", "ids are never negative"),
    ("3.5", "logsumexp(+1", "the last axis of (N, V) is axis 1"),
    ("3.5", "logsumexp(1", "the last axis of (N, V) is axis 1"),
    ("3.5", "gather(+1", "the last axis of (N, V) is axis 1"),
    ("3.5", "gather(1", "the last axis of (N, V) is axis 1"),
    ("3.5", "[:, -1]", "the axis has length 1"),
    ("3.9", "scatter_add_(+1", "the last axis of (N, V) is axis 1"),
    ("3.9", "scatter_add_(1", "the last axis of (N, V) is axis 1"),
    ("3.9", "d[:, : 2]", "scatter_add_ reads as many columns as there are indices"),
    ("3.10", "targets > IGNORE", "ids are never negative"),
    ("3.11", "-2] >= G", "a square matrix may be transposed there and back"),
    ("4.1", "stage == 3", "there is no stage above 3"),
    ("4.3", "<= 0:", "no bucket misses less than nothing"),
    ("4.3", "!= len(self.buckets)", "no more is sent than there is"),
    ("4.3", "is not len(self.buckets)", "no more is sent than there is"),
    ("4.4", "if p <= 1", "a team has at least one rank"),
    ("4.4", "if p >= 1", "one copy more than needed"),
    ("4.5", "not ctx.cuda_random", "no CUDA here"),
    ("4.6", "S + T", "more tiles are computed than needed: the same result"),
    ("4.6", "S * T", "more tiles are computed than needed: the same result"),
    ("4.6", "S ** T", "more tiles are computed than needed: the same result"),
    ("4.6", "S << T", "more tiles are computed than needed: the same result"),
    ("4.6", "S | T", "more tiles are computed than needed: the same result"),
    ("4.6", "S ^ T", "more tiles are computed than needed: the same result"),
    ("4.6", "shape[+2]", "the last axis but one of four is axis 2"),
    ("4.6", "shape[2]", "the last axis but one of four is axis 2"),
    ("4.6", "shape[:+2]", "the same two axes of four"),
    ("4.6", "shape[:2]", "the same two axes of four"),
    ("4.6", "shape[:~2]", "one axis less: it broadcasts"),
    ("4.6", "shape[:- 3]", "one axis less: it broadcasts"),
    ("4.6", "shape[:not 2]", "no axis: it broadcasts"),
    ("4.6", "[..., -1]", "the axis has length 1"),
    ("4.7", ") * (local", "both are True or False"),
    ("4.7", "targets > IGNORE", "ids are never negative"),
    ("4.7", "+1", "the last axis of (N, V) is axis 1"),
    ("4.7", "shape[1]", "the last axis of (N, V) is axis 1"),
    ("4.7", "amax(1)", "the last axis of (N, V) is axis 1"),
    ("4.7", "sum(1)", "the last axis of (N, V) is axis 1"),
    ("4.7", "gather(1", "the last axis of (N, V) is axis 1"),
    ("4.7", "[:, -1]", "the axis has length 1"),
    ("6.1", "size != 0", "no size is negative"),
    ("6.1", "size >= 0", "a power of 0 is 0"),
    ("6.1", "size > -1", "a power of 0 is 0"),
    ("6.2", "n != 1", "there is at least one item"),
    ("6.7", "- n % 1", "what is shorter than n at the end repeats nothing"),
    ("6.7", "- n + 2", "what is shorter than n at the end repeats nothing"),
    ("6.7", ", 2)", "two covered positions have at least two characters"),
    ("6.8", "after.text_density != 0", "no density is negative"),
    ("6.10", "n % 1", "a shorter tail was never seen as a context of this order"),
    ("6.10", "n >> 1", "a shorter tail was never seen as a context of this order"),
    ("6.10", "< n - 2", "a shorter tail was never seen as a context of this order"),
    ("6.10", "len(tail) != n - 1", "a tail is never longer"),
    ("6.10", "len(tail) > n - 1", "a shorter tail was never seen as a context of this order"),
    ("6.10", "len(tail) is not n - 1", "small integers are one object"),
    ("6.10", "w is not START", "the strings are interned"),
    ("6.10", "if n != 1", "orders begin at 1"),
    ("6.10", "if n >= 1", "the tail of no words is empty either way"),
    ("6.10", "if n > 0", "the tail of no words is empty either way"),
    ("6.10", "continue", "what was never seen is not seen with one word more"),
    ("7.2", "encode(c)[ -1]", "each of the three characters is one token"),
    ("7.5", ">= 3", "no preference is above 3"),
    ("7.5", "3 != min", "no preference is above 3"),
    ("7.5", "3 is not min", "no preference is above 3"),
    ("7.7", "y > IGNORE", "ids are never negative"),
    ("7.7", "[..., -1] -", "the axis has length 1"),
    ("8.1", "k == 0", "pick refuses a negative k"),
    ("8.1", "k > logits", "for k = V no logit is below the smallest"),
    ("8.1", "shape[+1]", "the last axis of (B, V) is axis 1"),
    ("8.1", "shape[1]", "the last axis of (B, V) is axis 1"),
    ("8.1", "dim=+1", "the last axis of (B, V) is axis 1"),
    ("8.1", "dim=1", "the last axis of (B, V) is axis 1"),
    ("8.3", "+ (unsigned", "the two halves share no bit"),
    ("8.3", "^ (unsigned", "the two halves share no bit"),
    ("8.5", "p == 1", "pick refuses a p above 1"),
    ("8.5", "dim=+1", "the last axis of (B, V) is axis 1"),
    ("8.5", "dim=1", "the last axis of (B, V) is axis 1"),
    ("8.5", "cumsum(+1", "the last axis of (B, V) is axis 1"),
    ("8.5", "cumsum(1", "the last axis of (B, V) is axis 1"),
    ("8.5", "scatter(+1", "the last axis of (B, V) is axis 1"),
    ("8.5", "scatter(1", "the last axis of (B, V) is axis 1"),
    ("8.7", "1 != T", "the position never passes the end"),
    ("8.7", "argmax(+1", "the last axis of (B, V) is axis 1"),
    ("8.7", "argmax(1", "the last axis of (B, V) is axis 1"),
    ("8.7", "[:, - 0]", "the axis has length 1"),
    ("8.8", "-top ^ 1", "top is odd, so this is -top - 1"),
    ("8.8", "<= best_error", "two scales with one error are as good"),
    ("8.8", "best[..., -1]", "the axis has length 1"),
]


SWAPS = [(" < ", " <= "), (" <= ", " < "), (" > ", " >= "), (" >= ", " > "), (" == ", " != "),
         (" != ", " == "), (" + ", " - "), (" - ", " + "), (" * ", " + "), (" / ", " * "), (" % ", " / "),
         (" += ", " -= "), (" -= ", " += "), (" *= ", " += "), (" && ", " || "), (" || ", " && "),
         ("fmaxf(", "fminf("), ("max(", "min("), ("min(", "max("), ("__syncthreads();", ";"),
         ("__syncwarp();", ";"),
         ("continue;", ";"), ("break;", ";"), ("++", "--")]


def kernel_mutants(body: str) -> dict[str, str]:
    """The bodies of CUDA C++ that differ by one operator, one call, or a whole number that is one larger."""
    found = {}
    for i, line in enumerate(lines := body.splitlines(keepends=True)):
        code = line.split("//")[0]
        places = [(m.start(), m.end(), new) for old, new in SWAPS for m in re.finditer(re.escape(old), code)]
        numbers = re.finditer(r"(?<![\w.])\d+(?![\w.])", code)
        places += [(m.start(), m.end(), str(int(m[0]) + 1)) for m in numbers]
        for start, end, new in places:
            changed = line[:start] + new + line[end:]
            found[f"{line.strip()}  ->  {changed.strip()}"] = "".join([*lines[:i], changed, *lines[i + 1:]])
    return found


def mutants(text: str, exercise) -> dict[str, str]:
    """The bodies that differ from the reference by one cosmic-ray mutation: {what changed: body}."""
    if exercise.comment != "#":
        return kernel_mutants(exercise.body)
    first, last = exercise.line + 1, exercise.line + len(exercise.body.splitlines())
    tree, found = get_ast(text), {}
    for name in cosmic_ray.plugins.operator_names():
        if cosmic_ray.plugins.get_operator(name).arguments():
            continue
        operator = cosmic_ray.plugins.get_operator(name)()
        places = [start for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node)]
        for occurrence, (line, _) in enumerate(places):
            if first <= line <= last and (changed := mutate_code(text, operator, occurrence)):
                body = next(e.body for e in find(changed, exercise.path) if e.id == exercise.id)
                old, new = exercise.body.splitlines(), body.splitlines()
                at = [i for i, (a, b) in enumerate(zip(old, new)) if a != b]
                if at:
                    found[f"{old[at[0]].strip()}  ->  {new[at[0]].strip()}"] = body
    return found


def equivalent(id: str, what: str) -> bool:
    """Is this mutant known to mean the same as the reference?"""
    before, after = what.split("  ->  ")
    return any(id == e and piece in after and piece not in before for e, piece, _ in EQUIVALENT)


def main(names: list[str]) -> int:
    """Print the survivors and the score of each exercise named, or of all exercises of a chapter."""
    alive = 0
    with tempfile.TemporaryDirectory() as place:
        base = Path(place) / "base"
        copy_tree(ROOT, base)
        exercises = course(ROOT)
        ids = [id for name in names or [""] for id in exercises if name in ("", id, id.split(".")[0])]
        with Bench(ROOT, base) as bench:
            bench.warm(ids)
            for id in ids:
                exercise, killed, same = exercises[id], 0, 0
                made = mutants((ROOT / exercise.path).read_text(encoding="utf-8"), exercise)
                for what, body in made.items():
                    if not bench.run(id, body, seconds=10, stops=1).passed:
                        killed += 1
                    elif equivalent(id, what):
                        same += 1
                    else:
                        alive += 1
                        print(f" {id:<5} survives: {what}", flush=True)
                print(f" {id:<5} {len(made)} mutants, {killed} rejected, {same} equivalent, "
                      f"{len(made) - killed - same} survive", flush=True)
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
