"""The official openai client against our server, and transformers' filters against ours.

make peers
"""
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sampling import keep_min_p, keep_top_k, keep_top_p, penalize_repetition  # noqa: E402
from server_cases import Running  # noqa: E402

openai = pytest.importorskip("openai", reason="run `make peers`, which installs it")
transformers = pytest.importorskip("transformers", reason="run `make peers`, which installs it")


@pytest.fixture(scope="module")
def running():
    server = Running(blocks=64, api_key="secret")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(running):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key="secret", max_retries=0)


MESSAGES = [{"role": "user", "content": "hello"}]


def test_the_official_client_chats_streams_and_reads_errors(running, client):
    assert [m.id for m in client.models.list()] == ["tiny"] and client.models.retrieve("tiny").id == "tiny"
    ask = dict(model="tiny", messages=MESSAGES, seed=1, max_tokens=9, n=2, logprobs=True, top_logprobs=2)
    whole = client.chat.completions.create(**ask)
    texts = ["", ""]
    for chunk in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
        usage = chunk.usage
    assert [c.message.content for c in whole.choices] == texts and usage == whole.usage
    for choice in whole.choices:
        assert len(choice.logprobs.content[0].top_logprobs) == 2
        assert choice.finish_reason in ("stop", "length")
    done = client.completions.create(model="tiny", prompt="abc", max_tokens=5, logprobs=1, stop=["never"])
    assert len(done.choices[0].logprobs.tokens) <= 5
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model="tiny", prompt="abc", temperature=-1)
    with pytest.raises(openai.NotFoundError, match="tiny"):
        client.completions.create(model="other", prompt="abc")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    running.settle()


def test_the_official_client_gets_json_and_calls_tools(running, client):
    schema = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, response_format=form, seed=1)
    assert answer.choices[0].message.content.replace(" ", "") in ('{"city":"Rome"}', '{"city":"Oslo"}')
    tools = [{"type": "function", "function": {"name": "weather", "parameters": schema}}]
    for stream in (False, True):
        answer = client.chat.completions.create(model="tiny", messages=MESSAGES, tools=tools,
                                                tool_choice="required", seed=1, stream=stream)
        message = list(answer)[-1].choices[0].delta if stream else answer.choices[0].message
        assert message.tool_calls[0].function.name == "weather"
        assert "city" in message.tool_calls[0].function.arguments
    running.settle()


def test_leaving_in_the_middle_of_a_stream_leaves_nothing(running, client):
    for _ in range(3):
        with client.completions.create(model="tiny", prompt="abc", max_tokens=100, stream=True) as stream:
            next(iter(stream))
    running.settle()


def test_our_filters_keep_what_theirs_keep():
    for _ in range(20):
        x, ids = torch.randn(3, 40) * 3, torch.randint(40, (3, 7))
        seen = torch.zeros(3, 40, dtype=torch.bool).scatter(1, ids, True)
        for ours, theirs in ((keep_top_k(x, 5), transformers.TopKLogitsWarper(5)),
                             (keep_top_p(x, 0.8), transformers.TopPLogitsWarper(0.8)),
                             (keep_min_p(x, 0.1), transformers.MinPLogitsWarper(0.1)),
                             (penalize_repetition(x, seen, 1.3),
                              transformers.RepetitionPenaltyLogitsProcessor(1.3))):
            torch.testing.assert_close(ours, theirs(ids, x.clone()))
