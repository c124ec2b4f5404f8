"""Cut text into pieces before any merge: four patterns, and where a text may be cut in two.

Adds to bpe_naive.py the step that all tokenizers of today begin with. Without it the most frequent pairs span
words ("e ", " t"), and "dog.", "dog!" and "dog?" each become a token (Radford et al. 2019, section 2.2). A
regular expression cuts the text into pieces, and merges stay inside.

    python 01_tokenizer/pretokenize.py     what each does to code, numbers, blanks, languages
"""
import re
from collections.abc import Callable, Iterator

import regex

# A word with its leading space | one digit (so that numbers line up digit by digit) | one mark | white space.
PATTERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\s+(?!\S)|\s+"
PATTERNS = {
    "this repository": PATTERN,
    # Radford et al. 2019, encoder.py of the GPT-2 release: digits and marks in runs, contractions apart.
    "GPT-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # OpenAI 2023, tiktoken's cl100k_base: at most three digits, any mark may begin a word, marks take line
    # ends along.
    "GPT-4 (cl100k)": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}"
                      r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    # Meta 2024, tokenizer.py of the Llama 3 release: GPT-4's, several line ends in one piece.
    "Llama 3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
               r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}
SAMPLES = {
    "prose": "The dog's tail, it's wagging!",
    "numbers": "in 2024: 3.14159, 1234567",
    "code": "for i in range(10):\n    x[i] += 1\n\n    return x",
    "white space": "a   b\t\tc \r\n \n  d  ",
    "German": "Die Straße über 8 Brücken",
    "Russian": "Привет, мир",
    "Hindi": "नमस्ते दुनिया",
    "Chinese": "你好，世界。",
    "emoji": "ok 👍🏽👍🏽!!",
}


def splitter(pattern: str) -> Callable[[str], list[str]]:
    """The function that cuts a text into the pieces of `pattern`. ValueError for one that can't be used.

    The four patterns above have a twin for text that is ASCII alone, written for Python's own `re`, three
    times as fast as `regex` and the same pieces; a test compares them on every short ASCII string.
    """
    try:
        compiled = regex.compile(pattern)
    except (regex.error, TypeError) as error:
        raise ValueError(f"the pattern {pattern!r} is no regular expression ({error}): mend it, or leave it "
                         "out") from None
    if compiled.groups:
        raise ValueError(f"the pattern {pattern!r} has a capturing group, which hides the rest: write "
                         "(?:...) for (...)")
    if pattern not in PATTERNS.values():
        return compiled.findall
    ascii_text = re.compile(ascii_twin(pattern), re.ASCII).findall

    def twins(text: str) -> list[str]:
        if text.isascii():
            return ascii_text(text)
        pieces = []
        for part in safe_parts(text, pattern, 1 << 10):   # most parts of an English text are ASCII
            pieces += ascii_text(part) if part.isascii() else compiled.findall(part)
        return pieces
    return twins


def ascii_twin(pattern: str) -> str:
    r"""The pattern in words that `re` knows, for ASCII text: \p{L} is A-Za-z, the possessive `++` is `+`.

    In these patterns what follows a possessive quantifier never matches a character that it took, so giving
    one back changes nothing.
    """
    def ascii_class(found: re.Match) -> str:
        return "[" + found[0].strip("[]").replace(r"\p{L}", "A-Za-z").replace(r"\p{N}", "0-9") + "]"
    plain = re.sub(r"\[[^]]*\]|\\p\{[LN]\}", ascii_class, pattern)
    return re.sub(r"([+*?}])\+", r"\1", plain)


def whole(pieces: list[str], text: str, pattern: str) -> list[str]:
    """The pieces; ValueError if they leave out characters of the text, which our four patterns never do."""
    if pattern not in PATTERNS.values() and sum(map(len, pieces)) < len(text):
        raise ValueError(f"the pattern {pattern!r} leaves out characters of the text: add |[\\s\\S] to it")
    return pieces


# Where a text may be cut in two without changing a piece, for all four patterns: after a letter or digit,
# before a character that is neither. A piece that holds a letter or digit ends with one, and its last run
# stops there with or without what follows; only alternatives made of white space look ahead; none looks back,
# so what comes after the cut is split as if the text began there.
SAFE_CUT = regex.compile(r"(?<=[\p{L}\p{N}])(?=[^\p{L}\p{N}])")
LAST_SAFE_CUT = regex.compile(r"(?r)(?<=[\p{L}\p{N}])(?=[^\p{L}\p{N}])")   # (?r): search from the end


def safe_parts(text: str, pattern: str, size: int = 1 << 16) -> Iterator[str]:
    """Cut a text into parts of about `size` characters that no piece crosses.

    Larger where there is no safe cut: a word of a million letters is one part, and so is any text under a
    pattern that is not one of ours.
    """
    begin = 0
    while len(text) - begin > size and pattern in PATTERNS.values():
        cut = SAFE_CUT.search(text, begin + size)
        if not cut:
            break
        yield text[begin:cut.start()]
        begin = cut.start()
    yield text[begin:]


if __name__ == "__main__":
    for name, sample in SAMPLES.items():
        print(f"{name}: {sample!r}")
        for owner, pattern in PATTERNS.items():
            pieces = splitter(pattern)(sample)
            shown = "|".join(pieces).replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
            print(f"  {owner:<15} {len(pieces):>3}  {shown}")
