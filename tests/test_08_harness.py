"""The loop around a model: plans, tools, retries, memory, the budget; and a client of the chat API."""
import http.server
import json
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_loop import Repository, play
from arithmetic import careless_answer, carries, problem, right_answer
from chat_client import ChatClient, ChatError, Settings, chat_agent, shorten
from facts import questions
from harness import Ask, Budget, Call, Harness, Said, ToolFailed
from harness_plans import (
    add_long,
    as_call,
    call_pattern,
    in_steps,
    model_led,
    own_words,
    tool_text,
    tools_behind,
    with_notes,
    with_tools,
)
from mcp_client import McpClient
from pattern_automaton import Pattern
from tool_box import Notes, Tool, course_tools
from turn_memory import condense, topics

SERVER = [sys.executable, str(Path(__file__).resolve().parent.parent / "08_inference" / "mcp_server.py")]


class Scripted:
    """A model that says what a function makes of the messages; it notes what it was asked."""

    def __init__(self, answer: Callable, room: int = 10_000):
        self.answer, self.room, self.asked = answer, room, []

    def size(self, text):
        return len(text)

    def say(self, messages, pattern=None, temperature=0.0, seed=0):
        self.asked.append(([(m["role"], m["content"]) for m in messages], pattern, temperature, seed))
        return Said(self.answer(messages), sum(len(m["content"]) for m in messages), 1)


def adder(messages):
    """A model that adds three-digit numbers in the course's form, and knows nothing else."""
    a, plus, b = messages[-1]["content"].partition("+")
    return right_answer((int(a[::-1]), int(b[::-1]))) if plus and len(a) == len(b) == 3 else "1\nReturn a 1."


def careless(wrong: int):
    """The adder, but the first `wrong` answers to every sum forget a ten."""
    seen = {}
    def answer(messages):
        text = messages[-1]["content"]
        seen[text] = seen.get(text, 0) + 1
        right = adder(messages)
        return f"{int(right[::-1]) - 10:04d}"[::-1] if seen[text] <= wrong and right.isdigit() else right
    return answer


def test_the_model_alone_gets_its_own_form_and_reads_it_back():
    model = Scripted(adder)
    outcome = Harness(model, [], own_words).run("361+324")
    assert outcome.answer == "685" and model.asked == [([("user", "163+423")], None, 0.0, 0)]
    assert (outcome.asks, outcome.calls, outcome.problem) == (1, 0, "")


def test_small_steps_add_and_multiply_what_the_model_alone_cannot():
    dice, model = random.Random(0), Scripted(adder)
    for _ in range(50):
        a, b, c = dice.randrange(10**6), dice.randrange(10**6), dice.randrange(10)
        it = Harness(model, [], in_steps(checked=True))
        assert it.run(f"{a}+{b}").answer == str(a + b)
        assert it.run(f"{a % 1000}*{c}").answer == str(a % 1000 * c)
    for a, b in ((999_999, 1), (0, 0), (999, 1), (999_999, 999_999)):
        assert Harness(model, [], in_steps()).run(f"{a}+{b}").answer == str(a + b)
    assert all(len(messages) == 1 for messages, *_ in model.asked), "each piece stands alone"


def test_an_answer_that_fails_its_check_is_asked_for_again_by_sampling():
    model = Scripted(careless(2))
    outcome = Harness(model, [], in_steps(checked=True), tries=3).run("361324+118905")
    assert outcome.answer == "480229" and outcome.asks == 9
    assert [(t, s) for _, _, t, s in model.asked[:3]] == [(0.0, 0), (0.7, 1), (0.7, 2)]
    assert Harness(Scripted(careless(2)), [], in_steps(), tries=3).run("361+324").answer == "675", "unchecked"
    outcome = Harness(Scripted(careless(3)), [], in_steps(checked=True), tries=3).run("361+324")
    assert outcome.answer == "" and "no good answer in 3 tries: 5760 differs" in outcome.problem


