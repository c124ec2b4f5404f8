"""Chapter 6: text that a browser shows is not lost, whatever is wrong with the markup or the bytes."""
import random
import re

import pytest

import charset
import extract
import planted
from html_tokens import tokens, unescape_value

PARAGRAPH = ("This is a paragraph of ordinary text, long enough to be what a reader came for, and it says "
             "nothing that anybody would need to know. It has a second sentence, and looks like no menu.")
MENU = '<ul><li><a href="/1">Home</a><li><a href="/2">News</a><li><a href="/3">Contact us</a></ul>'
SHOWN = {
    "</head> left out": f"<html><head><title>A title</title><style>p {{}}</style><body>{MENU}<p>{PARAGRAPH}",
    "<head> and text": f"<head><title>A title</title>{PARAGRAPH}",
    "one form around the page": f"<body><form action=/>{MENU}<p>{PARAGRAPH}</p></form>",
    "two forms": f"<form><p>{PARAGRAPH}</p></form><form><p>{PARAGRAPH[:150]}</p></form>",
    "a header around the page": f"<header>{MENU}<p>{PARAGRAPH}</p></header>",
    "one link around the page": f'<a href="/x"><h1>Title</h1><p>{PARAGRAPH}</p></a>',
    "a named place around the page": f"<p><a name=top>{PARAGRAPH}</a></p>",
    "an anchor nobody closed": f'<p><a href="/x">A link<p>{PARAGRAPH}',
    "a name nobody closed": f"<p><a name=top>{PARAGRAPH}</p>",
    "an anchor closed far away": f'<h1><a href="/x">Title</h1><p>{PARAGRAPH}</p></a>',
    "a nav nobody closed": f"<nav>{MENU}<p>{PARAGRAPH}",
    "an aside nobody closed": f"<div><aside>Ours</div><p>{PARAGRAPH}",
    "a button nobody closed": f"<button>Menu<p>{PARAGRAPH}<button>Go</button>",
    "a drawing nobody closed": f"<svg><path d=x><p>{PARAGRAPH}",
    "a drawing that closes itself": f"<svg/><p>{PARAGRAPH}",
    "a drawing with a style that closes itself": f"<svg><style/></svg><p>{PARAGRAPH}",
    "a choice nobody closed": f"<select><option>One<p>{PARAGRAPH}",
    "a comment ended by --!>": f"<!-- a --!><p>{PARAGRAPH}",
    "<!-->": f"<!--><p>{PARAGRAPH}", "<!--->": f"<!---><p>{PARAGRAPH}", "<!>": f"<!><p>{PARAGRAPH}",
    "-- > in a comment": f"<!-- a -- > b --><p>{PARAGRAPH}",
    "<!-- in a script": f"<script>var a = '<!--';</script><p>{PARAGRAPH}",
    "a script hidden in a comment": f"<script><!--\nif (a < b) {{}}\n//--></script><p>{PARAGRAPH}",
    "a script in a hidden script": f"<script><!-- w('<script></script>') --></script><p>{PARAGRAPH}",
    "<!-- in a style": f"<style><!-- p {{}} </style><p>{PARAGRAPH}",
    "<!-- in a title": f"<title>a <!-- b</title><p>{PARAGRAPH}",
    "<!-- in an attribute": f'<p title="<!--">{PARAGRAPH}',
    "> in an attribute": f'<p title="a > b">{PARAGRAPH}',
    "a quote nobody closed": f"<p title='a>{PARAGRAPH}",
    "a processing instruction": f"<?php a ?><p>{PARAGRAPH}",
    "an upper-case end": f"<SCRIPT>a</ScRiPt\n ><P>{PARAGRAPH}",
    "an end of nothing": f"</ul></div></form></a><p>{PARAGRAPH}",
    "a template that is shown": f"<div><template shadowrootmode=open><p>{PARAGRAPH}</p></template></div>",
    "inline tags nobody knows": "<p>" + "".join(f"<my-word>{w}</my-word> " for w in PARAGRAPH.split()),
    "<ins> and <dfn>": "<p>" + " ".join(f"<dfn>{w}</dfn>" if i % 3 else f"<ins>{w}</ins>"
                                        for i, w in enumerate(PARAGRAPH.split())),
    "a number of 6,000 digits": f"<p>&#{'9' * 6000};{PARAGRAPH}", "<plaintext>": f"<plaintext>{PARAGRAPH}",
    "<xmp>": f"<xmp>{PARAGRAPH}</xmp>",
    "a self-made doctype": f"<!DOCTYPE html [<!ENTITY a 'b'>]><p>{PARAGRAPH}",
}


