"""Byte-level BPE in the files of others: Hugging Face's tokenizer.json and tiktoken's ranks, written and
read.

Adds to bpe.py the way out and in: the `tokenizers` and `tiktoken` packages give the same ids from what is
written here (make peers compares them), and published files of this kind can be read. Anything else is
refused with a sentence that names what is not supported.

    python 01_tokenizer/tokenizer_cli.py convert out/01_tokenizer/tokenizer.json --out hf.json
"""
import base64
import binascii
import re
from collections.abc import Iterable
from pathlib import Path

from bpe import Tokenizer, plain_ids
from pretokenize import PATTERNS
from workbench import atomic, read_json, write_json


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in Hugging Face and GPT-2 files, (256,).

    JSON holds text, and a token may be half a character. So each byte is written as a character that can be
    seen: itself if it is one in Latin-1 (! to ~, ¡ to ¬, ® to ÿ), else, in order, the characters from U+0100
    on: the space, byte 32, is Ġ. Source: bytes_to_unicode in encoder.py of the GPT-2 release.
    """
    # EXERCISE 1.14 the alphabet of bytes
    seen = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    alphabet, hidden = [], 0
    for byte in range(256):
        if byte in seen:
            alphabet.append(chr(byte))
        else:
            alphabet.append(chr(256 + hidden))
            hidden += 1
    return alphabet
    # END EXERCISE 1.14


class Renumbered(Tokenizer):
    """A tokenizer whose ids are others than ours: published vocabularies order their bytes as they like.

    `numbers[i]` is the published id of our token i (256 bytes, then the merges); `special` has ids of its
    own.
    """

    def __init__(self, merges: Iterable[tuple[int, int]], special: dict[str, int], pattern: str,
                 numbers: list[int]):
        super().__init__(merges, tuple(special), pattern)
        self.numbers, self.special = numbers, dict(special)
        self._ours = {number: i for i, number in enumerate([*numbers, *special.values()])}
        if len(self._ours) < len(numbers) + len(special):
            raise ValueError("two tokens have the same id: each needs its own")

    def __reduce__(self):
        return type(self), (self.merges, self.special, self.pattern, self.numbers)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id: there may be gaps."""
        return max(self._ours) + 1

    def _encode_unseen(self, piece: str) -> tuple[int, ...]:
        return tuple(self.numbers[i] for i in super()._encode_unseen(piece))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes behind ids. Raises ValueError for an id that does not exist."""
        ids = plain_ids(ids)
        for i in ids:
            if i not in self._ours:
                raise ValueError(f"token id {i} is not in this vocabulary: was another tokenizer used?")
        return super().decode_bytes([self._ours[i] for i in ids])

    def save(self, path: Path | str) -> None:
        """Refused: the file of our tokenizers has no place for other ids."""
        raise ValueError("a tokenizer with published ids is saved with formats.to_hf")


def check_spelling(tokenizer: Tokenizer) -> None:
    """ValueError unless each token is what encoding its own bytes gives: others store tokens by their bytes
    alone.

    Holds for all that bpe.train learned. Merges put together by hand may spell one token twice, or one that
    no text reaches.
    """
    for i, data in enumerate(tokenizer.bytes_of):
        if tokenizer.encode_piece(list(data)) != [i]:
            raise ValueError(f"token {i}, {data!r}, is not what encoding these bytes gives: files of other "
                             "packages "
                             "store tokens by their bytes and can't hold this tokenizer")


def numbers_of(tokenizer: Tokenizer) -> list[int]:
    """The id of each ordinary token, in the order of the merges."""
    return getattr(tokenizer, "numbers", list(range(len(tokenizer.bytes_of))))


def to_hf(tokenizer: Tokenizer, path: Path | str) -> None:
    """Write a tokenizer.json, atomically. `tokenizers` treats special names in a text as tokens:
    allowed_special="all".

    Load it with tokenizers.Tokenizer.from_file or transformers.PreTrainedTokenizerFast(tokenizer_file=...).
    """
    check_spelling(tokenizer)
    alphabet = byte_alphabet()
    names = ["".join(alphabet[byte] for byte in data) for data in tokenizer.bytes_of]
    taken = set(names) & tokenizer.special.keys()
    if taken:
        raise ValueError(f"the special token {taken.pop()!r} is spelled like an ordinary one: there both "
                         "would have "
                         "one id, rename it")
    if re.search(r"\{\d+(,\d*)?\}\+", tokenizer.pattern):
        raise ValueError("the pattern has a possessive {n,m}+, which tokenizers' regular expressions read as "
                         "several times {n,m}: leave out the +")
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    cut = {"type": "Split", "pattern": {"Regex": tokenizer.pattern}, "behavior": "Isolated", "invert": False}
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    write_json(path, {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": i, "content": name, **flags, "special": True}
                         for name, i in tokenizer.special.items()],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, level]}, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "ignore_merges": False,
                  "vocab": dict(zip(names, numbers_of(tokenizer))),
                  "merges": [[names[a], names[b]] for a, b in tokenizer.merges]}})


def pattern_of_hf(pre: dict) -> str:
    """The pattern of a pre_tokenizer: ByteLevel with GPT-2's, or Split followed by ByteLevel without one."""
    steps = pre.get("pretokenizers", [pre]) if pre else []
    kinds = [step.get("type") for step in steps]
    if any(step.get("add_prefix_space") for step in steps):
        raise ValueError("add_prefix_space is not supported")
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return PATTERNS["GPT-2"]
    if kinds != ["Split", "ByteLevel"] or steps[1].get("use_regex", True):
        raise ValueError(f"the pre_tokenizer {' + '.join(map(str, kinds)) or 'none'} is not supported, only "
                         "ByteLevel, "
                         "alone or after one Split")
    isolated = steps[0].get("behavior") == "Isolated" and not steps[0].get("invert")
    if not isolated or "Regex" not in steps[0].get("pattern", {}):
        raise ValueError("a Split that is not by an isolated regular expression is not supported")
    return steps[0]["pattern"]["Regex"]