def test_casting_out_nines_finds_every_forgotten_carry():
    dice = random.Random(0)
    for _ in range(300):
        pair = dice.randrange(1000), dice.randrange(1000)
        said = {problem(pair): careless_answer(pair)}
        outcome = Harness(Scripted(lambda m, said=said: said[m[-1]["content"]]), [], in_steps(checked=True),
                          tries=1).run(f"{pair[0]}+{pair[1]}")
        assert (outcome.problem != "") == (carries(pair) > 0 and careless_answer(pair) != right_answer(pair))


def test_an_empty_answer_is_asked_for_again():
    said = iter(["", "  \n", "class."])
    outcome = Harness(Scripted(lambda m: next(said)), [], own_words, tries=3).run("What kind is FTP?")
    assert outcome.answer == "class." and outcome.asks == 3
    assert "the answer is empty" in Harness(Scripted(lambda m: ""), [], own_words).run("?").problem


def test_the_calculator_stands_behind_a_model_that_fails():
    it = Harness(Scripted(careless(99)), course_tools(), tools_behind(in_steps(checked=True)))
    outcome = it.run("361+324")
    assert outcome.answer == "685" and (outcome.asks, outcome.calls) == (3, 1)
    assert any("no good answer" in line for line in outcome.trace)


def test_rules_choose_a_tool_and_the_model_is_asked_where_it_fails():
    model = Scripted(lambda m: " traceback.")
    it = Harness(model, course_tools(), with_tools())
    assert it.run("723*5").answer == "3615" and it.run("What kind is FrameSummary?").answer == "class"
    assert it.run("Which module has FrameSummary? And what else?").answer == "traceback traceback."
    assert it.run("Which module has nosuchname?").answer == "traceback.", "the tool failed, the model answers"
    assert [m[-1][1] for m, *_ in model.asked] == ["what else?", "Which module has nosuchname?"]


def test_a_model_in_the_lead_calls_reads_the_error_and_calls_again():
    said = iter([as_call("calculator", {"number": 1}), as_call("calculator", {"expression": "6*7"}), " 42."])
    model = Scripted(lambda m: next(said))
    tools = course_tools()[:1]
    it = Harness(model, tools, model_led(tools), system=tool_text(tools))
    outcome = it.run("six times seven")
    assert outcome.answer == "42." and (outcome.asks, outcome.calls) == (3, 2)
    roles = [[role for role, _ in m] for m, *_ in model.asked]
    assert roles[-1] == ["system", "user", "assistant", "tool", "assistant", "tool"]
    assert model.asked[1][0][-1][1].startswith("error: expression is missing")
    assert model.asked[2][0][-1] == ("tool", "42")


def test_a_model_that_calls_for_ever_is_ended():
    model = Scripted(lambda m: as_call("calculator", {"expression": "1"}))
    tools = course_tools()[:1]
    outcome = Harness(model, tools, model_led(tools, most_calls=2)).run("?")
    assert outcome.calls == 2 and outcome.asks == 3
    outcome = Harness(model, tools, model_led(tools, most_calls=10**9), budget=Budget(calls=4)).run("?")
    assert outcome.problem == "the budget of 4 calls is spent" and outcome.calls == 4


def test_tools_of_a_server_without_properties_are_listed_and_names_are_single():
    bare = Tool("now", "The time.", {"type": "object"}, lambda: "noon")
    assert tool_text([bare]).endswith("Tools: now(): The time.")
    with pytest.raises(ValueError, match="two tools have the same name"):
        Harness(Scripted(adder), [bare, bare], own_words)


def test_words_held_to_a_call_are_one():
    pattern = Pattern(call_pattern(course_tools()))
    def fits(text):
        state = 0
        for byte in text.encode():
            state = pattern.step(state, byte)
        return pattern.accepts(state)
    assert fits(as_call("look_up", {"name": "glob", "wanted": "kind"}))
    assert not fits(as_call("look_up", {"name": "glob"})) and not fits("glob")
    model = Scripted(lambda m: "no call after all")
    tools = course_tools()
    assert Harness(model, tools, model_led(tools, hold=True)).run("?").answer == "no call after all"
    assert model.asked[0][1] == call_pattern(tools)


