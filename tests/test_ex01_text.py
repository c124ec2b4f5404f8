"""Exercises of chapter 1, second part: text to ids and back. A learner sees the docstrings."""
import codecs
import random

import numpy as np
import pytest

from bpe import EOS, SPECIAL, Tokenizer, train
from special_tokens import split_special
from streaming import StreamDecoder
from token_file import pack


def apply_in_order(ids: list[int], merges: list[tuple[int, int]]) -> list[int]:
    """Encoding by brute force: every merge in the order it was learned, through the whole piece."""
    for new_id, (a, b) in enumerate(merges, 256):
        out = []
        for i in ids:
            if out and out[-1] == a and i == b:
                out[-1] = new_id
            else:
                out.append(i)
        ids = out
    return ids


# 1.4 pack documents

@pytest.mark.ex("1.4")
def test_documents_stand_between_end_marks():
    """the row starts with <|eos|> and each document is followed by one"""
    tokenizer = Tokenizer([(97, 98)])
    e = tokenizer.special[EOS]
    for documents, wanted in ((["ab", "c"], [e, 256, e, 99, e]), (["a"], [e, 97, e]), ([], [e]),
                              (["", "a"], [e, e, 97, e])):
        got = np.asarray(pack(tokenizer, documents)).tolist()
        assert got == wanted, (f"given {documents} and {e} for <|eos|>, got {got}, wanted {wanted}: "
                               "one end mark first, then one after every document, the last too")


@pytest.mark.ex("1.4")
def test_a_packed_row_takes_two_bytes_a_token():
    """the row is an array of two-byte numbers"""
    got = pack(Tokenizer([]), ["abc"])
    assert isinstance(got, np.ndarray) and got.dtype == np.dtype("<u2") and got.shape == (5,), (
        f"got {type(got).__name__} {getattr(got, 'dtype', '')} {getattr(got, 'shape', '')}, "
        "wanted an array (5,) of little-endian uint16: use DTYPE")


@pytest.mark.ex("1.4")
def test_documents_may_come_from_a_generator():
    """every document is in the row, once and in order, also when they come one by one"""
    texts = ["".join(random.choices("abc <|>", k=random.randint(1, 9))) for _ in range(6)] + ["say <|eos|>"]
    texts += ["\n a line  \n", "", "\r\n", "z" * 70_000]
    tokenizer = Tokenizer([(97, 98), (256, 99)])
    row = np.asarray(pack(tokenizer, (text for text in texts))).tolist()
    got, document = [], []
    for i in row[1:]:
        if i == tokenizer.special[EOS]:
            got.append(tokenizer.decode(document))
            document = []
        else:
            document.append(i)
    short = [[text[:20] for text in some] for some in (texts, got)]
    assert got == texts, (f"given {short[0]}, the last of 70,000 letters, the row of {len(row)} ids decodes "
                          f"to {short[1]}, wanted the same texts, each closed by <|eos|>")


# 1.5 ids to bytes

@pytest.mark.ex("1.5")
def test_ids_become_the_bytes_they_stand_for():
    """bytes and merged tokens become their bytes, in order and with nothing between"""
    tokenizer = Tokenizer([(97, 98), (256, 99)])
    for ids, wanted in (([97, 257, 256], b"aabcab"), ([], b""), ([0, 10, 255], b"\x00\n\xff")):
        got = tokenizer.decode_bytes(ids)
        assert got == wanted, f"with 256 for ab and 257 for abc, {ids} gave {got!r}, wanted {wanted!r}"
        assert type(got) is bytes, f"got a {type(got).__name__}, wanted bytes, which never change"


@pytest.mark.ex("1.5")
def test_half_a_character_keeps_its_bytes():
    """a token that is half a character keeps its bytes"""
    for ids in ([0xC3], [0xE2, 0x82], list("naïve €".encode())):
        got = Tokenizer([]).decode_bytes(ids)
        assert got == bytes(ids), (
            f"given {ids}, got {got!r}, wanted {bytes(ids)!r}: join bytes, never go through text")


