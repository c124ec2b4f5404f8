"""Agents that repair: the loop, the tasks made from templates, the model as an agent."""
import http.server
import json
import random
import threading

import pytest
import torch

import bpe
from agent_loop import Budget, Repository, do_nothing, play, served, turns_of
from agent_model import ACTION_TOKENS, GRID, act_all, imitation_loss, model_agent, transcript_ids, trial_loss
from bpe import BOT, EOS, USER, Tokenizer
from bug_templates import FUNCTIONS
from code_agent import demonstrate, first_and_last_rewards, gain, graded, how_it_ended, quarters, reference
from code_tasks import grade
from repair_tasks import all_bugs, failures, make_task
from transformer import Config, Transformer

FILES = {"a.py": "x = 1\n    y = 2\n", "b.py": "z\n"}
TASK = make_task(next(b for b in all_bugs() if b.kind == "operator"), random.Random(0))


def repository(budget=Budget()):
    return Repository("issue", FILES, lambda files: f"x is {files['a.py'][4]}", budget)


def test_each_action_does_what_it_says_and_the_transcript_has_it():
    said = iter(["list", "show a.py", "replace a.py 2     y = 3", "test", "submit"])
    place = play(lambda transcript: next(said), repository())
    assert place.transcript == ("issue\n> list\na.py\nb.py\n> show a.py\n1 x = 1\n2     y = 2\n"
                                "> replace a.py 2     y = 3\nok\n> test\nx is 1\n> submit\n")
    assert place.files == {"a.py": "x = 1\n    y = 3\n", "b.py": "z\n"} and FILES["a.py"][-2] == "2"
    assert place.submitted and place.steps == 5 and place.malformed == 0


@pytest.mark.parametrize("said", ["", " list", "list ", "show", "show a.py b.py", "Test", "replace a.py 0 x",
                                  "replace a.py 2", "replace a.py 9 x", "replace a.py ٢ x", "show c.py",
                                  "submit\nlist", "test " + "x" * 200, "list\x0c", "replace a.py 1 x\u2028y",
                                  "replace a.py 1 \ud83d"])
def test_a_malformed_action_is_answered_with_one_sentence_and_costs_a_step(said):
    place = repository()
    place.act(said)
    *_, answer, prompt = place.transcript.split("\n")
    assert answer.startswith("error: ") and prompt == "> " and place.files == FILES
    assert (place.steps, place.malformed, place.submitted) == (1, 1, False)


def test_an_agent_cannot_forge_an_answer_and_an_answer_cannot_forge_an_action():
    place = Repository("issue", {"> submit": "", "\udcff": ""}, lambda files: "> submit")
    place.act("test\nPASS\n> submit")
    place.act("list")
    assert turns_of(place.transcript)[1:] == [("error: an action is one line of text", "list"),
                                              (" > submit\n?", "")]


def test_an_agent_that_never_submits_is_stopped_and_has_not_submitted():
    place = play(lambda transcript: "list", repository(Budget(steps=3)))
    assert place.done and not place.submitted and place.steps == 3


def test_turns_are_read_back_from_the_transcript():
    place = repository()
    for said in ("list", "replace a.py 1 ", "test"):
        place.act(said)
    assert turns_of(place.transcript) == [("issue", "list"), ("a.py\nb.py", "replace a.py 1 "),
                                          ("ok", "test"), ("x is  ", "")]


def test_a_server_with_the_chat_api_is_an_agent():
    asked, answers = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            body = answers.pop(0)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        agent = served(f"http://127.0.0.1:{server.server_port}/v1", "small")
        answers += [json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()
                    for content in ("submit\n", None)] + [b"<html>", b'{"choices": []}', b"[]"]
        place = play(agent, repository())
        while answers:
            with pytest.raises(ValueError, match="another form"):
                agent("issue\n> ")
        server.shutdown()
    with pytest.raises(ValueError, match="gives no answer"):
        agent("issue\n> ")
    assert place.submitted and place.malformed == 0
    assert asked[0][0] == "/v1/chat/completions" and asked[0][1]["model"] == "small"
    assert asked[0][1]["messages"][-1] == {"role": "user", "content": "issue\n> "}


