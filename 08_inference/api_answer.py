"""What the engine wrote, in the form of the OpenAI API: answers, chunks, log-probabilities, usage.

    make serve                             server.py answers with this
"""
import secrets
import time

from bpe import Tokenizer
from openai_api import Job, tool_call


class Answer:
    """The answer to one job, as it grows; one text for each choice."""

    def __init__(self, job: Job, model: str, tokenizer: Tokenizer):
        self.job, self.model, self.tokenizer = job, model, tokenizer
        self.id = ("chatcmpl-" if job.chat else "cmpl-") + secrets.token_hex(12)
        self.created = int(time.time())
        count = len(job.prompts) * job.n
        self.texts, self.reasons, self.told = [""] * count, [None] * count, [0] * count
        self.begun = [False] * count      # has the stream of this choice said who speaks?

    def _frame(self, chunk: bool, choices: list[dict]) -> dict:
        kind = ("chat.completion.chunk" if chunk
                else "chat.completion") if self.job.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model,
                "choices": choices}

    def usage(self, requests: list) -> dict:
        """Tokens read and written; a prompt with several choices counts once."""
        prompt = sum(map(len, self.job.prompts))
        written = sum(len(r.tokens) for r in requests)
        shared = sum(r.shared for r in requests[::self.job.n])
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written,
                "prompt_tokens_details": {"cached_tokens": shared}}

    def _token(self, token: int) -> tuple[str, list[int]]:
        data = self.tokenizer.decode_bytes([token])
        return data.decode("utf-8", errors="replace"), list(data)

    def logprobs(self, request, begin: int, end: int) -> dict | None:
        """The log-probabilities of tokens begin to end - 1 of a request, if the job wants them."""
        if self.job.n_top is None:
            return None
        entries = []
        for token, (own, best) in list(zip(request.tokens, request.logprobs))[begin:end]:
            def entry(i, p):
                text, data = self._token(i)
                return {"token": text, "logprob": p, "bytes": data}
            entries.append({**entry(token, own), "top_logprobs": [entry(i, p) for i, p in best]})
        if self.job.chat:
            return {"content": entries, "refusal": None}
        return {"tokens": [e["token"] for e in entries], "token_logprobs": [e["logprob"] for e in entries],
                "top_logprobs": [{t["token"]: t["logprob"] for t in e["top_logprobs"]} for e in entries]
                if self.job.n_top else None,
                "text_offset": [len(self.tokenizer.decode(request.tokens[:i]))
                                for i in range(begin, begin + len(entries))]}

    def chunk(self, index: int, text: str, request, upto: int) -> dict | None:
        """The next chunk of a stream: text, and the log-probabilities not told before; None if empty."""
        begin = self.told[index]
        self.texts[index] += text
        logprobs = self.logprobs(request, begin, upto)
        if self.job.chat and self.job.tools:     # it may turn out to be a call, which is told whole
            return None
        self.told[index] = max(upto, begin)
        if not text and (logprobs is None or upto <= begin):
            return None
        if self.job.chat:
            delta = {**self._role(index), "content": text}
            return self._frame(True, [{"index": index, "delta": delta, "logprobs": logprobs,
                                       "finish_reason": None}])
        return self._frame(True, [{"index": index, "text": text, "logprobs": logprobs,
                                   "finish_reason": None}])

    def _role(self, index: int) -> dict:
        """Who speaks: in the first delta of each choice."""
        begun, self.begun[index] = self.begun[index], True
        return {} if begun else {"role": "assistant"}

    def last_chunk(self, index: int, reason: str) -> dict:
        """The chunk that says why a choice has ended; a tool call comes whole."""
        call = self._call(index)
        if self.job.chat:
            delta = {**self._role(index), **({"tool_calls": [{"index": 0, **call}]} if call else {})}
            if self.job.tools:
                delta["content"] = None if call else self.texts[index]
            return self._frame(True, [{"index": index, "delta": delta, "logprobs": None,
                                       "finish_reason": "tool_calls" if call else reason}])
        return self._frame(True, [{"index": index, "text": "", "logprobs": None, "finish_reason": reason}])

    def usage_chunk(self, requests: list) -> dict:
        """The chunk without a choice that carries the usage."""
        return {**self._frame(True, []), "usage": self.usage(requests)}

    def _call(self, index: int) -> dict | None:
        return tool_call(self.texts[index], self.job.tools) if self.job.chat and self.job.tools else None

    def whole(self, requests: list) -> dict:
        """The answer to a request that does not stream."""
        choices = []
        for i, (text, reason, request) in enumerate(zip(self.texts, self.reasons, requests)):
            logprobs, call = self.logprobs(request, 0, len(request.tokens)), self._call(i)
            if not self.job.chat:
                choices.append({"index": i, "text": text, "logprobs": logprobs, "finish_reason": reason})
                continue
            message = {"role": "assistant", "content": None if call else text, "refusal": None}
            if call:
                message["tool_calls"], reason = [call], "tool_calls"
            choices.append({"index": i, "message": message, "logprobs": logprobs, "finish_reason": reason})
        return {**self._frame(False, choices), "usage": self.usage(requests)}
