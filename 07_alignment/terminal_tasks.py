"""End-to-end tasks at a command line: find, fix, build, serve; scored by whether it is done.

Adds to agent_loop.py tasks for the machine of terminal_machine.py, in numbers: names and data vary with the
seed. Whether a task is done is seen from outside: where a program is to be mended the checks change the data,
build again and ask the server, so that writing the wanted output by hand does not count. Where the kernel has
no walls (macOS) the sandbox is weaker, and its `walls` say so; the tasks are the same.

    python 07_alignment/terminal_tasks.py          references, doing nothing, our models
    python 07_alignment/terminal_tasks.py --url http://127.0.0.1:8000/v1     a server with the chat API
"""
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import RunSettings, announce, parse_settings, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
from agent_loop import Agent, do_nothing, play, served, turns_of
from bpe import EOS, Tokenizer
from chat_template import chat_prompt
from checkpoint import load_model
from results_table import print_table
from rollout import sample
from terminal_machine import Files, Machine, ask, run
from terminal_shell import COMMANDS
from transformer import Transformer


@dataclass
class Settings(RunSettings):
    """Whom to grade, and on how much."""
    each: int = setting(3, least=1)    # tasks of each kind
    url: str = ""                      # grade this server instead: its address before /chat/completions
    model: str = ""                    # the model to ask it for


@dataclass(frozen=True)
class TerminalTask:
    """What is asked, the files, the commands of the scripted reference, and whether a machine has it done."""
    name: str
    text: str
    files: Files
    reference: tuple[str, ...]
    done: Callable[[Machine], bool]


def find_task(rng: random.Random) -> TerminalTask:
    """Which log has the error? Each log has another."""
    codes = rng.sample(range(100, 1000), 6)
    files = {f"logs/{name}.log": f"start\nerror E{code}\nstop\n" for name, code in zip("abcdef", codes)}
    wanted = rng.randrange(6)
    path = f"logs/{'abcdef'[wanted]}.log"
    text = f"Write the path of the file with error E{codes[wanted]} into answer.txt."
    return TerminalTask("find", text, files,
                        (f"grep E{codes[wanted]}", f"echo {path} > answer.txt", "submit"),
                        lambda machine: machine.files.get("answer.txt", "").strip() == path)


def rows_of(rng: random.Random, other_than: int = -1) -> tuple[str, int]:
    """A small table of sales, and their total, which is another than the one that the task has told."""
    sold = [(rng.choice(("tea", "rice", "salt")), rng.randrange(1, 90)) for _ in range(4)]
    if (total := sum(n for _, n in sold)) == other_than:
        return rows_of(rng, other_than)
    return "name,sold\n" + "".join(f"{name},{n}\n" for name, n in sold), total


def fix_task(rng: random.Random) -> TerminalTask:
    """A report that leaves out the first row. Checked on other data."""
    code = ("lines = open('data.csv').read().split()\n"
            "print(sum(int(line.split(',')[1]) for line in lines[2:]))\n")
    table, total = rows_of(rng)
    other, right = rows_of(rng, total)

    def done(machine: Machine) -> bool:
        return run({**machine.files, "data.csv": other}, "python report.py")[0] == str(right)
    text = f"report.py prints the sum of column sold of data.csv. It should be {total}. Mend it."
    return TerminalTask("fix", text, {"report.py": code, "data.csv": table},
                        ("python report.py", "cat report.py", "sed s/[2:]/[1:]/ report.py",
                         "python report.py", "submit"), done)


def build_task(rng: random.Random) -> TerminalTask:
    """A build that looks in the wrong folder. Checked with one page more."""
    code = ("import os\nfor name in os.listdir('page'):\n    text = open('page/' + name).read()\n"
            "    open('site/' + name + '.html', 'w').write('<p>' + text.strip() + '</p>')\n")
    pages = {f"pages/{name}": f"{rng.choice(('red', 'green', 'blue'))} {name}\n" for name in ("one", "two")}
    secret = f"page {rng.randrange(1000)}"

    def done(machine: Machine) -> bool:
        built = all(machine.files.get(f"site/{path[6:]}.html") == f"<p>{text.strip()}</p>"
                    for path, text in pages.items())
        after = run({**machine.files, "pages/new": secret + "\n"}, "python build.py")[1]
        return built and after.get("site/new.html") == f"<p>{secret}</p>"
    return TerminalTask("build", "Make build.py build all of pages into site, and build it.",
                        {"build.py": code, **pages},
                        ("ls", "python build.py", "cat build.py", "sed s/page/pages/ build.py", "mkdir site",
                         "python build.py", "ls site", "submit"), done)


APP = """import json
def app(environ, start_response):
    found = json.load(open('data.json'))
    key = environ['PATH_INFO'].strip('.')
    if key in found:
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [str(found[key]).encode()]
    start_response('404 Not Found', [])
    return [b'']
"""


