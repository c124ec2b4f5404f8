"""Wrong answers to the exercises of chapter 7 about the variants of GRPO."""

FULL = 'torch.full_like(lengths, 1.0 if mean == "tokens" else (average / budget).item())'
RATIO = "a = (log_p - old_log_p).exp(), advantages[:, None]"
MUTANTS = [
    ("7.19", "turns the ratio round", "average / lengths", "lengths / average"),
    ("7.19", "forgets the average", "return average / lengths", "return 1 / lengths"),
    ("7.19", "takes the longest", "lengths.mean()", "lengths.max()"),
    ("7.19", "takes the sum", "lengths.mean()", "lengths.sum()"),
    ("7.19", "takes the median", "lengths.mean()", "lengths.median()"),
    ("7.19", "forgets the budget", "(average / budget).item()", "average.item()"),
    ("7.19", "turns the budget round", "(average / budget).item()", "(budget / average).item()"),
    ("7.19", "uses each length for the budget", FULL,
     "torch.ones_like(lengths) if mean == \"tokens\" else lengths / budget"),
    ("7.19", "returns a scalar for tokens", FULL,
     'torch.ones(()).to(lengths) if mean == "tokens" '
     'else torch.full_like(lengths, (average / budget).item())'),
    ("7.19", "gives the share itself", "return average / lengths", "return 1 / lengths / len(lengths)"),
    ("7.19", "swaps two means", "if mean == \"answers\"", "if mean == \"budget\""),
    ("7.19", "writes into the lengths", "return average / lengths", "return lengths.reciprocal_() * average"),
    ("7.19", "always answers in single precision", "average / lengths", "(average / lengths).float()"),
    ("7.19", "fills the lengths", FULL,
     "lengths.fill_(1.0 if mean == \"tokens\" else (average / budget).item())"),
    ("7.20", "counts both sides", "return ((bound", "bound = (ratio - 1).abs() > clip\n    return ((bound"),
    ("7.20", "swaps the signs", RATIO, RATIO.replace("advantages", "-advantages")),
    ("7.20", "counts the upper side only", " | ((ratio < 1 - clip) & (a < 0))", ""),
    ("7.20", "counts the lower side only", "((ratio > 1 + clip) & (a > 0)) | ", ""),
    ("7.20", "counts padding", "bound * mask", "bound"),
    ("7.20", "divides by padding as well", "mask.sum().clamp(min=1)", "mask.numel()"),
    ("7.20", "NaN for an empty mask", "mask.sum().clamp(min=1)", "mask.sum()"),
    ("7.20", "compares the difference of logarithms", "(log_p - old_log_p).exp()", "(log_p - old_log_p + 1)"),
    ("7.20", "turns the ratio round", "(log_p - old_log_p).exp()", "(old_log_p - log_p).exp()"),
    ("7.20", "counts the limit itself", "(ratio > 1 + clip)", "(ratio >= 1 + clip)"),
    ("7.20", "writes the clip in", "1 + clip", "1.2"),
    ("7.20", "returns a tensor", ".clamp(min=1)).item()", ".clamp(min=1))"),
    ("7.20", "counts answers, not tokens",
     "(bound * mask).sum() / mask.sum().clamp(min=1)", "(bound * mask).amax(1).mean()"),
]
