"""Our weights in Hugging Face's own Llama and Qwen3: the same logits, without renaming a weight.

make peers
"""

import pytest
import torch
from torch.testing import assert_close

from transformer import Config, Transformer

transformers = pytest.importorskip("transformers", reason="run `make peers`, which installs it")


def theirs(config: Config) -> torch.nn.Module:
    """The same shape in transformers: Qwen3 has norms on queries and keys, Llama has none."""
    shape = dict(vocab_size=config.vocab_size, hidden_size=config.d_model, intermediate_size=config.d_ff,
                 num_hidden_layers=config.n_layers, num_attention_heads=config.n_heads,
                 num_key_value_heads=config.n_kv_heads, head_dim=config.d_model // config.n_heads,
                 max_position_embeddings=config.max_len, rms_norm_eps=1e-5, rope_theta=config.rope_base,
                 tie_word_embeddings=config.tied, hidden_act="silu", attention_bias=False)
    if config.qk_norm:
        return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape)).eval()
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, mlp_bias=False)).eval()


@pytest.mark.parametrize("qk_norm", [False, True], ids=["llama", "qwen3"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
def test_hugging_face_computes_the_same_logits_from_our_weights(qk_norm, tied, n_kv_heads):
    torch.manual_seed(0)
    config = Config(vocab_size=61, d_model=32, n_layers=3, n_heads=4, n_kv_heads=n_kv_heads, d_ff=40,
                    max_len=64, qk_norm=qk_norm, tied=tied)
    ours = Transformer(config)
    for p in ours.parameters():   # a fresh model hardly attends: in a larger one an error in any part shows
        p.data += 0.3 * torch.randn_like(p) if p.ndim == 1 else p.data * 1.5
    peer = theirs(config)
    weights = ours.state_dict()
    if tied:
        weights = weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}
    peer.load_state_dict(weights)  # strict: every name must match
    ids = torch.randint(61, (2, 50))
    with torch.no_grad():
        wanted = peer(ids).logits
        assert wanted.std() > 0.05
        assert_close(ours(ids), wanted, rtol=1e-4, atol=1e-5)
        assert (ours(ids.flip(1)).flip(1) - wanted).abs().max() > 0.1   # it can fail: order matters
