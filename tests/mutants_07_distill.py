"""Wrong answers to the exercise of chapter 7 about distillation."""

MUTANTS = [
    ("7.18", "is the reverse divergence", "(log_p.exp() * (log_p - log_q))", "(log_q.exp() * (log_q - log_p))"),
    ("7.18", "is the cross-entropy", "log_p.exp() * (log_p - log_q)", "log_p.exp() * -log_q"),
    ("7.18", "weighs by the student", "log_p.exp() *", "log_q.exp() *"),
    ("7.18", "has the wrong sign", "log_p - log_q", "log_q - log_p"),
    ("7.18", "forgets the factor", "temperature**2 * ", ""),
    ("7.18", "multiplies by T only", "temperature**2", "temperature"),
    ("7.18", "softens the student only", "(at_least_float32(teacher) / temperature)", "at_least_float32(teacher)"),
    ("7.18", "softens the teacher only", "(at_least_float32(student) / temperature)", "at_least_float32(student)"),
    ("7.18", "multiplies the logits by T", "(at_least_float32(student) / temperature)", "(at_least_float32(student) * temperature)"),
    ("7.18", "takes the mean over all tokens", "mask.sum().clamp(min=1)", "mask.numel()"),
    ("7.18", "sums", " / mask.sum().clamp(min=1)", ""),
    ("7.18", "averages over the vocabulary", "(log_p - log_q)).sum(-1)", "(log_p - log_q)).mean(-1)"),
    ("7.18", "divides by zero", ".clamp(min=1)", ""),
    ("7.18", "counts masked tokens", "(each * mask).sum()", "each.sum()"),
    ("7.18", "underflows", "(at_least_float32(student) / temperature).log_softmax(-1)", "(student / temperature).softmax(-1).log()"),
    ("7.18", "guards the logarithm with a small number", "(at_least_float32(student) / temperature).log_softmax(-1)",
     "((student / temperature).softmax(-1) + 1e-8).log()"),
    ("7.18", "normalises over time", "/ temperature).log_softmax(-1)\n    each", "/ temperature).log_softmax(1)\n    each"),
    ("7.18", "detaches the student", "at_least_float32(student)", "at_least_float32(student.detach())"),
    ("7.18", "takes the squared difference of logits", "(log_p.exp() * (log_p - log_q)).sum(-1)", "((teacher - student) ** 2).sum(-1) / 2"),
]