def test_what_the_next_step_does_not_take_may_be_spent():
    tools = course_tools()
    without_tools = Harness(Scripted(adder), tools, own_words, budget=Budget(calls=0))
    assert without_tools.run("361+324").answer == "685"
    model = Scripted(careless(99))
    it = Harness(model, tools, tools_behind(in_steps(checked=True)), budget=Budget(asks=3, calls=1))
    outcome = it.run("361+324")
    assert outcome.answer == "685" and (outcome.asks, outcome.calls) == (3, 1)


@pytest.mark.parametrize("budget, words", [(Budget(asks=3), "3 asks"), (Budget(tokens=20), "20 tokens"),
                                           (Budget(seconds=1e-9), "seconds")])
def test_a_question_that_costs_too_much_ends_with_a_sentence(budget, words):
    def endless(question):
        while True:
            try:
                yield Ask("012+000", alone=True)
            except Exception:        # a plan cannot catch its way around the budget
                pass
    outcome = Harness(Scripted(adder), [], endless, budget=budget).run("?")
    assert words in outcome.problem and outcome.answer == "" and outcome.asks <= 3


def test_whatever_breaks_in_a_question_the_harness_lives_on():
    def broken(messages):
        raise OSError("the model is gone")
    it = Harness(Scripted(broken), [], own_words, remember=True)
    assert it.run("?").problem == "OSError: the model is gone" and it.turns == []
    def odd(question):
        yield "neither words for the model nor a tool"
    it.plan = odd
    assert "AttributeError" in it.run("?").problem
    def wrong(question):
        yield Call("oven", {})
    it.plan = wrong
    assert it.run("?").problem == "there is no tool oven"
    def careful(question):
        try:
            yield Call("oven", {})
        except ToolFailed as failure:
            return f"sorry: {failure}"
    it.plan = careful
    assert it.run("?").answer == "sorry: there is no tool oven"


def test_a_conversation_remembers_questions_and_answers_and_no_steps():
    model = Scripted(adder)
    it = Harness(model, [], in_steps(), remember=True)
    it.run("361324+118905")
    assert [m["content"] for m in it.turns] == ["361324+118905", "480229"]
    it.run("hello")
    assert [text for _, text in model.asked[-1][0]] == ["361324+118905", "480229", "hello"]
    once = Harness(Scripted(adder), [], own_words)
    once.run("hello")
    assert once.turns == []


def test_notes_outlive_the_turns_that_are_forgotten():
    notes, model = Notes(), Scripted(adder, room=40)
    it = Harness(model, course_tools(notes), with_notes(notes, in_steps()), remember=True)
    assert it.run("The number of Ada is 361.").answer == "Ada is 361"
    for i in range(9):
        it.run(f"filler {i}")
    assert all(sum(len(t) for _, t in m) <= 40 for m, *_ in model.asked), "the old turns were dropped"
    assert it.run("What is the number of Ada plus 324?").answer == "685"


def test_the_question_itself_is_never_dropped():
    it = Harness(Scripted(adder, room=10), [], own_words)
    assert "does not fit" in it.run("x" * 11).problem and it.run("y" * 10).problem == ""


def test_a_digest_takes_the_place_of_what_was_dropped():
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a?"},
             {"role": "assistant", "content": "x" * 50}, {"role": "user", "content": "b?"},
             {"role": "assistant", "content": "y"}, {"role": "user", "content": "c?"}]
    kept = condense(turns, 40, len, topics)
    assert [m["content"] for m in kept] == ["be kind", "Earlier: a?", "b?", "y", "c?"]


