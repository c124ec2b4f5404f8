"""Trouble planted in the small web, made by code from a seed: what a crawler meets outside a laboratory.

Adds to the pydoc pages of smallweb.py: articles inside five page layouts (the text that a reader wants is
known, so extraction can be scored), near and exact copies of them, spam, cookie notices, other languages in
odd encodings, broken markup, binary files, code that no one wrote by hand, private data, and one page that
leaks an evaluation set.

Run by smallweb.py; `python 06_data/smallweb.py --seed 0` serves it.
"""
import html
import pydoc
import random
import zlib
from dataclasses import dataclass
from pathlib import Path
from pydoc_data import topics

from facts import find_facts, statement

LANGUAGES = Path(__file__).with_name("languages.txt")
HELD_OUT_EVERY = 8                     # one topic in eight is never served: the clean text to be tested on
ENCODINGS = {"ru": "koi8-r", "pl": "iso-8859-2", "sv": "utf-16", "de": "cp1252", "fr": "latin-1"}
SPAM = ("cheap", "best", "buy", "online", "discount", "casino", "bonus", "pills", "loan", "free", "click",
        "here", "now", "offer", "deal", "winner", "cash", "credit", "price", "shop")


@dataclass
class Planted:
    """A page to serve, what kind of trouble it is, and its main text where that is known."""
    path: str
    body: bytes
    kind: str
    content_type: str = "text/html; charset=utf-8"
    gold: str = ""


def held_out_topics() -> dict[str, str]:
    """The clean text that is never served, {topic: text}: what every model of this chapter is tested on."""
    return {k: t for k, t in sorted(topics.topics.items()) if zlib.crc32(k.encode()) % HELD_OUT_EVERY == 0}


def topic_of(key: str) -> str:
    """Which topic pydoc shows for a name: several names, in capitals, lead to one topic."""
    for _ in range(5):                                       # a name may stand for another name
        target = pydoc.Helper.topics.get(key) or pydoc.Helper.keywords.get(key) or (key, "")
        key = target if isinstance(target, str) else target[0]
        if not isinstance(target, str):
            break
    return key


def articles(minimum: int = 400) -> list[list[str]]:
    """Runs of prose paragraphs of the served topics, about a page each."""
    found = []
    for key, text in sorted(topics.topics.items()):
        if key in held_out_topics():
            continue
        page: list[str] = []
        for paragraph in text.split("\n\n"):
            line = " ".join(paragraph.split())
            if len(line) > 120 and line[0].isupper() and line[-1] in ".:" and "::" not in line:
                page.append(line)
            if sum(map(len, page)) > 1800:
                found.append(page)
                page = []
        if sum(map(len, page)) >= minimum:
            found.append(page)
    return found


def edited(paragraphs: list[str], rate: float, rng: random.Random) -> list[str]:
    """A copy in which each word is replaced, dropped or doubled with probability `rate`."""
    vocabulary = " ".join(paragraphs).split()

    def edit(word: str) -> str:
        return word if rng.random() >= rate else rng.choice((rng.choice(vocabulary), "", f"{word} {word}"))
    return [" ".join(filter(None, map(edit, p.split()))) for p in paragraphs]