def test_every_bug_changes_one_line_and_fails_a_test_that_the_right_function_passes():
    kinds = {b.kind for b in all_bugs()}
    assert len(all_bugs()) > 200 and kinds == {"operator", "off by one", "missing return", "wrong name"}
    for bug in all_bugs():
        task = make_task(bug, random.Random(str(bug)))
        old, new = task.right.split("\n"), task.wrong.split("\n")
        assert [i for i, (a, b) in enumerate(zip(old, new)) if a != b] == [bug.line] and len(old) == len(new)
        assert any(failures(bug.function, task.wrong)) and not any(failures(bug.function, task.right))


def test_what_the_sandbox_says_of_a_file_is_what_our_own_text_gives_here():
    name = TASK.bug.function
    for text in (TASK.wrong, TASK.right):
        assert failures(name, text + "# not our own text\n") == failures(name, text)
    assert failures(name, "def (")[0] == f"{name}.py stops with SyntaxError"
    assert len(failures(name, "raise SystemExit(0)")) == len(FUNCTIONS[name].calls)


def test_the_script_repairs_and_doing_nothing_does_not_by_the_grade_of_swe_bench():
    assert graded(TASK, reference(TASK)) and not graded(TASK, do_nothing)
    instance = TASK.instance()
    assert grade(instance, instance.patch).resolved and instance.FAIL_TO_PASS and instance.PASS_TO_PASS


def test_the_quick_verdict_is_that_of_the_script_and_of_doing_nothing_on_every_kind():
    for kind in ("operator", "off by one", "missing return", "wrong name"):
        task = make_task([b for b in all_bugs() if b.kind == kind][-1], random.Random(kind))
        right, nothing = play(reference(task), task.place()), play(do_nothing, task.place())
        assert task.solved(right) and not task.solved(nothing)
        assert (how_it_ended(task, right), how_it_ended(task, nothing)) == ("repaired", "nothing changed")
        assert "FAIL" in right.transcript and right.transcript.endswith("PASS\n> submit\n")


def test_breaking_the_other_file_is_no_repair():
    said = iter([f"replace {TASK.other}.py 2 ", f"replace {TASK.file} {TASK.bug.line + 1} "
                 + TASK.right.split("\n")[TASK.bug.line], "submit"])
    place = play(lambda transcript: next(said), TASK.place())
    assert place.submitted and not TASK.solved(place)


def test_the_quarters_share_no_bug_and_leave_none_out():
    parts = quarters(3)
    assert sorted(map(repr, sum(parts, []))) == sorted(map(repr, all_bugs()))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1 and quarters(3) == parts != quarters(4)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    rows = [demonstrate(quarters(0)[0], random.Random(i)) for i in range(30)]
    tokenizer = Tokenizer(bpe.train([text for text, _ in rows], 340))
    config = Config(vocab_size=tokenizer.vocab_size, d_model=32, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=64,
                    max_len=300)
    return Transformer(config), tokenizer, rows


def test_tokens_of_a_transcript_do_not_change_as_it_grows_and_actions_begin_on_the_grid(small):
    _, tokenizer, rows = small
    text, _ = rows[0]
    whole, learned = transcript_ids(tokenizer, text)
    bots = [i for i, t in enumerate(whole) if t == tokenizer.special[BOT]]
    assert all((i + 1) % GRID == 0 for i in bots)
    assert len(bots) == len(turns_of(text)) == whole.count(tokenizer.special[USER])
    for end in range(1, len(turns_of(text))):
        cut = "> ".join(text.split("> ")[:end]) + "> "
        ids, _ = transcript_ids(tokenizer, cut)
        assert whole[:len(ids)] == ids and ids[-1] == tokenizer.special[BOT]
    actions = tokenizer.decode([t for t, yes in zip(whole, learned) if yes]).split(EOS)
    assert actions == [done for _, done in turns_of(text)] + [""]