def test_tools_of_an_mcp_server_are_as_good_as_our_own():
    with McpClient(SERVER) as server:
        tools = server.tools()
        it = Harness(Scripted(lambda m: " asked"), tools, with_tools())
        assert it.run("723*5").answer == "3615" and it.run("What kind is FrameSummary?").answer == "class"
        assert it.run("What kind is nosuchname?").answer == "asked"
        server.process.kill()
        server.process.wait()
        outcome = it.run("723*5")
        assert outcome.answer == "asked" and any("the server ended" in line for line in outcome.trace)


class Scenario(http.server.BaseHTTPRequestHandler):
    """Answers with what the test has put into `server.script`: (status, body, headers), the last for ever."""

    def do_POST(self):
        self.server.seen.append((self.path, dict(self.headers),
                                 json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        script = self.server.script
        step = script.pop(0) if len(script) > 1 else script[0]
        if step is None:
            return
        status, body, headers = step
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def scripted():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scenario)
    server.seen, server.waits = [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.client = lambda **more: ChatClient(Settings(server=f"http://127.0.0.1:{server.server_port}",
                                                       **more), sleep=server.waits.append)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def good(text):
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}],
                 "usage": {"prompt_tokens": 5, "completion_tokens": 2}}, {}


def refused(status, message="no", **headers):
    return status, {"error": {"message": message}}, headers


def test_an_agent_is_text_in_and_text_out(scripted):
    scripted.script = [good("ls")]
    act = chat_agent(scripted.client(api_key="secret", model="tiny", max_new=9), "You are at a terminal.")
    assert act("$ pwd\n/home\n") == "ls"
    for ending in ("/", "/v1", "/v1/"):
        server = f"http://127.0.0.1:{scripted.server_port}{ending}"
        ChatClient(Settings(server=server)).say([])
        assert scripted.seen.pop()[0] == "/v1/chat/completions"
    path, headers, body = scripted.seen[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert body["messages"] == [{"role": "system", "content": "You are at a terminal."},
                                {"role": "user", "content": "$ pwd\n/home\n"}]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("tiny", 9, 0.0)


def test_a_full_server_is_asked_again_after_as_long_as_it_says(scripted):
    scripted.script = [refused(429, **{"Retry-After": "7"}), refused(503), None, (502, b"<html>", {}),
                       good("done")]
    assert scripted.client().say([]).text == "done" and len(scripted.seen) == 5
    assert scripted.waits[0] == 7 and 0.5 <= scripted.waits[1] <= 1.5 and 1 <= scripted.waits[2] <= 3
    scripted.script, scripted.seen[:] = [refused(429, "full", **{"Retry-After": "999999"})], []
    with pytest.raises(ChatError, match="the server answered 429: full"):
        scripted.client(tries=3).say([])
    assert len(scripted.seen) == 3 and scripted.waits[-1] == 60


@pytest.mark.parametrize("status", [400, 401, 404, 405, 415, 501])
def test_what_the_client_got_wrong_is_not_tried_again(scripted, status):
    scripted.script = [refused(status, "your mistake")]
    with pytest.raises(ChatError, match=f"answered {status}: your mistake"):
        scripted.client().say([])
    assert len(scripted.seen) == 1 and scripted.waits == []


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [{"message": 7}]}, [], b"no json",
                                    b"[" * 99_999, {"choices": [{"message": {"tool_calls": [{}]}}]},
                                    {"choices": [{"message": {"content": ["a", "b"]}}]},
                                    {"choices": [{"message": {"content": "a"}}], "usage": 7},
                                    {"choices": [{"message": {}}], "usage": {"prompt_tokens": "many"}},
                                    b'{"choices": [{"message": {}}], "usage": {"prompt_tokens": 1e999}}'])
def test_an_answer_of_another_form_is_a_sentence(scripted, answer):
    scripted.script = [(200, answer, {})]
    with pytest.raises(ChatError, match="API's form|nothing that is JSON"):
        scripted.client().say([])