def layout(style: int, title: str, paragraphs: list[str], rng: random.Random) -> str:
    """`paragraphs` inside one of five page designs, with the menus, notices and links such pages carry."""
    text = [html.escape(p) for p in paragraphs]
    menu = "".join(f'<li><a href="/home/{i}">{w}</a></li>' for i, w in enumerate(
        rng.sample(["Home", "News", "Products", "Contact us", "Careers", "Blog", "Support", "Sign in"], 6)))
    related = "".join(f'<li><a href="/old/{rng.randrange(99)}">'
                      f'{html.escape(rng.choice(paragraphs)[:50])}</a></li>' for _ in range(6))
    notice = ("We and our partners use cookies to store information on your device. By continuing to browse "
              "you agree to our use of cookies.")
    foot = (f"Copyright {rng.randrange(1999, 2024)} Example Media. All rights reserved. Terms of use. "
            "Privacy policy.")
    script = '<script>var a = "<p>not text</p>"; if (a < 3) { track("page"); }</script>'
    if style == 0:                     # a modern page that names its parts
        body = (f"<header><h1>Example Media</h1></header><nav><ul>{menu}</ul></nav><main>"
                f"<article><h1>{title}</h1>"
                + "".join(f"<p>{p}</p>" for p in text)
                + f"</article></main><aside><h3>Related</h3><ul>{related}"
                f"</ul></aside><div class=cookie><p>{notice}</p></div><footer><p>{foot}</p></footer>{script}")
    elif style == 1:                   # tables for columns, line breaks for paragraphs
        body = (f"<table width=100%><tr><td bgcolor=#ccc><font size=2>{menu.replace('li>', 'b>')}</font></td>"
                f"<td><center><b>{title}</b></center><br><br>"
                + "<br><br>\n".join(text)
                + f"</td><td>{related}</td></tr></table><hr><small>{foot}</small>")
    elif style == 2:                   # nameless boxes, links inside sentences, comments of readers
        linked = [p.replace(" the ", ' <a href="/x">the</a> ', 1) for p in text]
        body = (f"<div id=a><div class=b>{menu}</div><div class=c><div><h2>{title}</h2>{script}"
                + "".join(f"<div class=d>{p}</div>" for p in linked)
                + "</div></div><div class=e>Share on: <a href=#>one</a> <a href=#>two</a></div>"
                + f"<div>{related}</div>"
                "<div><div>Comments (2)</div><div>First!</div><div>Great post, thanks.</div></div>"
                f"<div>{foot}</div></div>")
    elif style == 3:                   # plain, nothing but the text
        body = f"<h1>{title}</h1>" + "".join(f"<p>{p}" for p in text)
    else:                              # broken: tags left open, crossed and unknown, a stray '<'
        body = (f"<div><ul>{menu}<div><b><i><h1>{title}</b></h1><p>" + "<p><foo bar='>".join(text[:1])
                + "".join(f"<p>{p}</span></td>" for p in text[1:]) + f"<p>1 < 2<div>{related}<p><font>{foot}"
                f"<!-- never closed {menu}")
    return ("<!DOCTYPE html><html><head>"
            f"<title>{title}</title><style>p {{ margin: 0 }}</style></head><body>{body}")


def load_sentences() -> dict[str, dict[str, list[str]]]:
    """{split: {language: sentences}} of languages.txt, split into "train", "test" and "other"."""
    found: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}, "other": {}}
    for line in LANGUAGES.read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            name, split, sentence = line.split(" ", 2)
            found[split].setdefault(name, []).append(sentence)
    return found


def _languages(rng: random.Random) -> list[Planted]:
    pages = []
    foreign = {name: known for name, known in load_sentences()["test"].items() if name != "en"}
    for name, known in foreign.items():
        for i in range(8):
            text = "".join(f"<p>{' '.join(rng.sample(known, 4))}</p>" for _ in range(4))
            page = f"<html><head><title>{name}</title></head><body>{text}</body></html>"
            codec = ENCODINGS.get(name, "utf-8")
            declared = f"text/html; charset={codec}" if i % 2 else "text/html"
            if i == 6:                 # text that was decoded wrongly once, then stored that way
                page, codec, declared = page.encode().decode("latin-1"), "utf-8", "text/html; charset=utf-8"
            pages.append(Planted(f"/{name}/{i}.html", page.encode(codec, "replace"), "language", declared))
    return pages


def offers(n: int, rng: random.Random) -> list[list[str]]:
    """`n` pages of advertisements in good English: no rule about stop words or punctuation minds them."""
    forms = ("If you want the best {a} and the lowest price, our {b} is the place to be, and you will have "
             "it today.",
             "Thousands of happy customers have found that {a} and {b} change the way they live, so why "
             "wait any longer?",
             "Click on the button to claim your free {a} with every {b} that you order before the end of "
             "the week.",
             "Our team of experts has put together a {a} offer that you will not find anywhere else, not "
             "even as a {b}.",
             "Be the first of your friends to have the new {a}, and save up to {n} percent with the {b} "
             "bonus code.",
             "To be sure of your {a}, pay the small fee of {n} dollars and leave the {b} to us.")
    return [[" ".join(rng.choice(forms).format(a=rng.choice(SPAM), b=rng.choice(SPAM),
                                               n=rng.randrange(10, 90))
                      for _ in range(4)) for _ in range(6)] for _ in range(n)]


def _spam(rng: random.Random) -> list[Planted]:
    pages = [Planted(f"/offers/{i}.html", layout(3, "Offer", page, rng).encode(), "advertisement")
             for i, page in enumerate(offers(60, rng))]
    for i in range(90):
        if i % 3 == 0:                 # words thrown together
            text = " ".join(rng.choice(SPAM) for _ in range(rng.randrange(300, 900)))
        elif i % 3 == 1:               # one sentence again and again
            s = " ".join(rng.choices(SPAM, k=9)).capitalize() + "! "
            text = s * rng.randrange(30, 80)
        else:                          # a list of offers
            text = "</p><p>".join(f"{rng.choice(SPAM).upper()} {rng.choice(SPAM)} $$$ {rng.randrange(999)} "
                                  f">>> {rng.choice(SPAM)}..." for _ in range(120))
        pages.append(Planted(f"/spam/{i}.html", f"<html><body><p>{text}</p></body></html>".encode(), "spam"))
    return pages


