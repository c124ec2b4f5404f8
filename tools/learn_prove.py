"""`python learn.py prove`: the proof that the exercises' tests reject wrong answers.

Adds to learn_run.py: for every exercise the reference passes under 20 seeds, the blank fails every test,
every mutant of tests/mutants.py is rejected by an assertion (a crash, an import or a syntax error does not
count; an endless loop is stopped and counts), and every test rejects at least one mutant. Hundreds of cases,
one worker a core.
"""

import importlib.util
import queue
import tempfile
import threading
from pathlib import Path

from learn_bodies import audit, course, is_stub, ranges
from learn_run import Bench, Verdict
from learn_trees import copy_tree

LEAST = 5  # mutants an exercise must have


def mutants(root: Path) -> list[tuple[str, str, str, str]]:
    """The collected bank of tests/mutants.py: (id, what is wrong, right fragment, wrong fragment)."""
    spec = importlib.util.spec_from_file_location("mutants", root / "tests/mutants.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MUTANTS


def mutant(body: str, right: str, wrong: str) -> str:
    """The body with the fragment replaced. ValueError unless the right fragment is there exactly once."""
    if body.count(right) != 1:
        raise ValueError(f"the right fragment {right.splitlines()[0]!r} occurs {body.count(right)} times, "
                         "not once")
    return body.replace(right, wrong)


def rejecting(verdict: Verdict) -> set[str]:
    """The tests that reject a body by an assertion or by being stopped."""
    return {name for name, outcome in verdict.outcomes.items() if outcome in ("wrong", "stopped")}


def judge(reference: Verdict, stub: Verdict, rejected: dict[str, Verdict], seeds: int) -> list[str]:
    """What is wrong with one exercise's tests, a sentence each."""
    wrong = []
    if not reference.passed:
        first = next((r for r in reference.reports if r["outcome"] != "passed"), None)
        said = reference.broken or reference.end
        if first:
            said = f"{first['node']}: {(first['message'] or first['outcome']).splitlines()[0]}"
        wrong.append(f"the reference does not pass under {seeds} seeds: {said}")
    wrong += [f"{name} {'passes' if outcome == 'passed' else f'says {outcome!r}'} on the blank"
              for name, outcome in stub.outcomes.items() if outcome in ("passed", "skipped", "lost")]
    if stub.broken:
        wrong.append("the test file cannot be imported while the exercise is blank: "
                     f"{stub.broken.splitlines()[-1]}")
    killed = set()
    for what, verdict in rejected.items():
        killed |= rejecting(verdict)
        if not rejecting(verdict) and verdict.end != "late":
            crashes = sorted({r["error"] for r in verdict.reports if r["outcome"] == "error"})
            said = ", ".join(crashes) or verdict.broken[-80:]
            wrong.append(f"mutant '{what}' " + (f"only crashes ({said}): no assertion rejects it" if said else
                                                f"ends the process ({verdict.end})"
                                                if verdict.end != "finished" else "passes every test"))
    wrong += [f"{name} rejects no mutant" for name in reference.outcomes if name not in killed]
    return wrong


def prove(root: Path, ids: list[str], say, seeds: int = 20, jobs: int = 2, seconds: float = 10) -> list[str]:
    """Prove exercises on a copy of the working tree, telling `say` about each. Returns the problems."""
    with tempfile.TemporaryDirectory(prefix="prove-") as place:
        base = Path(place) / "base"
        copy_tree(root, base)
        benches = [Bench(root, base) for _ in range(jobs)]
        exercises = benches[0].exercises
        blank = [id for id in ids if is_stub(exercises[id].body)]
        if blank:
            raise ValueError(f"prove needs the reference, but {', '.join(blank)} is blank here: use the "
                             "branch main")
        wrong, bank = audit(root), mutants(root)
        wrong += [f"mutants name {id}, which is no exercise"
                  for id in sorted({m[0] for m in bank} - set(exercises))]
        plan, left, results, problems = queue.Queue(), {}, {}, {id: [] for id in ids}
        for id in ids:
            body = exercises[id].body
            cases = [("reference", body), ("stub", exercises[id].stub)]
            named = [m for m in bank if m[0] == id]
            for _, what, right, false in named:
                try:
                    cases.append((what, mutant(body, right, false)))
                except ValueError as problem:
                    problems[id].append(f"mutant '{what}': {problem}")
            if len(cases) - 2 < LEAST:
                problems[id].append(f"{len(cases) - 2} mutants, wanted at least {LEAST}")
            if len({what for what, _ in cases}) < len(cases):
                problems[id].append("two mutants have the same description")
            left[id], results[id] = len(cases), {}
            for what, text in cases:
                plan.put((id, what, text))
        lock, cpu, failures = threading.Lock(), [0.0], []

        def work(bench: Bench) -> None:
            """One worker: take cases until none is left; whoever ends an exercise judges it."""
            try:
                with bench:
                    while not failures:
                        try:
                            id, what, text = plan.get_nowait()
                        except queue.Empty:
                            return
                        many = range(seeds) if what == "reference" else (0,)
                        patience = 60 if what == "reference" or exercises[id].comment == "//" else seconds
                        verdict = bench.run(id, text, many, seconds=patience, stops=1)
                        with lock:
                            results[id][what], left[id], cpu[0] = verdict, left[id] - 1, cpu[0] + verdict.cpu
                            if not left[id]:
                                mine = dict(results[id])
                                problems[id] += judge(mine.pop("reference"), mine.pop("stub"), mine, seeds)
                                say(id, len(results[id]["reference"].names), len(mine), problems[id])
            except Exception as problem:
                failures.append(problem)

        with benches[0]:
            benches[0].warm(ids)
        threads = [threading.Thread(target=work, args=(bench,)) for bench in benches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        total = sum(len(r) for r in results.values())
        print(f" {len(ids)} exercises, {total} cases, {cpu[0]:.0f} CPU seconds")
        return wrong + [f"{id}: {problem}" for id in ids for problem in problems[id]]


def command(root: Path, asked) -> int:
    """`python learn.py prove [ID or chapter ...]`: a line an exercise, then the problems."""
    ids = []
    exercises = course(root)
    for name in asked.id or exercises:
        some = [id for id in exercises if name in (id, id.split(".")[0])]
        if not some:
            raise ValueError(f"there is no exercise or chapter {name}: the ids are {ranges(list(exercises))}")
        ids += some

    def say(id: str, tests: int, wrong: int, problems: list[str]) -> None:
        verdict = f"{len(problems)} PROBLEMS" if problems else "holds"
        print(f" {id:<5} {exercises[id].title:<40.40} {tests:>3} tests {wrong:>3} mutants   {verdict}")

    problems = prove(root, ids, say, asked.seeds, asked.jobs, asked.seconds)
    print("\n".join([f"   {problem}" for problem in problems] + [f" {len(problems)} problems"]))
    return 1 if problems else 0