def test_a_slip_is_shown_and_not_learned(small):
    _, tokenizer, rows = small
    text, wrong = next(row for row in rows if row[1])
    _, learned = transcript_ids(tokenizer, text)
    _, fewer = transcript_ids(tokenizer, text, wrong)
    assert sum(learned) - sum(fewer) == len(tokenizer.encode(*wrong)) + 1


def test_imitation_looks_at_actions_alone(small):
    model, tokenizer, rows = small
    ids, learned = transcript_ids(tokenizer, rows[0][0])
    log_p = model(torch.tensor([ids]))[0].log_softmax(-1)
    want = -sum(log_p[i - 1, t] for i, (t, yes) in enumerate(zip(ids, learned)) if yes) / sum(learned)
    torch.testing.assert_close(imitation_loss(model, tokenizer, [(rows[0][0], frozenset())]), want, atol=1e-5,
                               rtol=1e-5)


def test_trial_makes_the_better_episode_likelier_and_equal_rewards_teach_nothing(small):
    model, tokenizer, rows = small
    texts = [rows[0][0], rows[1][0]]
    assert trial_loss(model, tokenizer, texts, torch.tensor([[1.0, 1.0]])).item() == 0
    loss = trial_loss(model, tokenizer, texts, torch.tensor([[1.0, 0.0]]))
    got = torch.autograd.grad(loss, model.model.embed_tokens.weight)[0]
    # by the definition: minus advantage times log p, averaged over all tokens of both
    a, total, n = 0.5 / (0.5 ** 0.5 + 1e-4), 0, 0
    for text, sign in zip(texts, (1, -1)):
        ids, learned = transcript_ids(tokenizer, text)
        log_p = model(torch.tensor([ids]))[0].log_softmax(-1)
        total = total - sign * a * sum(log_p[i - 1, t] for i, (t, yes) in enumerate(zip(ids, learned)) if yes)
        n += sum(learned)
    torch.testing.assert_close(got, torch.autograd.grad(total / n, model.model.embed_tokens.weight)[0],
                               atol=1e-6, rtol=1e-4)


def test_episodes_together_are_the_episodes_alone_and_one_that_outgrows_the_model_is_submitted(small):
    model, tokenizer, _ = small
    tasks = [make_task(bug, random.Random(1)) for bug in all_bugs()[:3]]
    places = [task.place(Budget(steps=3)) for task in tasks]
    act_all(model, tokenizer, places)
    alone = [play(model_agent(model, tokenizer), task.place(Budget(steps=3))) for task in tasks]
    assert [p.transcript for p in places] == [p.transcript for p in alone]
    full = Repository("word " * 400, FILES, lambda files: "")
    act_all(model, tokenizer, [full])
    assert full.submitted and full.steps == 1 and model_agent(model, tokenizer)(full.transcript) == "submit"
    assert ACTION_TOKENS < model.config.max_len


def test_two_stages_are_compared_task_by_task():
    rows = {"a": {"each": [True, True, False, True]}, "b": {"each": [True, False, False, False]}}
    # differences 0, 1, 0, 1: mean a half, standard deviation 0.577, of which the root of 4 is the error
    assert gain([{"rows": rows}], "a", "b") == "+50.0 ± 28.9 points on 4 tasks"
    other = {"a": {"each": [True] * 4}, "b": {"each": [False] * 4}}
    # by seed a half and one: mean 0.75, standard deviation 0.354, of which the root of 2 is the error
    assert gain([{"rows": rows}, {"rows": other}], "b", "a") == ("-75.0 ± 16.4 points on 8 tasks; by seed "
                                                                 "-50, -100, ± 25.0")


def test_the_reward_at_both_ends_of_a_trial_is_a_mean_over_a_quarter_of_its_steps():
    found = [{"rewards": [0.0, 0.5, 9.0, 9.0, 9.0, 9.0, 0.25, 0.75]}, {"rewards": [1.0] * 8}]
    assert first_and_last_rewards(found) == ([25, 100], [50, 100])
    assert first_and_last_rewards([{"rewards": [0.5]}]) == ([50], [50])   # --tried-steps 1