@pytest.mark.ex("1.5")
def test_special_tokens_appear_by_name():
    """special tokens appear by name"""
    tokenizer = Tokenizer([(97, 98)], special=(*SPECIAL, "<|début|>"))
    for name in tokenizer.special:
        try:
            got = tokenizer.decode_bytes([256, tokenizer.special[name], 98])
        except (ValueError, IndexError) as error:
            pytest.fail(f"the id {tokenizer.special[name]} of {name} raised '{error}': look in the special "
                        "tokens too")
        assert got == b"ab" + name.encode() + b"b", f"got {got!r}, wanted {name} between ab and b"


@pytest.mark.ex("1.5")
def test_an_id_outside_the_vocabulary_is_refused():
    """an id that does not exist is a ValueError that says which"""
    tokenizer = Tokenizer([(97, 98)], special=(EOS,))
    for bad in (-1, -258, 258, 70_000):
        try:
            got = tokenizer.decode_bytes([97, bad])
        except ValueError as error:
            assert str(bad) in str(error), f"the error for id {bad} says '{error}', wanted {bad} in it"
        except (IndexError, KeyError) as error:
            pytest.fail(f"id {bad} raised {type(error).__name__}, wanted a ValueError with a sentence")
        else:
            pytest.fail(f"id {bad} of a vocabulary of 258 gave {got!r}, wanted a ValueError: "
                        "in Python a negative index is not an error, it counts from the end")


# 1.7 encode one piece

@pytest.mark.ex("1.7")
def test_the_pair_learned_first_is_merged_first():
    """the pair that was learned first goes first, not the leftmost"""
    tokenizer = Tokenizer([(98, 99), (97, 98)])   # bc is 256, ab is 257
    got = tokenizer.encode_piece([97, 98, 99])
    assert list(got) == [97, 256], (f"with bc learned before ab, 'abc' gave {got}, wanted [97, 256]: choose "
                                    "by rank, not by place, and merge number i makes token 256 + i")


@pytest.mark.ex("1.7")
def test_merging_goes_on_until_nothing_is_left():
    """merging goes on with merged tokens until no pair is known"""
    tokenizer = Tokenizer([(97, 98), (256, 256), (257, 97)])   # ab, abab, ababa
    for text, wanted in (("ababa", [258]), ("abab", [257]), ("ab", [256]), ("abz", [256, 122]),
                         ("zz", [122, 122]), ("z" * 300 + "ab" * 300, [122] * 300 + [257] * 150)):
        got = tokenizer.encode_piece(list(text.encode()))
        assert got == wanted, (
            f"with ab, abab, ababa learned in this order, '{text}' gave {got}, wanted {wanted}")


@pytest.mark.ex("1.7")
def test_merges_beyond_the_first_256_have_their_ids():
    """merge number 256 makes token 512"""
    tokenizer = Tokenizer([(i, 255) for i in range(256)] + [(97, 98)])
    got = tokenizer.encode_piece([97, 98])
    assert list(got) == [512], (
        f"with ab as merge number 256, 'ab' gave {got}, wanted [512]: add 256 to the rank")


@pytest.mark.ex("1.7")
def test_a_piece_of_one_byte_or_none_stays():
    """a piece of one byte, or none, stays as it is"""
    for ids in ([97], []):
        try:
            got = Tokenizer([(97, 97)]).encode_piece(ids)
        except (ValueError, IndexError) as error:
            pytest.fail(f"encode_piece({ids}) raised '{error}': a piece without pairs is finished")
        assert got == ids, f"encode_piece({ids}) gave {got}, wanted a list with the same ids"
        assert got is not ids, f"encode_piece({ids}) gave the caller's own list back: return a new one"


@pytest.mark.ex("1.7")
def test_encoding_equals_applying_the_merges_in_order():
    """the same ids as applying all merges one after the other, on random words"""
    words = ["".join(random.choices("abcd", k=random.randint(1, 8))) for _ in range(40)]
    merges = train([" ".join(words[:20])], 256 + 12, pattern=r"\S+")
    tokenizer = Tokenizer(merges)
    for word in words:
        ids = list(word.encode())
        got = tokenizer.encode_piece(ids)
        wanted = apply_in_order(list(word.encode()), merges)
        assert list(got) == wanted, f"with the merges {merges}, {word!r} gave {got}, wanted {wanted}"
        assert ids == list(word.encode()), (
            f"the list {list(word.encode())} that was given is now {ids}, wanted it unchanged")


# 1.8 streaming decode