def test_nobody_at_the_address_is_a_sentence():
    waits = []
    client = ChatClient(Settings(server="http://127.0.0.1:9", tries=3), sleep=waits.append)
    with pytest.raises(ChatError, match="http://127.0.0.1:9 does not answer"):
        client.say([])
    assert len(waits) == 2
    for strange in ("ftp://x", "http://", "127.0.0.1:eight", "http://[::1", "http://x:99999"):
        with pytest.raises(ValueError, match="give an address"):
            ChatClient(Settings(server=strange))


def test_a_tool_call_of_the_api_is_a_call_for_the_loop(scripted):
    calls = [{"function": {"name": "calculator", "arguments": '{"expression": "6*7"}'}}]
    message = {"content": None, "tool_calls": calls}
    scripted.script = [(200, {"choices": [{"message": message}]}, {}), good("42")]
    tools = course_tools()
    assert Harness(scripted.client(), tools, model_led(tools)).run("six times seven").answer == "42"


def test_a_transcript_that_is_too_long_is_shortened_in_the_middle(scripted):
    scripted.script = [refused(400, "the prompt has 900 tokens")] * 4 + [good("ok")]
    text = "TASK " + "x" * 990 + " NOW"
    assert chat_agent(scripted.client())(text) == "ok"
    sent = [body["messages"][0]["content"] for _, _, body in scripted.seen]
    assert sent[0] == text and all(len(a) > len(b) for a, b in zip(sent, sent[1:]))
    assert all(t.startswith("TASK ") and t.endswith(" NOW") for t in sent)
    scripted.script = [refused(400, "something else")]
    with pytest.raises(ChatError, match="something else"):
        chat_agent(scripted.client())(text)
    for room in range(30, 60):
        assert len(shorten("ab" * 30, room)) <= room and shorten("ab", room) == "ab"


def test_the_agent_works_against_our_own_server():
    from server_cases import Running
    running = Running(blocks=64, api_key="secret")
    try:
        here = dict(server=f"127.0.0.1:{running.port}", api_key="secret", max_new=8, tries=1)
        act = chat_agent(ChatClient(Settings(**here)))
        assert act("hello") == act("hello") and isinstance(act("x" * 3000), str)
        said = ChatClient(Settings(**here)).say([{"role": "user", "content": "q"}], pattern="[ab]{3}c")
        assert len(said.text) == 4 and set(said.text) <= set("abc") and said.read > 0
        short = ChatClient(Settings(**{**here, "max_new": 2}))
        cut = short.say([{"role": "user", "content": "q"}], pattern="[ab]{3}c").text
        assert cut.startswith('"') and len(cut) == 2, "cut off in the middle it is shown as it is"
        with pytest.raises(ChatError, match="answered 401"):
            ChatClient(Settings(**{**here, "api_key": ""})).say([{"role": "user", "content": "q"}])
    finally:
        running.stop()


def test_the_loop_of_chapter_7_plays_an_agent_behind_a_server(scripted):
    scripted.script = [good("show a.py"), refused(503), good("replace a.py 1 x = 2"), good("test"),
                       good("submit")]
    place = Repository("Make x two.", {"a.py": "x = 1\n"}, lambda files: "1 passed")
    play(chat_agent(scripted.client()), place)
    assert place.submitted and place.files == {"a.py": "x = 2\n"} and len(scripted.seen) == 5
    last = scripted.seen[-1][2]["messages"][-1]["content"]
    assert last.startswith("Make x two.") and "1 x = 1" in last and "1 passed" in last


