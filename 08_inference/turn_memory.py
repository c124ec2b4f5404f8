"""What of a conversation the model gets to read again: all of it while it fits, then the last turns.

A turn is a question with everything up to the next one: an answer without its question, or a tool's result
without its call, reads as nonsense. The oldest turns go first, whole, and a digest can stand for them. What
must outlive them belongs into notes (`Notes` in tool_box.py).

    python 08_inference/harness_study.py   has harness.py use it for every question
"""
from collections.abc import Callable

Message = dict[str, str]      # role (system, user, assistant or tool) and content


def condense(messages: list[Message], room: int, size: Callable[[str], int],
             digest: Callable[[list[Message]], str] | None = None) -> list[Message]:
    """The messages whose contents together have at most `room` by `size`; a new list.

    The first message stays if it is of the system, and so does the last turn: ValueError if these two alone
    are too much. `digest` makes one text of the messages that were dropped, which takes their place as a
    message of the system, unless it is "" or does not fit either.
    """
    # EXERCISE 8.19 condense a conversation
    head = [m for m in messages[:1] if m["role"] == "system"]
    rest = messages[len(head):]
    starts = [i for i, m in enumerate(rest) if m["role"] == "user"]
    for start in [0, *(i for i in starts if i > 0)]:
        kept, dropped = rest[start:], rest[:start]
        total = sum(size(m["content"]) for m in head + kept)
        if total <= room:
            text = digest(dropped) if digest is not None and dropped else ""
            fits = text != "" and total + size(text) <= room
            return head + [{"role": "system", "content": text}] * fits + kept
    raise ValueError("the last question does not fit into what is left, "
                     f"{room} tokens: shorten it")
    # END EXERCISE 8.19


def topics(dropped: list[Message]) -> str:
    """A digest in the words of the conversation: what was asked, without the answers."""
    return "Earlier: " + " ".join(m["content"] for m in dropped if m["role"] == "user")
