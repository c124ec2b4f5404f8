"""The two caches: a model that remembers gives the logits of one that reads everything again."""

import pytest
import torch
from torch.testing import assert_close

from kv_cache import KVCache
from rollout import GrowingCache
from transformer import Config, Transformer


@pytest.mark.parametrize("positions", ["rope", "learned", "alibi", "none"])
@pytest.mark.parametrize("new_cache",
                         [lambda c: GrowingCache(), lambda c: KVCache(c, 2, 9, dtype=torch.float64)],
                         ids=["growing", "reserved"])
def test_cached_and_uncached_logits_agree(positions, new_cache):
    config = Config(vocab_size=11, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=12, max_len=12,
                    positions=positions)
    model = Transformer(config).double()
    ids = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(0))
    cache, parts, start = new_cache(config), [], 0
    with torch.no_grad():
        for length in (4, 1, 3, 1):  # a prompt, one token, several at once, one token
            parts.append(model(ids[:, start : start + length], cache, start))
            start += length
        assert_close(torch.cat(parts, 1), model(ids))
