"""Bytes to characters: which encoding a page is in, and how to mend text that was once decoded wrongly.

The order is a browser's: byte order mark, then the label of the header, then that of the page. Labels mean
what the WHATWG says they mean and not what Python says: "gb2312" is GBK, "iso-8859-1" is Windows-1252,
"shift_jis" is Microsoft's. Unlike a browser we look whether the bytes agree: many pages declare what they are
not. But a page that has one bad byte, or is cut inside a character, is still what it says.

Sources: https://encoding.spec.whatwg.org/#names-and-labels; mojibake repair after Speer's ftfy.
Used by extract.py and crawl.py.
"""
import codecs
import re
from typing import Any

from html_tokens import tokens

# Python's codec, then every label that the WHATWG reads as it. Where the two differ, the codec is the larger
# set.
LABELS = {label: codec for codec, labels in {
    "utf-8": "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8",
    "utf-16-le": "csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le",
    "utf-16-be": "unicodefffe utf-16be",
    "cp1252": "ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1 iso88591 "
              "iso_8859-1 iso_8859-1:1987 l1 latin1 latin-1 us-ascii windows-1252 x-cp1252 x-user-defined",
    "iso-8859-2": "csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987 l2 latin2",
    "iso-8859-3": "csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 l3 latin3",
    "iso-8859-4": "csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 l4 latin4",
    "iso-8859-5": "csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 iso_8859-5 "
                  "iso_8859-5:1988",
    "iso-8859-6": "arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6 iso-8859-6-e "
                  "iso-8859-6-i iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987",
    "iso-8859-7": "csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso8859-7 iso88597 "
                  "iso_8859-7 iso_8859-7:1987 sun_eu_greek",
    "iso-8859-8": "csiso88598e csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-ir-138 iso8859-8 iso88598 "
                  "iso_8859-8 iso_8859-8:1988 visual csiso88598i iso-8859-8-i logical",
    "iso-8859-10": "csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6",
    "iso-8859-13": "iso-8859-13 iso8859-13 iso885913", "iso-8859-14": "iso-8859-14 iso8859-14 iso885914",
    "iso-8859-15": "csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9",
    "iso-8859-16": "iso-8859-16",
    "cp866": "866 cp866 csibm866 ibm866", "koi8-r": "cskoi8r koi koi8 koi8-r koi8_r",
    "koi8-u": "koi8-ru koi8-u",
    "mac-roman": "csmacintosh mac macintosh x-mac-roman", "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "cp874": "dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874",
    "cp1250": "cp1250 windows-1250 x-cp1250", "cp1251": "cp1251 windows-1251 x-cp1251",
    "cp1253": "cp1253 windows-1253 x-cp1253", "cp1255": "cp1255 windows-1255 x-cp1255",
    "cp1254": "cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 "
              "l5 latin5 windows-1254 x-cp1254",
    "cp1256": "cp1256 windows-1256 x-cp1256", "cp1257": "cp1257 windows-1257 x-cp1257",
    "cp1258": "cp1258 windows-1258 x-cp1258",
    "gb18030": "chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 x-gbk gb18030",
    "big5hkscs": "big5 big5-hkscs cn-big5 csbig5 x-x-big5",
    "cp932": "csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis",
    "euc_jp": "cseucpkdfmtjapanese euc-jp x-euc-jp", "iso2022_jp_ext": "csiso2022jp iso-2022-jp",
    "cp949": "cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 "
             "windows-949",
    # Refused by browsers, because a page in them can hide markup from a filter; here there is nothing to hide
    # from.
    "hz": "hz-gb-2312", "iso2022_kr": "csiso2022kr iso-2022-kr"}.items() for label in labels.split()}
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# Windows-1252 with its five holes filled as Latin-1 does: what browsers mean by either name.
CP1252: Any = "".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in range(256))
SLOPPY = {c: b for b, c in enumerate(CP1252)} | {chr(b): b for b in range(128, 160)}
MOJIBAKE = re.compile("[" + "".join(re.escape(c) for c, b in SLOPPY.items() if 0xC2 <= b < 0xF5) + "]["
                      + "".join(re.escape(c) for c, b in SLOPPY.items() if 0x80 <= b < 0xC0) + "]{1,3}")
CHARSET = re.compile(r"(?i)charset\s*=\s*[\"']?\s*([^\s\"';,]+)")
# The beginning of a character of UTF-8 at the end of a file: the rest was cut off.
CUT = re.compile(rb"(?:[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z")
# Characters of vendors that Python's codec lacks: circled numbers in EUC-JP, Windows' additions to Big5.
SECOND = {"euc_jp": "euc_jis_2004", "big5hkscs": "cp950"}


