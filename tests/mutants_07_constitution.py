"""Wrong answers to the exercise of chapter 7 about the agreement of two judges."""

MUTANTS = [
    ("7.25", "is the share of equal verdicts", "(agreed - luck) / (1 - luck) if luck < 1 else math.nan",
     "agreed"),
    ("7.25", "takes luck away and stops", "(agreed - luck) / (1 - luck)", "agreed - luck"),
    ("7.25", "divides by luck", "/ (1 - luck)", "/ max(luck, 1e-9)"),
    ("7.25", "takes luck to be a coin", "sum(a.count(v) * b.count(v) for v in set(a)) / n ** 2", "0.5"),
    ("7.25", "takes all verdicts as equally likely", "sum(a.count(v) * b.count(v) for v in set(a)) / n ** 2",
     "1 / len({*a, *b})"),
    ("7.25", "asks one judge about luck", "a.count(v) * b.count(v)", "a.count(v) * a.count(v)"),
    ("7.25", "pools both judges, as Scott's pi does", "a.count(v) * b.count(v)",
     "((a + b).count(v) / 2) ** 2"),
    ("7.25", "counts a verdict as often as it comes", "in set(a)", "in a"),
    ("7.25", "leaves one kind of verdict out", "in set(a)", "in list(dict.fromkeys(a))[:2]"),
    ("7.25", "divides by n once", "n ** 2", "n"),
    ("7.25", "is never below 0", "return (agreed - luck) / (1 - luck)",
     "return max(0.0, (agreed - luck) / (1 - luck))"),
    ("7.25", "says 1 where nothing can be said", "math.nan", "1.0"),
    ("7.25", "says 0 where nothing can be said", "math.nan", "0.0"),
    ("7.25", "compares neighbours", "zip(a, b)) / n", "zip(a, b[1:])) / n"),
    ("7.25", "forgets the order of the verdicts", "zip(a, b)) / n",
     "zip(sorted(a, key=str), sorted(b, key=str))) / n"),
]