ENDS = {
    "a list": "<ul><li>eggs<li>two spoons of flour</ul>", "a list nobody closed": "<ul><li>eggs",
    "items without a list": "<li>eggs</li>", "a definition": "<dl><dt>Eggs</dt><dd>two</dd></dl>",
    "a definition nobody closed": "<dl><dt>Eggs<dd>two",
    "definitions without a list": "<dt>Eggs</dt><dd>two</dd>",
    "a list in a list": "<ul><li>eggs<ul><li>brown</ul>fresh ones</ul>",
    "paragraphs in items": "<ul><li><p>eggs</ul>",
    "numbered": "<ol start=3><li value=7>eggs</ol>",
    "divisions in a list": "<ul><li><div>eggs</div><div>two</div></ul>",
    "code": "<pre>print(1)</pre>",
    "divisions in definitions": "<dl><div><dt>Eggs</dt><dd>two</dd></div></dl>",
}


@pytest.mark.parametrize("name", ENDS)
def test_the_short_items_that_a_page_ends_in_are_not_lost(name):
    found, _ = extract.extract(f"<body>{MENU}<p>{PARAGRAPH}</p>{ENDS[name]}".encode(), "text/html")
    assert found.split()[-3:] == (PARAGRAPH + " " + re.sub("<[^>]*>", " ", ENDS[name])).split()[-3:]
    assert "Home" not in found


@pytest.mark.parametrize("name", SHOWN)
def test_text_that_a_browser_shows_is_not_lost(name):
    found, problem = extract.extract(SHOWN[name].encode(), "text/html")
    assert PARAGRAPH in found and not problem
    assert "Home" not in found and "var a" not in found


@pytest.mark.parametrize("html", [f"<p>{PARAGRAPH}</p><!-- hidden", f"<p>{PARAGRAPH}</p><script>hidden",
                                  f"<p>{PARAGRAPH}</p><a hidden",
                                  f"<template>hidden</template><p>{PARAGRAPH}",
                                  f"<title>hidden</title><p>{PARAGRAPH}",
                                  f"<svg><title>hidden</title><text>hidden</text></svg><p>{PARAGRAPH}",
                                  f"<script><!--<script>hidden</script>hidden</script>--><p>{PARAGRAPH}",
                                  f"<p>{PARAGRAPH}</p><nav>{'hidden words beside the text. ' * 4}</nav>",
                                  f"<p>{PARAGRAPH}</p><a href=x>{'hidden words in a link. ' * 4}</a>"])
def test_what_a_browser_hides_and_what_is_beside_the_text_stays_out(html):
    assert extract.extract(html.encode(), "text/html")[0].replace("-->", "").strip() == PARAGRAPH


@pytest.mark.parametrize("html, items", [
    (f"<p>{PARAGRAPH}</p><ul><li>The first item<li>The second item of the list</ul>",
     ["The first item", "The second item of the list"]),
    (f"<p>{PARAGRAPH}</p><ol><li><p>The only item, a little longer than the others are.</p></li></ol></html>",
     ["The only item, a little longer than the others are."]),
    (f"<ul><li>{PARAGRAPH}<li>Four<li>short<li>last<li>items</ul><p>{PARAGRAPH}",
     ["Four", "short", "last", "items"])])
def test_the_items_of_a_list_stay_with_the_text_before_them(html, items):
    found = extract.extract(html.encode(), "text/html")[0].split("\n\n")
    assert found[:len(items) + 1] == [PARAGRAPH, *items]


def test_a_menu_behind_the_text_is_still_a_menu():
    assert extract.extract(f"<p>{PARAGRAPH}</p>{MENU}".encode(), "text/html")[0] == PARAGRAPH


