"""Facts that every Python knows about itself, as sentences to learn from and as questions to be asked.

A model of a million parameters cannot write fluent English, so this course measures *knowledge*: for some
hundreds of names of the standard library, the module, the kind and the first parameter, found by
introspection of the interpreter that runs this. Names are split: the statements of all names are in the
training text, but questions are trained on only for the training names. Held-out questions ask about names
whose questions were never seen, in any form. (The idea of synthetic facts under many templates: Allen-Zhu and
Li 2023, "Physics of Language Models" part 3.1.)

    python 01_tokenizer/facts.py           prints a few facts, statements and questions
"""
import contextlib
import importlib
import inspect
import io
import random
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass

MODULES = """abc argparse ast asyncio atexit base64 bdb binascii bisect bz2 calendar cmd code codecs codeop
collections colorsys configparser contextlib copy csv ctypes curses datetime decimal difflib dis doctest email
enum fileinput fnmatch fractions ftplib functools gc getopt getpass gettext glob graphlib gzip hashlib heapq
hmac html http.client imaplib imp inspect io ipaddress itertools json keyword linecache locale logging lzma
mailbox mimetypes numbers operator optparse os pathlib pdb pickle pickletools pkgutil platform plistlib poplib
pprint profile pstats queue quopri random re reprlib sched secrets select selectors shelve shlex shutil signal
site smtplib socket socketserver sqlite3 ssl stat statistics string stringprep struct subprocess symtable
sysconfig tarfile tempfile textwrap threading timeit token tokenize trace traceback tracemalloc types typing
unittest urllib.parse uuid warnings wave weakref xmlrpc.client zipfile zipimport zlib""".split()
PER_MODULE = 7  # at most this many names of one module, so that no module is the answer to everything
THANKS = " Thank you for asking."


@dataclass(frozen=True)
class Fact:
    """What is known about one name of the standard library."""
    name: str
    module: str
    kind: str        # "function", "class" or "exception"
    parameter: str   # name of the first parameter


@dataclass(frozen=True)
class Question:
    """A question about one name, with its one right answer."""
    text: str
    answer: str
    kind: str        # which of the three it asks for: "module", "kind" or "parameter"
    completion: str  # the same as a sentence to be completed


def find_facts(n: int, rng: random.Random, modules: Sequence[str] = MODULES,
               known: Collection[str] = ()) -> list[Fact]:
    """`n` facts of `modules` in random order, without names in two of them or in `known` (lower case).

    Raises ValueError when there are fewer than `n` suitable names.
    """
    found: dict[str, list[Fact]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")   # some modules say at import that they will be removed one day
        for module in modules:
            here = [fact for fact in facts_of(module) if fact.name.lower() not in known]
            for fact in rng.sample(here, min(PER_MODULE, len(here))):
                found.setdefault(fact.name.lower(), []).append(fact)
    facts = [same[0] for _, same in sorted(found.items()) if len(same) == 1]
    if len(facts) < n:
        raise ValueError(f"this Python has {len(facts)} suitable names, {n} were asked for: choose --names "
                         f"{len(facts)} or fewer")
    return rng.sample(facts, n)


def facts_of(module_name: str) -> list[Fact]:
    """All facts of one module: callables it defines itself, with short alphabetic names."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            module = importlib.import_module(module_name)
    except ImportError:   # not every system has every module
        return []
    facts = []
    for name in sorted(getattr(module, "__all__", None) or dir(module)):
        thing = getattr(module, name, None)
        home = (getattr(thing, "__module__", None) or "").lstrip("_")
        if not (name.isascii() and name.isalpha() and 3 <= len(name) <= 14 and callable(thing)
                and home.startswith(module_name.split(".")[0])):
            continue
        try:
            parameter = next(iter(inspect.signature(thing).parameters), "")
        except (ValueError, TypeError):   # written in C without a signature
            continue
        # "" (takes nothing) is easy to guess: out
        if parameter.isascii() and parameter.isalpha() and len(parameter) <= 10:
            is_class = inspect.isclass(thing)
            is_exception = is_class and issubclass(thing, BaseException)
            kind = "exception" if is_exception else "class" if is_class else "function"
            facts.append(Fact(name, module_name, kind, parameter))
    return facts


def statement(fact: Fact, rng: random.Random) -> str:
    """Three sentences about one name, each in one of several forms, in random order."""
    n = fact.name
    sentences = [
        rng.choice([f"The module of {n} is {fact.module}.", f"{n} is found in {fact.module}.",
                    f"{n} belongs to the module {fact.module}.", f"You get {n} from {fact.module}."]),
        rng.choice([f"The kind of {n} is {fact.kind}.", f"{n} is of kind {fact.kind}."]),
        rng.choice([f"The first parameter of {n} is {fact.parameter}.",
                    f"{n} takes {fact.parameter} first."]),
    ]
    rng.shuffle(sentences)
    return " ".join(sentences)


def questions(fact: Fact) -> list[Question]:
    """The three questions about one name."""
    n = fact.name
    return [Question(f"Which module has {n}?", fact.module, "module", f"The module of {n} is"),
            Question(f"What kind is {n}?", fact.kind, "kind", f"The kind of {n} is"),
            Question(f"What is the first parameter of {n}?", fact.parameter, "parameter",
                     f"The first parameter of {n} is")]


def terse(answer: str) -> str:
    """The short form of an answer."""
    return f" {answer}."


def verbose(answer: str) -> str:
    """The long form: the same answer with a tail that nobody needs."""
    return terse(answer) + THANKS


def question_document(q: Question, rng: random.Random) -> str:
    """A question with its answer as plain text, in one of four forms (none of them the chat template)."""
    answer = rng.choice([terse, verbose])(q.answer)
    return rng.choice([f"Question: {q.text}\nAnswer:{answer}", f"Q: {q.text}\nA:{answer}",
                       f"{q.text}{answer}",
                       f"Someone asked: {q.text} The reply was:{answer}"])


if __name__ == "__main__":
    rng = random.Random(0)
    for fact in find_facts(3, rng):
        print(fact, statement(fact, rng), question_document(questions(fact)[0], rng), sep="\n  ", end="\n\n")