@pytest.mark.ex("1.8")
def test_a_cut_character_appears_when_it_is_complete():
    """a character appears with the token that completes it, not before and not later"""
    edges = "\x80\u07ff\u0800\uffff\U00010000\U0010ffff"   # the first and last of two, three and four bytes
    for character in "aß€\U0001F600\ufeff\0\r" + edges:
        decoder, data = StreamDecoder(Tokenizer([])), character.encode()
        got = [decoder.feed(byte) for byte in b"x" + data + b"y"]
        wanted = ["x"] + [""] * (len(data) - 1) + [character, "y"]
        assert got == wanted, (
            f"fed the bytes of {'x' + character + 'y'!r} one by one, got {got}, wanted {wanted}: are the "
            "bytes of an unfinished character held back, and is its length read from its first byte?")


@pytest.mark.ex("1.8")
def test_what_is_complete_is_not_held_back():
    """what is complete is printed at once, only the unfinished character waits"""
    euro = "€".encode()
    # 256 is ab, 257 ab and one third of €, 258 ab and two thirds, 259 the last third and z
    tokenizer = Tokenizer([(97, 98), (256, euro[0]), (257, euro[1]), (euro[2], 122)])
    decoder = StreamDecoder(tokenizer)
    got = [decoder.feed(i) for i in (258, 259, 257, euro[1], euro[2])]
    assert got == ["ab", "€z", "ab", "", "€"], (
        f"fed ab + two bytes of €, its last byte + z, ab + one byte, the second byte, the third, got {got}, "
        "wanted ['ab', '€z', 'ab', '', '€']: cut just before the unfinished character")


@pytest.mark.ex("1.8")
def test_broken_bytes_do_not_hold_back_what_follows():
    """broken bytes hold nothing back once it is clear that they are broken"""
    decoder = StreamDecoder(Tokenizer([(97, 0x80)]))
    got = decoder.feed(0xE2) + decoder.feed(97)
    assert got == "\ufffda", (f"fed the first byte of €, then a, got {got!r} in all, wanted a mark and a: "
                              "the a shows that no € will come")
    got = decoder.feed(256)
    assert got == "a\ufffd", f"fed a and a byte that continues nothing, got {got!r}, wanted 'a\ufffd' at once"


@pytest.mark.ex("1.8")
def test_bytes_that_begin_nothing_are_broken_at_once():
    """C0, C1 and F5 to FF begin no character: their mark is printed at once"""
    for byte in (0xC0, 0xC1, 0xF5, 0xF7, 0xF8, 0xFD, 0xFF):
        decoder = StreamDecoder(Tokenizer([]))
        theirs = codecs.getincrementaldecoder("utf-8")(errors="replace")
        got = [decoder.feed(b) for b in (97, byte, 0xC2, 0xA0, byte, 98)]
        wanted = [theirs.decode(bytes([b])) for b in (97, byte, 0xC2, 0xA0, byte, 98)]
        assert got == wanted, (
            f"fed a, {byte:02X}, C2, A0, {byte:02X} and b one by one, got {got}, wanted {wanted}: {byte:02X} "
            "occurs in no UTF-8, nothing that follows can complete it")


@pytest.mark.ex("1.8")
def test_streamed_text_equals_decoding_everything():
    """all that was fed and the rest equal the text decoded at once, broken bytes included"""
    text = "".join(random.choices("ab ßé€漢\U0001F600", k=30))
    broken = [random.randrange(256) for _ in range(40)]
    tokenizer = Tokenizer(train([text * 2], 270, pattern=r"(?s).+"))
    for ids in (tokenizer.encode(text), list(text.encode()), broken, [0xE2, 0x82, 0x61, 0xF0, 0x9F]):
        decoder = StreamDecoder(tokenizer)
        got = "".join(decoder.feed(i) for i in ids) + decoder.finish()
        wanted = tokenizer.decode_bytes(ids).decode("utf-8", errors="replace")
        at = next((i for i, (a, b) in enumerate(zip(got, wanted)) if a != b), min(len(got), len(wanted)))
        assert got == wanted, (f"fed {len(ids)} tokens; from character {at} on streamed {got[at:at + 8]!r}, "
                               f"wanted {wanted[at:at + 8]!r}: is every byte decoded once?")