def from_hf(path: Path | str) -> Tokenizer:
    """Read a tokenizer.json of byte-level BPE: the ids are those that `tokenizers` gives without added
    tokens.

    Raises ValueError that names the file and what is not supported.
    """
    data = read_json(path)
    try:
        return _from_hf(data)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{error!r} is missing or not as expected" if not isinstance(error, ValueError) else error
        raise ValueError(f"{path} can't be read as byte-level BPE: {reason}") from None


def _from_hf(data: dict) -> Tokenizer:
    model = data["model"]
    if model["type"] != "BPE":
        raise ValueError(f"a model of type {model['type']} is not supported")
    for name in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            raise ValueError(f"{name} {model[name]!r} is not supported")
    if data.get("normalizer"):
        raise ValueError(f"the normalizer {data['normalizer'].get('type')} is not supported")
    if (data.get("post_processor") or {}).get("type", "ByteLevel") != "ByteLevel":
        raise ValueError(f"the post_processor {data['post_processor']['type']} is not supported: it adds "
                         "tokens")
    special = {}
    for token in data.get("added_tokens", []):
        if any(token.get(flag) for flag in ("lstrip", "rstrip", "single_word")):
            raise ValueError(f"the added token {token['content']!r} with lstrip, rstrip or single_word is "
                             "not supported")
        special[token["content"]] = token["id"]

    byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
    vocab = {bytes(byte_of[c] for c in name): i for name, i in model["vocab"].items() if name not in special}
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    halves = [tuple(bytes(byte_of[c] for c in half) for half in pair) for pair in pairs]
    tokenizer = _from_halves(vocab, halves, special, pattern_of_hf(data.get("pre_tokenizer")))
    if model.get("ignore_merges"):   # then a piece that is a token needs no merges
        check_spelling(tokenizer)
    return tokenizer


def _from_halves(vocab: dict[bytes, int], halves: list[tuple[bytes, bytes]], special: dict[str, int],
                 pattern: str) -> Tokenizer:
    """A tokenizer of {token: id} and the two halves of each merge, in the order of the merges."""
    ours = {bytes([i]): i for i in range(256)}
    merges = []
    for a, b in halves:
        if a not in ours or b not in ours:
            raise ValueError(f"the merge of {a!r} and {b!r} comes before its halves")
        if a + b in ours:
            raise ValueError(f"two merges make the token {a + b!r}, which is not supported")
        merges.append((ours[a], ours[b]))
        ours[a + b] = 255 + len(merges)
    left = [token for token in vocab if token not in ours]
    missing = [token for token in ours if token not in vocab]
    if left or missing:
        raise ValueError(f"the token {left[0]!r} is made by no merge" if left else
                         f"the token {missing[0]!r} has no id")
    numbers = [vocab[token] for token in ours]
    if [*numbers, *special.values()] == list(range(len(numbers) + len(special))):
        return Tokenizer(merges, tuple(special), pattern)
    return Renumbered(merges, special, pattern, numbers)


def to_tiktoken(tokenizer: Tokenizer, path: Path | str) -> None:
    """Write tiktoken's ranks, one line a token: base64 of its bytes, its id. Special tokens have no place in
    it.

    tiktoken.Encoding(name, pat_str=tokenizer.pattern, mergeable_ranks=tiktoken.load.load_tiktoken_bpe(path),
    special_tokens=tokenizer.special) gives the same ids.
    """
    check_spelling(tokenizer)
    numbers = numbers_of(tokenizer)
    if numbers[256:] != sorted(numbers[256:]):
        raise ValueError("tiktoken merges in the order of the ids, and here the ids have another order")
    lines = sorted((i, base64.b64encode(data).decode()) for i, data in zip(numbers, tokenizer.bytes_of))
    with atomic(path) as temporary:
        temporary.write_text("".join(f"{text} {i}\n" for i, text in lines), encoding="ascii")


def from_tiktoken(path: Path | str, pattern: str, special: dict[str, int] | None = None) -> Tokenizer:
    """Read tiktoken's ranks. The file holds tokens, no merges: a token's two halves are what its bytes become
    when only earlier tokens may be used. Raises ValueError for a file that is none, or a token that has no
    two halves.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        try:
            text, i = line.split()
            ranks[base64.b64decode(text, validate=True)] = int(i)
        except (ValueError, binascii.Error):
            raise ValueError(f"{path} is no file of tiktoken ranks (line {number}): each line is base64, "
                             "blank, "
                             "number") from None
    try:
        halves = [two_halves(token, ranks) for token in sorted(ranks, key=ranks.get) if len(token) > 1]
        return _from_halves(ranks, halves, special or {}, pattern)
    except ValueError as error:
        raise ValueError(f"{path} can't be read as byte-level BPE: {error}") from None


def two_halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The last merge that makes `token`: join the neighbours of the lowest rank below its own until two are
    left.
    """
    parts = [token[i:i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(a + b, ranks[token]) for a, b in zip(parts, parts[1:])]
        i = joined.index(min(joined))
        if joined[i] >= ranks[token]:
            raise ValueError(f"the token {token!r} is not two earlier ones joined, which is not supported")
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]