def test_a_page_whose_markup_begins_late_is_still_a_page():
    body = b"\n" * 30_000 + f"<nav>{MENU}</nav><p>{PARAGRAPH}</p>".encode()
    assert extract.extract(body, "text/html") == (PARAGRAPH, "")


def test_in_xhtml_every_tag_can_close_itself():
    body = f'<html><head><title/><script src="x"/></head><p><![CDATA[{PARAGRAPH}]]></p></html>'.encode()
    assert extract.extract(body, "application/xhtml+xml")[0] == PARAGRAPH
    assert extract.extract(body, "text/html")[1] == "no main text", (
        "in HTML they do not: a browser shows nothing")


def test_a_chinese_page_has_words_too():
    text = ("北京是中华人民共和国的首都，是全国的政治中心、文化中心，也是世界上人口最多的首都之一。"
            "这座城市有三千多年的历史，") * 2
    page = f'<meta charset=gb2312><ul><li><a href="/">首页</a><li><a href="/2">新闻</a></ul><p>{text}</p>'
    assert extract.extract(page.encode("gb18030"), "")[0] == text


def test_one_damaged_tag_costs_little_of_any_page():
    """Tags are dropped, doubled and put where they do not belong. (A title without end leaves nothing.)"""
    rng, pages = random.Random(0), [p for p in planted.build(0) if p.kind == "article"]
    stray = ["<a href=x>", "<nav>", "<header>", "<aside>", "<form>", "<button>", "<svg>", "<menu>", "<h2>",
             "<select>", "</div>",
             "<a name=x>", "<template>", "<li>", "<!-->", "<table>", "</a>", "</nav>"]
    lost = []
    for _ in range(150):
        page = rng.choice(pages)
        html = page.body.decode()
        tag = rng.choice([m for m in re.finditer(r"<[^>]*>", html)
                          if m[0] not in ("</title>", "</style>", "</script>")])
        how = rng.choice(["", tag[0] * 2, tag[0] + rng.choice(stray)])
        damaged = html[:tag.start()] + how + html[tag.end():]
        before, after = (extract.word_score(extract.main_text(h), page.gold)[1] for h in (html, damaged))
        lost.append(before - after)
    assert sum(x > 0.3 for x in lost) <= 4 and sum(lost) / len(lost) < 0.02


@pytest.mark.parametrize("piece", ["<", "<a ", '<a b="', "<a b='x", "<!--", "<!-- --!",
                                   "<script><!--<script>", "<nav>x ", "<svg>", "<svg><p>",
                                   "<title>", "</", "<br>", "<select>", "<button>x", "<a href=x>x",
                                   "<meta charset=", "&#", "&notit", "<h1>x",
                                   "<![CDATA[", "<?", "<template>x", "a\u0301\u0327", "\u0301", "<li>x",
                                   "\u3000", "<b>x</i>"])
def test_a_page_of_unfinished_pieces_takes_no_longer_than_another(piece):
    extract.extract((piece * 20_000).encode(), "text/html")
    extract.extract((piece * 9 + "\u0301" * 90_000 + "\u0327" * 90_000).encode(), "text/html")


def test_attributes_are_read_as_in_a_browser():
    found = next(tokens("""<A HREF='?a=1&copy=2&amp;b=&lt;&section=3' title = "x > y"href=b disabled x=/>"""))
    assert found.attributes == {"href": "?a=1&copy=2&b=<&section=3", "title": "x > y", "disabled": "",
                                "x": "/"}
    assert unescape_value("&copy &copy; &copyx &#65 &#x42;&unknown;") == "© © &copyx A B&unknown;"


TEXT = "Größe, naïve café, Łódź, Привет and 日本語: "
PAGE = f"<p>{TEXT * 3}".encode()


@pytest.mark.parametrize("content_type", ["", "text/html; charset=utf-8", "text/html; charset=gb2312",
                                          "text/html; charset=shift_jis"])