def beginning(body: bytes, limit: int) -> bytes:
    """The first `limit` bytes, back to the last blank, line break or '>' if that cuts: no half characters."""
    # EXERCISE 6.14 the beginning of a page
    if len(body) <= limit:
        return body
    cut = body[:limit]
    return cut[:max(cut.rfind(b" "), cut.rfind(b">"), cut.rfind(b"\n")) + 1] or cut
    # END EXERCISE 6.14


def decode(body: bytes, content_type: str = "") -> tuple[str, str]:
    """(text, codec) of a page: byte order mark, then what header and page declare, then UTF-8, then a guess.

    A declaration is believed if nearly all of the bytes agree with it. What is no character becomes U+FFFD.
    """
    for mark, codec in BOMS:
        if body.startswith(mark):
            return body.decode(codec, "replace"), codec
    utf8 = read_as(body, "utf-8")
    bad = utf8.count("\ufffd") - body.count("\ufffd".encode())
    good = len(utf8) - len(utf8.encode("ascii", "ignore")) - bad
    clean = bad <= good / 10                           # no other encoding of a longer text looks so by chance
    labels = declared(body, content_type)
    for codec in labels if good < 5 or not clean else []:
        if codec == "utf-8" and bad <= good or codec[:6] == "utf-16" and clean and b"\0" not in body:
            break                                            # an ASCII page that says UTF-16 is none
        if codec != "utf-8":
            text = read_as(body, codec)
            wrong, foreign = text.count("\ufffd"), len(text) - len(text.encode("ascii", "ignore"))
            if wrong <= max(1, foreign / 10):                # one bad byte spoils one character, not the page
                return text, codec
    if bad <= good:
        return utf8, "utf-8"
    cut = CUT.search(body)
    if cut and bad == 1 and (len(cut[0]) > 1 or "utf-8" in labels):
        return utf8, "utf-8"                                 # ASCII, and its only other character is cut
    guesses = {codec: read_as(body[:20000], codec) for codec in ("cp1252", "koi8-r", "cp1251", "iso-8859-2")}
    codec = max(guesses, key=lambda c: _plausible(guesses[c]))
    return read_as(body, codec), codec


def declared(body: bytes, content_type: str) -> list[str]:
    """The codecs of the labels in the header and in the page, in this order. Unknown labels are left out.

    A page that can be read up to its label is not in UTF-16, so there that label means UTF-8.
    """
    if body.startswith((b"<\0", b"\0<")):
        return ["utf-16-be" if body[0] == 0 else "utf-16-le"]
    header, inside = CHARSET.findall(content_type)[:1], []
    start = body[:4096].decode("latin-1")
    if not content_type.lower().startswith("text/plain"):
        inside += re.findall(r"^<\?xml[^>]*?encoding\s*=\s*[\"']([^\"'>]+)", start)
        for token in tokens(start):
            if token.kind == "start" and token.value == "meta":
                content = token.attributes.get("content", "") if "http-equiv" in token.attributes else ""
                named = token.attributes.get("charset")
                inside += CHARSET.findall(content) if named is None else [named]

    def codecs_of(labels: list[str]) -> list[str]:
        return [LABELS[x.strip().lower()] for x in labels if x.strip().lower() in LABELS]

    return codecs_of(header) + ["utf-8" if codec[:6] == "utf-16" else codec for codec in codecs_of(inside)]


def read_as(body: bytes, codec: str) -> str:
    """Decode; what is no character becomes U+FFFD. Of two choices the one with fewer of them."""
    if codec == "cp1252":
        return codecs.charmap_decode(body, "replace", CP1252)[0]
    text = body.decode(codec, "replace")
    if codec in SECOND and "\ufffd" in text:
        return min(text, body.decode(SECOND[codec], "replace"), key=lambda t: t.count("\ufffd"))
    return text


def _plausible(text: str) -> float:
    """How much decoded text looks written by people: letters inside words agree in case and alphabet."""
    # a wrong codec often swaps case
    foreign = [c for c in re.findall(r"[^\W\d_a-zA-Z]", text) if c.islower()]
    oddities = len(re.findall(
        r"[\ufffd\x80-\x9f]|[a-zа-яß-ÿ][A-ZА-ЯÀ-Þ]|[a-zA-Z][а-яА-Я]|[а-яА-Я][a-zA-Z]|[à-ÿ]{4}", text))
    symbols = len(re.findall(r"[¡-¿×÷─-▟°√≈≤≥]", text))
    return (len(foreign) - 3 * oddities - 2 * symbols) / (len(text) + 1)


def repair_mojibake(text: str) -> str:
    """UTF-8 that someone read as Windows-1252 and saved again: 'cafÃ©' back to 'café'. Other text stays."""
    def mend(match: re.Match) -> str:
        raw = bytes(SLOPPY[c] for c in match.group())
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return match.group()                             # 'Â«' beside 'É' and the like: it meant itself
    return MOJIBAKE.sub(mend, text)
