"""robots.txt: what a host asks crawlers to leave alone, read as RFC 9309 says.

The standard library's parser is older than the RFC: it knows no `*` or `$` in a path, takes the first rule
that fits in place of the longest, and ends a group at an empty line. Here the file becomes one list of rules
(those of all groups that name us, or else those of `*`), and the longest pattern that fits a path decides.

Source: RFC 9309, https://www.rfc-editor.org/rfc/rfc9309 (its sections are named where they are used).
Crawl-delay is not in it, but hosts that write it mean it. Used by crawl.py.
"""
import re
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from addresses import unreserved

MOST_BYTES = 500 << 10                 # section 2.5: at least 500 kibibytes are read, the rest is ignored
MOST_REDIRECTS = 5                     # section 2.3.1.2: at least five in a row are followed
RESERVED = "%!#&'()+,/:;=?@[]~"        # these stand for themselves; * and $ do so only when percent-encoded


@dataclass
class Robots:
    """The rules for one crawler, [(pattern, allowed)], and the pause in seconds that it is asked for."""
    rules: list[tuple[str, bool]] = field(default_factory=list)
    delay: float = 0.0

    def allows(self, url: str) -> bool:
        """Whether an address may be fetched: the longest pattern that fits wins, Allow in ties (2.2.2)."""
        parts = urlsplit(url)
        path = octets((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        if path == "/robots.txt":                            # always allowed
            return True
        fitting = [(len(pattern), allowed) for pattern, allowed in self.rules if fits(pattern, path)]
        return max(fitting, default=(0, True))[1]


def octets(path: str, kept: str = RESERVED) -> str:
    """One spelling of the octets of a path, to be compared (2.2.2): "/é/%7eme" is "/%C3%A9/~me"."""
    return unreserved(quote(path, safe=kept, errors="surrogateescape"))


def fits(pattern: str, path: str) -> bool:
    """Whether a pattern covers the beginning of a path: `*` is anything, a last `$` the path's end (2.2.3).

    Each piece between stars is taken where it first occurs: if any way fits, this one does. So nothing is
    tried twice, and no pattern is slow, as one made into a regular expression can be.
    """
    # EXERCISE 6.11 a robots rule
    first, *pieces = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    if not pattern.endswith("$"):
        last = ""
    elif not pieces:
        return path == first
    else:
        last = pieces.pop()
    at = len(first)
    for piece in pieces:
        at = path.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return path.endswith(last) and len(path) - len(last) >= at
    # END EXERCISE 6.11


def lines_of(body: bytes) -> list[tuple[str, str]]:
    """(key in lower case, value) of every line with a colon, without comments, blanks and byte order mark."""
    body = body.removeprefix(b"\xef\xbb\xbf")
    if len(body) > MOST_BYTES:                               # half a line may say the opposite of the line
        body = body[:max(body.rfind(b"\n", 0, MOST_BYTES), body.rfind(b"\r", 0, MOST_BYTES), 0)]
    found = []
    for line in re.split(r"\r\n|\r|\n", body.decode("utf-8", "surrogateescape")):
        key, colon, value = line.partition("#")[0].partition(":")
        if colon:
            found.append((key.strip(" \t").lower(), value.strip(" \t")))
    return found


def whom(value: str, agent: str) -> str:
    """Whom a User-agent line means: "*", "us" or "", somebody else; in any case and version (2.2.1)."""
    if re.match(r"\*(\s|$)", value):
        return "*"
    token = re.split(r"[^a-zA-Z_-]", value, maxsplit=1)[0]   # all that a product token can be made of
    return "us" if token.lower() == agent.lower() else ""


def pattern_of(value: str) -> str:
    """A path of a rule in the spelling of `octets`, its stars and its last `$` kept."""
    return octets(value.removesuffix("$"), RESERVED + "*") + "$" * value.endswith("$")


def parse(body: bytes, agent: str) -> Robots:
    """The rules for `agent`: all groups that name it, merged, or if there is none all of `*` (2.2.1)."""
    groups: dict[str, Robots] = {}                           # of "us" and of "*"
    named: set[str] = set()                                  # whom the group that is being read is for
    begun = in_head = False                                  # whether it has only named agents so far
    for_all = 0.0
    for key, value in lines_of(body):
        if key == "user-agent":
            named = (named if in_head else set()) | {whom(value, agent)} - {""}
            begun = in_head = True
            for name in named:
                groups.setdefault(name, Robots())
        elif key in ("allow", "disallow"):
            in_head = False                                # other lines, such as Sitemap, end no head (2.2.4)
            for name in named if value else ():              # an empty Disallow forbids nothing
                groups[name].rules.append((pattern_of(value), key == "allow"))
        elif key == "crawl-delay" and (number := re.match(r"\d+\.?\d*|\.\d+", value)):
            for name in named:
                groups[name].delay = max(groups[name].delay, float(number[0]))
            if not begun:
                for_all = float(number[0])                   # before the first group: meant for everybody
    ours = groups.get("us") or groups.get("*") or Robots()
    return Robots(ours.rules, max(ours.delay, for_all))
