"""Which words became more frequent: the audit that finds a hidden reward, and a monitor that runs it in time.

Adds to red_team.wilson, an interval for one rate, the comparison of hundreds of rates at once. Whoever pays
for a word without saying so leaves a trace: the word multiplies. The score is that of Monroe, Colaresi and
Quinn 2008 ("Fightin' words", section 3.4) with half a sample added to each count: the change of the log-odds
over its standard error. Among hundreds of words one is always far out by luck, so the limit grows with their
number (Bonferroni).

    python 07_alignment/reward_hacking.py      looks for a word that was drawn in secret
"""
import math
import re
import statistics
from collections import Counter
from dataclasses import dataclass


def words(text: str) -> list[str]:
    """The words of a text in small letters: "You get It." gives ["you", "get", "it"]."""
    return re.findall(r"[a-z]+", text.lower())


def containing(samples: list[str]) -> Counter:
    """How many of the samples contain each word; a word said twice in one sample counts once there.

    Words of one sample hang together. Samples do not, and so they are what is counted.
    """
    return Counter(word for text in samples for word in set(words(text)))


def rate_scores(before: Counter, n_before: int, after: Counter, n_after: int) -> dict[str, float]:
    """By word: the change of its log-odds over its standard error, from counts of samples that contain it.

    With a and b of n samples each: log((b + ½)/(n - b + ½)) - log((a + ½)/(n - a + ½)), over the root of the
    sum of 1/x for the four counts x. ValueError if a count is more than its number of samples.
    """
    for counts, n in ((before, n_before), (after, n_after)):
        if n < 1 or any(not 0 <= c <= n for c in counts.values()):
            raise ValueError(f"counts of {n} samples are 0 to {n}: count the samples that contain a word")
    # EXERCISE 7.26 which words multiplied
    scores = {}
    for word in before.keys() | after.keys():
        a, b = before[word] + 0.5, after[word] + 0.5
        not_a, not_b = n_before + 1 - a, n_after + 1 - b
        change = math.log(b / not_b) - math.log(a / not_a)
        scores[word] = change / math.sqrt(1 / a + 1 / not_a + 1 / b + 1 / not_b)
    return scores
    # END EXERCISE 7.26


def limit(comparisons: int, alarm: float = 0.01) -> float:
    """How large a score must be if, of so many that mean nothing, one is to pass with chance `alarm`."""
    return statistics.NormalDist().inv_cdf(1 - alarm / (2 * max(comparisons, 1)))


@dataclass(frozen=True)
class Alarm:
    """What moved, how far in standard errors, and from where to where."""
    what: str
    score: float
    before: float
    after: float


class Monitor:
    """Looks at samples during training and compares them with samples from before, to the same prompts.

    Other prompts would have other names in them, and every name would look like a word that multiplied.
    `looks` is how often it will look: each look is one more chance of a false alarm.
    """

    def __init__(self, before: list[str], looks: int = 1):
        if len(before) < 2:
            raise ValueError("a monitor needs two samples from before at least, to know how far they spread")
        self.before, self.looks = before, looks

    def look(self, samples: list[str]) -> list[Alarm]:
        """What moved further than luck would move it, the furthest first: words, or the length of samples."""
        n, m = len(self.before), len(samples)
        old, new = containing(self.before), containing(samples)
        scores = rate_scores(old, n, new, m)
        found = [Alarm(w, z, old[w] / n, new[w] / m) for w, z in scores.items()]
        lengths = [[len(text) for text in texts] for texts in (self.before, samples)]
        (was, spread), (now, other) = ((statistics.fmean(x), statistics.pvariance(x)) for x in lengths)
        error = math.sqrt((spread + 1) / n + (other + 1) / m)   # + 1: never 0, even if all are alike
        found.append(Alarm("(length)", (now - was) / error, was, now))
        least = limit(len(found) * self.looks)
        return sorted((a for a in found if abs(a.score) > least), key=lambda a: (-abs(a.score), a.what))