@pytest.mark.ex("1.8")
def test_the_end_shows_an_unfinished_character_as_a_mark():
    """an unfinished character at the end waits for finish(), which shows one U+FFFD"""
    for start in ("ß".encode()[:1], "€".encode()[:2], "\U0001F600".encode()[:3]):
        decoder = StreamDecoder(Tokenizer([]))
        got = [decoder.feed(byte) for byte in b"ok" + start] + [decoder.finish()]
        wanted = ["o", "k"] + [""] * len(start) + ["\ufffd"]
        assert got == wanted, (f"fed {b'ok' + start!r} byte by byte, then finish(), got {got}, wanted "
                               f"{wanted}: is what waits kept in self._held?")


# 1.10 special tokens in text

@pytest.mark.ex("1.10")
def test_text_and_names_come_in_order():
    """text and special tokens come in order, each with what it is"""
    for text, wanted in (("a<e>b", [("a", False), ("<e>", True), ("b", False)]),
                         ("<e>x <u> y", [("<e>", True), ("x ", False), ("<u>", True), (" y", False)]),
                         ("no name", [("no name", False)]), ("e> <e", [("e> <e", False)])):
        got = split_special(text, ["<e>", "<u>"])
        kinds = type(got), *{tuple(map(type, part)) for part in got}
        assert kinds == (list, (str, bool)), f"got {got}, wanted a list of (text, True or False)"
        assert got == wanted, f"split_special({text!r}, ['<e>', '<u>']) gave {got}, wanted {wanted}"


@pytest.mark.ex("1.10")
def test_no_part_is_empty():
    """no part is empty: names at the ends or side by side have nothing between them"""
    for text, wanted in (("<e><e>", [("<e>", True), ("<e>", True)]), ("", []), ("<e>", [("<e>", True)]),
                         ("<e> <e>", [("<e>", True), (" ", False), ("<e>", True)])):
        got = split_special(text, {"<e>"})
        assert got == wanted, f"split_special({text!r}, {{'<e>'}}) gave {got}, wanted {wanted}"


@pytest.mark.ex("1.10")
def test_the_longest_name_counts():
    """where several names begin, the longest counts, whatever their order"""
    for names in (["ab", "abcd", "abc"], ["abcd", "abc", "ab"], ["abc", "ab", "abcd"]):
        got = split_special("xabcdabcab", names)
        wanted = [("x", False), ("abcd", True), ("abc", True), ("ab", True)]
        assert got == wanted, f"split_special('xabcdabcab', {names}) gave {got}, wanted {wanted}"


@pytest.mark.ex("1.10")
def test_a_name_is_no_pattern():
    """a name stands for its own characters, not for a pattern"""
    names = ["<|a|>", "[x]", "b+", "."]
    got = split_special("a<|a|>x[x]bb+B+<|A|>", names)
    wanted = [("a", False), ("<|a|>", True), ("x", False), ("[x]", True), ("b", False), ("b+", True),
              ("B+<|A|>", False)]
    assert got == wanted, (f"split_special('a<|a|>x[x]bb+B+<|A|>', {names}) gave {got}, wanted {wanted}: | "
                           "and + and . mean something to a regular expression, escape them; and B is not b")


@pytest.mark.ex("1.10")
def test_without_names_all_is_text():
    """without names all is text, and the parts joined are the text again"""
    got = split_special("a<e>", [])
    assert got == [("a<e>", False)], f"without names, 'a<e>' gave {got}, wanted [('a<e>', False)]"
    got = split_special("", [])
    assert got == [], f"without names, the empty text gave {got}, wanted []: no part is empty"
    text = "".join(random.choices(["<e>", "<e", ">", "a ", "\n"], k=30))
    got = "".join(part for part, _ in split_special(text, ["<e>", "<e"]))
    assert got == text, f"the parts of {text!r} joined are {got!r}"


@pytest.mark.ex("1.10")
def test_a_text_with_many_names():
    """forty names in one text, of six kinds, are all found"""
    names = [f"<{c}>" for c in "abcdef"]
    chosen = random.choices(names, k=40)
    got = split_special("x".join(chosen), names)
    wanted = [part for name in chosen for part in ((name, True), ("x", False))][:-1]
    assert got == wanted, f"40 names, an x between them: {len(got)} parts, {got[:5]} ..., not {len(wanted)}"