def test_a_model_in_this_process_answers_messages_and_keeps_to_a_pattern():
    from engine_cases import TOKENIZER, lively_model
    from local_model import LocalModel
    local, text = LocalModel(lively_model(), TOKENIZER, n_new=6), [{"role": "user", "content": "abc"}]
    said = local.say(text)
    assert said == local.say(text) and said.read == 6 and said.written <= 6
    assert set(local.say(text, pattern="[xy]{4}").text) <= set("xy")
    assert local.size("abc") == 6 and local.room == 112 - 6
    drawn = [local.say(text, temperature=1.5, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]                    # another try is another answer


def test_the_size_of_messages_is_never_less_than_their_tokens(scripted):
    from engine_cases import TOKENIZER, lively_model
    from local_model import LocalModel
    from openai_api import chat_ids
    talk = [{"role": "user", "content": "1+2"}, {"role": "assistant", "content": "3"}] * 5
    talk = [{"role": "system", "content": "be kind"}, *talk, {"role": "user", "content": "ä"}]
    for model in (scripted.client(), LocalModel(lively_model(), TOKENIZER)):
        assert sum(model.size(m["content"]) for m in talk) >= len(chat_ids(talk, TOKENIZER))


def test_the_study_asks_what_it_says():
    from facts import Fact
    from harness_study import is_answer, make_tasks, rows
    from tasks import Tasks
    names = ("alpha", "beta", "gamma", "delta")
    known = [q for name in names for q in questions(Fact(name, "os.path", "class", "x"))]
    made = make_tasks(Tasks([], known, [(1, 2), (30, 40)], [], 0), 3, 0)
    assert [t.question for t in made[1::6]] == ["1+2", "30+40", "1+2"] and len(made) == 18
    for task in made:
        assert is_answer(" " + " ".join(task.wanted) + ".", task.wanted) and not is_answer("x", task.wanted)
    everything = rows()["notes, steps, checks; tools behind"](Scripted(adder))
    for task in made:
        if task.kind in ("sums", "long sums", "products", "told before"):
            for text in task.before:
                everything.run(text)
            assert is_answer(everything.run(task.question).answer, task.wanted), task


def test_long_addition_is_a_plan_of_its_own():
    def whole(question):
        return str((yield from add_long(10**9 - 1, 1, False)))
    assert Harness(Scripted(adder), [], whole).run("?").answer == str(10**9)


def test_a_taught_models_calls_come_back_as_the_api_writes_them():
    """Every turn is put into the form of chapter 7 again, token by token."""
    from engine_cases import TOKENIZER, lively_model
    from taught_calls import MALFORMED, TaughtModel, own_form
    from tool_calls import TOOL
    model, special = TaughtModel(lively_model(), TOKENIZER, n_new=8), TOKENIZER.special
    assert model.read("calc(723*540)") == ("calc", {"argument": "723*540"})
    for text in ("find(kind of glob)", "calc()", "calc(1", 'calc("\\'):
        name, arguments = model.read(text)
        assert name == MALFORMED.name and own_form(as_call(name, arguments)) == text
    assert own_form(as_call("calc", {"argument": "1+1"})) == "calc(1+1)" and own_form(" class.") == " class."
    seen = []
    submit = model.engine.submit
    model.engine.submit = lambda request: (seen.append(request), submit(request))
    model.say([{"role": "user", "content": "723*540"},
               {"role": "assistant", "content": as_call("calc", {"argument": "723*540"})},
               {"role": "tool", "content": "error: dead"}])
    eos, user, bot, tool = (special[name] for name in ("<|eos|>", "<|user|>", "<|bot|>", TOOL))
    assert seen[0].prompt == [eos, user, *b"723*540", bot, *b"calc(723*540)", tool, *b"error", bot]
    assert seen[0].watch(seen[0], tool) and not seen[0].watch(seen[0], eos)
    drawn = [model.say([{"role": "user", "content": "a"}], temperature=1.5, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    from harness_study import taught_rows
    leads, result_counts = taught_rows().values()
    said = iter([as_call("calc", {"argument": "723*500"}), "536110"])
    scripted = Scripted(lambda m: next(said))
    outcome = leads(scripted).run("327*5")
    assert outcome.answer == "11635", "it has miscopied"
    assert scripted.asked[1][0][-1] == ("tool", "536100") and outcome.calls == 1
    said = iter([as_call("calc", {"argument": "723*500"}), "no call"])
    assert result_counts(scripted).run("327*5").answer == "1635"
    assert result_counts(scripted).run("327*5").answer == "no call"
