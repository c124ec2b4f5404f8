"""Chapter 8's BM25 against the rank_bm25 package."""
import random

import pytest

from bm25 import Index, bm25


def test_scores_are_those_of_rank_bm25():
    """Its epsilon 0 gives words that most documents have no weight, as ours have none."""
    okapi = pytest.importorskip("rank_bm25").BM25Okapi
    for _ in range(20):
        vocabulary = [f"w{i}" for i in range(60)]
        lengths = [random.randint(1, 40) for _ in range(random.randint(3, 40))]
        documents = [random.choices(vocabulary, k=n) for n in lengths]
        query = random.choices(vocabulary + ["unknown"], k=8)
        k1, b = random.uniform(0.5, 3), random.random()
        wanted = pytest.approx(okapi(documents, k1=k1, b=b, epsilon=0).get_scores(query).tolist(), abs=1e-9)
        assert bm25(query, documents, k1, b) == wanted
        assert Index([" ".join(d) for d in documents], k1, b).scores(" ".join(query)) == wanted