def serve_task(rng: random.Random) -> TerminalTask:
    """A server that strips the wrong sign. Checked by asking it, for new data and what is not there."""
    keys = rng.sample(["tea", "rice", "salt", "fish"], 2)
    values = [rng.randrange(10, 99) for _ in keys]
    tables = [dict(zip(keys, v)) for v in (values, [v + 90 for v in values])]
    data, other = (json.dumps(table) + "\n" for table in tables)
    paths = [*("/" + k for k in keys), "/none"]

    def done(machine: Machine) -> bool:
        return bool(machine.serving) and all(
            ask({**machine.files, **changed}, machine.serving, *paths)
            == [*(f"200 OK\n\n{v}" for v in table.values()), "404 Not Found\n\n"]
            for table, changed in zip(tables, ({}, {"data.json": other})))
    text = f"Mend app.py so that /{keys[0]} answers {values[0]}, as data.json says, and serve it."
    return TerminalTask("serve", text,
                        {"app.py": APP, "data.json": data},
                        ("cat app.py", "sed \"s|'.'|'/'|\" app.py", "serve app.py", "submit"), done)


def whole_task(rng: random.Random) -> TerminalTask:
    """Find the builder, fix it, build, serve. Checked on other data, built again and served."""
    table, total = rows_of(rng)
    other, right = rows_of(rng, total)
    maker = f"{rng.choice(('make', 'prepare', 'gather'))}_{rng.randrange(10)}.py"
    code = ("import json\nlines = open('data.csv').read().split()[1:]\n"
            "json.dump({'total': max(int(line.split(',')[1]) for line in lines)}, open('data.json', 'w'))\n")

    def done(machine: Machine) -> bool:
        rebuilt = run({**machine.files, "data.csv": other}, f"python tools/{maker}")[1]
        app = machine.serving
        return bool(app) and ask(machine.files, app, "/total") == [f"200 OK\n\n{total}"] \
            and ask(rebuilt, app, "/total") == [f"200 OK\n\n{right}"]
    text = (f"Some file makes data.json from data.csv. Its total should be the sum, {total}. Mend it, build, "
            "and serve app.py, whose path is /total.")
    return TerminalTask("whole", text,
                        {"app.py": APP.replace("'.'", "'/'"), "data.csv": table, f"tools/{maker}": code,
                         "tools/other.py": "print('nothing')\n"},
                        ("grep data.json", f"cat tools/{maker}", f"sed s/max/sum/ tools/{maker}",
                         f"python tools/{maker}", "serve app.py", "submit"), done)


TASKS = (find_task, fix_task, build_task, serve_task, whole_task)


def scripted(task: TerminalTask) -> Agent:
    """The reference: its commands, one after another."""
    return lambda transcript: task.reference[min(len(turns_of(transcript)), len(task.reference)) - 1]


def chat_model_agent(model: Transformer, tokenizer: Tokenizer) -> Agent:
    """A chat model as an agent: the end of the transcript that it has room for is its question."""
    def agent(transcript: str) -> str:
        room, eos = model.config.max_len - 40, tokenizer.special[EOS]
        while len(ids := chat_prompt(tokenizer, transcript)) > room:
            transcript = transcript[len(ids) - room:]        # a token is at least a byte
        [[answer]] = sample(model, [ids], 34, eos)
        return tokenizer.decode([t for t in answer if t != eos]).strip()
    return agent


def score(agent_of: Callable[[TerminalTask], Agent], each: int, seed: int) -> dict[str, float]:
    """Share of tasks of each kind that this agent gets done: submitted, and as asked."""
    found = {}
    for make in TASKS:
        tasks = [make(random.Random(f"{make.__name__} {seed} {i}")) for i in range(each)]
        machines = [play(agent_of(task), Machine(task.text, task.files)) for task in tasks]
        found[tasks[0].name] = sum(m.submitted and t.done(m) for t, m in zip(tasks, machines)) / each
    return found


def main() -> None:
    """Grade the references, an agent that does nothing, and our models or a server."""
    s = parse_settings(Settings, __doc__, {"each": 1})
    device = announce("07 terminal tasks", s)
    agents = {"script": scripted, "does nothing": lambda task: do_nothing}
    if s.url:
        rules = f"You work at a command line. Answer with one command: {COMMANDS}."
        there = served(s.url, s.model, rules)
        agents |= {s.model or "server": lambda task: there}
    for name in ("sft", "grpo") if not s.url else ():
        file = Path(s.out, "07_alignment", f"{name}.pt")
        if not file.exists():
            print(f"  {name}: not here; `make 07` trains it")
            continue
        tokenizer = Tokenizer.load(Path(s.out, "01_tokenizer", "tokenizer.json"))
        here = chat_model_agent(load_model(file, device), tokenizer)
        agents[name] = lambda task, here=here: here
    rows = {name: score(agent_of, s.each, s.seed) for name, agent_of in agents.items()}
    names = list(rows["script"])
    print_table(("done, %", *names),
                [(name, *(f"{100 * row[n]:.0f}" for n in names)) for name, row in rows.items()])
    write_json(Path(s.out, "07_alignment", "terminal_tasks.json"), {"seed": s.seed, "rows": rows})


if __name__ == "__main__":
    run_main(main)