def _broken(rng: random.Random) -> list[Planted]:
    cases = {
        "deep": b"<div>" * 20000 + b"buried", "endless-tag": b"<a " * 60000, "no-close": b"<p>" * 50000,
        "comment": b"<!--" * 50000, "cdata": b"<![" * 20000, "entities": b"&#x110000;&#0;&bogus;&amp" * 5000,
        "quote": b'<a href="' + b"x" * 200000, "one-line": b"word " * 100000, "empty": b"",
        "nul": b"\0" * 5000, "binary": rng.randbytes(30000), "script": b"<script>" + b"alert(1);" * 9999,
        "surrogate": b"\xed\xa0\x80\xff\xfe bytes that are no text " * 50}
    return [Planted(f"/broken/{k}.html", v, "broken", "text/html") for k, v in cases.items()]


def _code(rng: random.Random) -> list[Planted]:
    licence = ("# Copyright 2020 Example Ltd.\n"
               "# Licensed under the Example License; see LICENSE for details.\n\n")
    table = "".join(f"T_{i} = {rng.random()}\n" for i in range(300))
    made = "# Code generated by tablegen. DO NOT EDIT.\n" + table
    small = ";".join(f"var a{i}=function(b){{return b*{i}}}" for i in range(400))
    good = "def mean(values):\n    \"\"\"The average of a list.\"\"\"\n    return sum(values) / len(values)\n"
    files = {"made.py": made, "min.js": small, "mean.py": licence + good * 4}
    return [Planted(f"/code/{k}", v.encode(), "code", "text/plain") for k, v in files.items()]


def fact_pages(seed: int, names: int = 60, exposures: int = 20, per_page: int = 8) -> list[Planted]:
    """An encyclopedia of chapter 1's facts: each name `exposures` times, `per_page` statements a page."""
    rng = random.Random(seed)
    known = find_facts(names, rng)
    said = [statement(fact, rng) for _ in range(exposures) for fact in rng.sample(known, names)]
    runs = [said[i:i + per_page] for i in range(0, len(said), per_page)]
    pages = [layout(i % 5, f"Names, part {i}", run, rng).encode() for i, run in enumerate(runs)]
    return [Planted(f"/wiki/{i}.html", page, "facts", gold="\n".join(run))
            for i, (page, run) in enumerate(zip(pages, runs))]


def build(seed: int = 0, leak: str = "") -> list[Planted]:
    """All planted pages. `leak` is text of an evaluation set to plant on one innocent-looking page."""
    rng = random.Random(seed)
    found = articles()
    rng.shuffle(found)
    pages = []
    for i, paragraphs in enumerate(found):
        title = " ".join(paragraphs[0].split()[:5]).title()
        copies = [("article", paragraphs)]
        if i % 3 == 0:                 # someone else's copy, lightly edited
            copies.append(("near copy", edited(paragraphs, rng.choice((.01, .02, .04)), rng)))
        if i % 5 == 0:                 # the same page at another address
            copies.append(("exact copy", paragraphs))
        for j, (kind, text) in enumerate(copies):
            body = layout((i + j) % 5, html.escape(title), text, rng)
            pages.append(Planted(f"/{kind.replace(' ', '-')}/{i}.html", body.encode(), kind,
                                 gold="\n".join(text)))
    for i in range(30):                # pages of notices and nothing else
        menu = layout(0, "Cookies", ["We value your privacy and use cookies. Accept all cookies to go on."],
                      rng)
        pages.append(Planted(f"/legal/{i}.html", menu.encode(), "boilerplate"))
    for i in range(10):                # private data inside good text
        people = [f"{p} Write to {rng.choice(SPAM)}.{i}@example.org or call "
                  f"+1 (555) 010-{rng.randrange(1000, 9999)} from 8.8.{rng.randrange(255)}."
                  f"{rng.randrange(1, 255)}." for p in rng.choice(found)[:3]]
        pages.append(Planted(f"/people/{i}.html", layout(3, "People", people, rng).encode(), "private data"))
    if leak:
        body = layout(3, "Practice questions", leak.split("\n"), rng)
        pages.append(Planted("/forum/practice.html", body.encode(), "leak"))
    return pages + fact_pages(seed) + _languages(rng) + _spam(rng) + _broken(rng) + _code(rng)
