"""Special tokens in text: only where the caller allows them, the longest name first, also in a stream.

A special token marks structure: the end of a document, whose turn it is in a chat. If the text `<|bot|>`
always became the token <|bot|>, whoever writes the text could speak with the assistant's voice. So names are
plain text unless the caller says otherwise: `tokenizer.encode(text, allowed_special={"<|eos|>"})`. Used by
bpe.py.
"""
from collections.abc import Collection, Iterable, Iterator

import regex

from pretokenize import LAST_SAFE_CUT, PATTERNS

BLOCK = 1 << 16   # characters of a stream that are looked at together


def split_special(text: str, names: Collection[str]) -> list[tuple[str, bool]]:
    """The text in order as (part, is it a special token), from left to right, the longest name first.

    split_special("a<e>b", {"<e>"}) gives [("a", False), ("<e>", True), ("b", False)]. No part is empty.
    """
    # EXERCISE 1.10 special tokens in text
    if not names:
        return [(text, False)] if text else []
    longest_first = "|".join(regex.escape(name) for name in sorted(names, key=len, reverse=True))
    parts = regex.split(f"({longest_first})", text)   # text and names alternate
    return [(part, i % 2 == 1) for i, part in enumerate(parts) if part]
    # END EXERCISE 1.10


def check_special(names: Iterable[str]) -> None:
    """ValueError for names that can't be special tokens: no text, empty, or the same one twice."""
    seen = set()
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"the special token {name!r} is empty or no text: give each a name such as "
                             "<|eos|>")
        if name in seen:
            raise ValueError(f"the special token {name!r} is there twice: each needs a name of its own")
        seen.add(name)


def allowed_names(allowed: str | Collection[str], special: Collection[str]) -> set[str]:
    """What the caller allows, as a set: "all", or a collection of names that exist."""
    if isinstance(allowed, str):
        if allowed != "all":
            raise ValueError(f"allowed_special is \"all\" or a set of names: write {{{allowed!r}}}")
        return set(special)
    unknown = [name for name in allowed if name not in special]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no special token of this tokenizer, which has "
                         f"{', '.join(special) or 'none'}")
    return set(allowed)


def stream_parts(blocks: Iterable[str], pattern: str, names: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Like split_special for a text that arrives in blocks, in parts that can be encoded one by one.

    What is held back is the text after the last safe cut (pretokenize.py), and as many characters as a name
    that has begun could still need. Under a pattern that is not one of ours no cut is known: all text is held
    to the end.
    """
    reach = max(map(len, names), default=1)
    held, waiting, size = "", [], 0
    for block in blocks:
        waiting.append(block)
        size += len(block)
        if size < max(len(held), BLOCK):   # text without a cut is looked at each time it doubles: linear time
            continue
        text = held + "".join(waiting)
        end = 0
        for part, is_special in finished(text, pattern, names, len(text) - reach + 1):
            yield part, is_special
            end += len(part)
        held, waiting, size = text[end:], [], 0
    yield from split_special(held + "".join(waiting), names)


def finished(text: str, pattern: str, names: Collection[str], limit: int) -> Iterator[tuple[str, bool]]:
    """The parts of a stream's beginning that nothing after it can change.

    A name that begins before `limit` is certain: no longer name can begin at its place.
    """
    parts, place = split_special(text, names), 0
    for k, (part, is_special) in enumerate(parts):
        end = place + len(part)
        certain = place < limit if is_special else k + 1 < len(parts) and end < limit   # a name follows
        if not certain:
            if not is_special and pattern in PATTERNS.values():
                cut = LAST_SAFE_CUT.search(text, place, min(end, limit))
                if cut and cut.start() > place:
                    yield text[place:cut.start()], False
            return
        yield part, is_special
        place = end