def test_one_bad_byte_or_a_cut_character_spoils_one_character(content_type):
    for at in range(3, len(PAGE), 7):
        text, _ = charset.decode(PAGE[:at] + b"\xff" + PAGE[at:], content_type)
        assert text.count("é") >= 2 and text.count("語") >= 2 and text.count("Привет") >= 2, at
    for end in range(len(PAGE) - len(TEXT.encode()), len(PAGE)):
        text, _ = charset.decode(PAGE[:end], content_type)
        assert text.rstrip("\ufffd") == PAGE[:end].decode("utf-8", "ignore")
    assert charset.decode(b"Only the end is cut: " + "日".encode()[:2])[0] == "Only the end is cut: \ufffd"


@pytest.mark.parametrize("label, codec, text", [
    ("gb2312", "gbk", "朱镕基说中文"), ("GBK", "gb18030", "朱镕基"), ("shift_jis", "cp932", "①㈱髙島屋"),
    ("x-sjis", "cp932", "①"),
    ("ks_c_5601-1987", "cp949", "똠방각하"), ("euc-kr", "cp949", "똠방각하"),
    ("iso-8859-1", "cp1252", "“quotes” – €"),
    ("us-ascii", "cp1252", "“é”"), ("iso-8859-9", "cp1254", "€ ığüş"), ("iso-8859-11", "cp874", "ภาษาไทย…"),
    ("tis-620", "cp874", "ภาษาไทย"),
    ("big5", "big5hkscs", "中文，香港"), ("koi8-ru", "koi8-u", "Україна"),
    ("x-mac-cyrillic", "mac-cyrillic", "Привет"), ("866", "cp866", "Привет"),
    ("latin2", "iso-8859-2", "Łódź"), ("visual", "iso-8859-8", "שלום"),
    ("unicode", "utf-16-le", "Größe 日本"),
    ("utf-16be", "utf-16-be", "Größe"),
    ("iso-2022-jp", "iso2022_jp", "これは日本語の文章です"), ("euc-jp", "euc_jp", "日本語の文章"),
    (" UTF8 ", "utf-8", "Größe"), ("windows-874", "cp874", "ก")])
def test_labels_mean_what_browsers_mean_by_them(label, codec, text):
    for content_type in (f"text/html; charset={label}", f'text/html;Charset = "{label}"; x=y'):
        assert charset.decode(text.encode(codec), content_type)[0] == text
    if not codec.startswith("utf-16"):
        for tag in (f'<meta charset="{label}">',
                    f"<META CONTENT='text/html; charset={label}' HTTP-EQUIV=content-type>",
                    f'<?xml version="1.0" encoding="{label}"?>',
                    f"<!-- <meta charset=koi8-r> --><meta charset='{label}'/>"):
            assert charset.decode(tag.encode() + text.encode(codec))[0] == tag + text, tag


def test_windows_1252_has_no_holes():
    assert charset.decode(b"a\x81\x8d\x93b", "text/html; charset=latin1")[0] == "a\x81\x8d“b"


@pytest.mark.parametrize("label", ["utf-7", "unicode_escape", "rot13", "idna", "punycode", "hex", "undefined",
                                   "none-of-these"])
def test_names_that_only_python_knows_are_no_labels(label):
    assert charset.decode(b"a\\u0041+ADw-", f"text/html; charset={label}") == ("a\\u0041+ADw-", "utf-8")


def test_a_description_of_a_page_is_no_declaration():
    body = b'<meta name=description content="all about charset=koi8-r"><title>x</title>' + b"gr\xf6\xdfer"
    assert charset.decode(body)[1] == "cp1252"


@pytest.mark.parametrize("where", ["header", "meta"])
def test_an_ascii_page_that_says_utf_16_is_read(where):
    body = (b"<meta charset=utf-16>" if where == "meta" else b"") + f"<p>{PARAGRAPH}".encode()
    assert extract.extract(body, "text/html; charset=utf-16" if where == "header"
                           else "text/html") == (PARAGRAPH, "")


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-16", "text/html"])
def test_a_utf_16_page_without_a_mark_is_read(content_type):
    assert extract.extract(f"<p>{PARAGRAPH}".encode("utf-16-le"), content_type) == (PARAGRAPH, "")


def test_japanese_that_changes_its_alphabet_often_is_not_binary():
    text = "あ a い b う c え d お e か f き g く h け i こ j " * 6
    assert extract.extract(text.encode("iso2022_jp"), "text/plain; charset=iso-2022-jp")[0] == text.strip()
