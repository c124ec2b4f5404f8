"""Byte-level BPE in the files of others: Hugging Face's tokenizer.json and tiktoken's ranks.

Adds to bpe.py the way out and in: the `tokenizers` and `tiktoken` packages give the same ids from what is
written here (make peers compares them), and published files of this kind can be read. Anything else is
refused with a sentence that names what is not supported.

    python 01_tokenizer/tokenizer_cli.py convert out/01_tokenizer/tokenizer.json --out hf.json
"""
import base64
import binascii
import heapq
import re
from pathlib import Path

from bpe import Tokenizer
from pretokenize import PATTERNS
from published_ids import Renumbered, numbers_of
from workbench import atomic, read_json, write_json

GONE = -1                  # the end of a part that was joined to the one before it
WHOLE = r"[\s\S]+"         # a pattern that cuts nothing, spelled so that all packages read it alike
POSSESSIVE = re.compile(r"\{\d+(,\d*)?\}\+")   # what tokenizers reads as "several times {n,m}"


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


def check_spelling(tokenizer: Tokenizer) -> None:
    """ValueError unless each token is what encoding its own bytes gives.

    Files of others store tokens by their bytes alone. Holds for all that bpe.train learned; merges put
    together by hand may spell one token twice, or one that no text reaches.
    """
    for i, data in enumerate(tokenizer.bytes_of):
        if tokenizer.encode_bytes(data) != [i]:
            raise ValueError(f"token {i}, {data!r}, is not what encoding these bytes gives: files of other "
                             "packages store tokens by their bytes and can't hold this tokenizer")


def to_hf(tokenizer: Tokenizer, path: Path | str) -> None:
    """Write a tokenizer.json, atomically.

    `tokenizers` treats special names in a text as tokens: allowed_special="all". Load it with
    tokenizers.Tokenizer.from_file or transformers.PreTrainedTokenizerFast(tokenizer_file=...).
    """
    check_spelling(tokenizer)
    alphabet = byte_alphabet()
    names = ["".join(alphabet[byte] for byte in data) for data in tokenizer.bytes_of]
    taken = set(names) & tokenizer.special.keys()
    if taken:
        raise ValueError(f"the special token {taken.pop()!r} is spelled like an ordinary one: there both "
                         "would have one id, rename it")
    if POSSESSIVE.search(tokenizer.pattern):
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


def pattern_of_hf(pre: dict | None) -> str:
    """The pattern of a pre_tokenizer: ByteLevel with GPT-2's or none, alone, or none after one Split."""
    steps = pre.get("pretokenizers", [pre]) if pre else []
    kinds = [step.get("type") for step in steps]
    if any(step.get("add_prefix_space") for step in steps):
        raise ValueError("add_prefix_space is not supported")
    if kinds == ["ByteLevel"]:
        return PATTERNS["GPT-2"] if steps[0].get("use_regex", True) else WHOLE
    if kinds != ["Split", "ByteLevel"] or steps[1].get("use_regex", True):
        raise ValueError(f"the pre_tokenizer {' + '.join(map(str, kinds)) or 'none'} is not supported, only "
                         "ByteLevel alone, or after one Split and without a pattern of its own")
    isolated = steps[0].get("behavior") == "Isolated" and not steps[0].get("invert")
    if not isolated or "Regex" not in steps[0].get("pattern", {}):
        raise ValueError("a Split that is not by an isolated regular expression is not supported")
    pattern = steps[0]["pattern"]["Regex"]
    if POSSESSIVE.search(pattern):
        raise ValueError("a pattern with a possessive {n,m}+ is not supported: for tokenizers it means "
                         "several times {n,m}")
    return pattern


def from_hf(path: Path | str) -> Tokenizer:
    """Read a tokenizer.json of byte-level BPE.

    The ids are those that `tokenizers` gives without added tokens. Raises ValueError that names the file and
    what is not supported.
    """
    data = read_json(path, "download it again")
    try:
        return _from_hf(data)
    except KeyError as error:
        reason = f"the entry {error} is missing"
    except (TypeError, AttributeError) as error:
        reason = f"an entry is not of the kind it should be ({error})"
    except ValueError as error:
        reason = str(error)
    raise ValueError(f"{path} can't be read as byte-level BPE: {reason}")


def _from_hf(data: dict) -> Tokenizer:
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict):
        raise ValueError("it is no tokenizer.json, which is an object with a model in it")
    if model["type"] != "BPE":
        raise ValueError(f"a model of type {model['type']} is not supported")
    for name in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            raise ValueError(f"{name} {model[name]!r} is not supported")
    if data.get("normalizer"):
        raise ValueError(f"the normalizer {data['normalizer'].get('type')} is not supported")
    for name in ("truncation", "padding"):
        if data.get(name):
            raise ValueError(f"{name} is not supported: it changes the ids of a text by its length")
    after = data.get("post_processor") or {}
    for step in after.get("processors", [after]):
        if step.get("type", "ByteLevel") != "ByteLevel":
            raise ValueError(f"the post_processor {step['type']} is not supported: it adds tokens")
    special = {}
    for token in data.get("added_tokens", []):
        if any(token.get(flag) for flag in ("lstrip", "rstrip", "single_word")):
            raise ValueError(f"the added token {token['content']!r} with lstrip, rstrip or single_word is "
                             "not supported")
        special[token["content"]] = token["id"]

    pattern = pattern_of_hf(data.get("pre_tokenizer"))
    byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
    vocab = {bytes_of_name(name, byte_of): i for name, i in model["vocab"].items() if name not in special}
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    halves = [(bytes_of_name(left, byte_of), bytes_of_name(right, byte_of)) for left, right in pairs]
    tokenizer = _from_halves(vocab, halves, special, pattern)
    if model.get("ignore_merges"):   # then a piece that is a token needs no merges
        check_spelling(tokenizer)
    return tokenizer


def bytes_of_name(name: str, byte_of: dict[str, int]) -> bytes:
    """The bytes that a token's name in a tokenizer.json spells."""
    try:
        return bytes(byte_of[c] for c in name)
    except KeyError as error:
        raise ValueError(f"the token {name!r} has the character {error.args[0]!r}, which stands for no "
                         "byte") from None


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
    """Write tiktoken's ranks, one line a token: base64 of its bytes, its id. No place for special tokens.

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
            token, rank = base64.b64decode(text, validate=True), int(i)
        except (ValueError, binascii.Error):
            raise ValueError(f"{path} is no file of tiktoken ranks (line {number}): each line is base64, "
                             "blank, number") from None
        if not token or token in ranks or rank < 0:
            raise ValueError(f"{path} is no file of tiktoken ranks (line {number}): the token {token!r} is "
                             "empty, there twice, or has a negative number")
        ranks[token] = rank
    try:
        halves = [two_halves(token, ranks) for token in sorted(ranks, key=ranks.__getitem__)
                  if len(token) > 1]
        return _from_halves(ranks, halves, special or {}, pattern)
    except ValueError as error:
        raise ValueError(f"{path} can't be read as byte-level BPE: {error}") from None


def two_halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The last merge that makes `token`: join neighbours, the lowest rank below its own first, down to two.

    A heap holds (rank, begin, end) of neighbours that may be joined, some out of date: a token may be long.
    """
    n, parts = len(token), len(token)
    ends, begins = [*range(1, n + 1), n], [*range(-1, n)]   # of a part that begins here; of the one before it
    waiting: list[tuple[int, int, int]] = []

    def consider(begin: int) -> None:
        if begin >= 0 and ends[begin] < n:
            end = ends[ends[begin]]
            if (rank := ranks.get(token[begin:end], ranks[token])) < ranks[token]:
                heapq.heappush(waiting, (rank, begin, end))

    for begin in range(n - 1):
        consider(begin)
    while parts > 2:
        if not waiting:
            raise ValueError(f"the token {token!r} is not two earlier ones joined, which is not supported")
        _, begin, end = heapq.heappop(waiting)
        middle = ends[begin]
        if middle in (GONE, n) or ends[middle] != end:
            continue
        ends[begin], ends[middle], begins[end] = end, GONE, begin
        parts -= 1
        consider(begins[begin])
        consider(begin)
    return token[:ends[0]], token[ends[0]:]
