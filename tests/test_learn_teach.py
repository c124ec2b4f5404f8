"""What teachers make from the bank: exams with answers, planted mistakes, a page for graders; and likeness
of hand-ins.
"""

import re
import shutil
import sys
from pathlib import Path

import pytest

from tiny_course import GOOD, learn, make, put

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "06_data"))
from learn_alike import alike, tokens  # noqa: E402


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return make(tmp_path_factory.mktemp("course") / "reference")


def test_an_exam_asks_which_of_two_is_wrong_and_its_answers_say_what_one_would_see(reference, tmp_path):
    learn(reference, "exam", str(tmp_path), "--questions", "2", "--seed", "5", "--only", "1.2,2.1")
    sheet, answers = ((tmp_path / f"{name}-5.md").read_text() for name in ("sheet", "answers"))
    assert sheet.count("**A**") == sheet.count("**B**") == 2 and "EXERCISE" not in sheet
    assert "# " not in "".join(re.findall(r"```python\n(.*?)```", sheet, re.S))
    for n, question in enumerate(re.split(r"^## ", sheet, flags=re.M)[1:], 1):
        a, b = re.findall(r"```python\n(.*?)```", question, re.S)
        answer = re.split(r"^## ", answers, flags=re.M)[n]
        wrong = a if ": A is wrong" in answer else b
        right, false = re.search(r"Wrong: .*?\. `(.*?)` became `(.*?)`\.", answer, re.S).groups()
        flat = " ".join(wrong.split())
        assert a != b and (false in flat or false == "(nothing)" and right not in flat), (wrong, answer)
        assert "What one would see: " in answer and "do not notice" not in answer


def test_the_same_seed_is_the_same_sheet_and_copies_differ(reference, tmp_path):
    for folder in ("one", "two"):
        learn(reference, "exam", str(tmp_path / folder), "--questions", "2", "--copies", "2")
    texts = {f.name: f.read_text() for f in (tmp_path / "one").iterdir()}
    assert texts == {f.name: f.read_text() for f in (tmp_path / "two").iterdir()}
    assert texts["sheet-0.md"].partition("\n")[2] != texts["sheet-1.md"].partition("\n")[2]


def test_too_many_questions_are_refused(reference, tmp_path):
    said = learn(reference, "exam", str(tmp_path), "--questions", "9", code=2)
    assert "9 questions were asked for, but only 4 exercises" in " ".join(said.split())


def test_everybody_gets_mistakes_of_their_own_and_mending_them_is_graded(reference, tmp_path):
    (tmp_path / "names").write_text("ada\nben\n\ncleo\ndora\n")
    learn(reference, "exam", str(tmp_path / "out"), "--plant", str(tmp_path / "names"), "--questions", "2",
          "--only", "1.2,2.1")
    names = sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir())
    assert names == ["ada", "ben", "cleo", "dora"]
    texts = {n: (tmp_path / "out" / n / "02_second/blend.py").read_text() for n in names}
    assert len(set(texts.values())) > 1 and all(n in (tmp_path / "out/answers.md").read_text() for n in names)
    put(tmp_path / "out/ada", "2.1", GOOD["2.1"])
    said = learn(reference, "grade", str(tmp_path / "out"), str(tmp_path / "grades"), "--many",
                 "--only", "2.1", "--seconds", "2")
    assert " ada: 3 of 3" in said and all(f" {n}: 3 of 3" not in said for n in names[1:])


def test_the_page_of_mistakes_lists_every_one_of_the_bank(reference, tmp_path):
    said = learn(reference, "mistakes", str(tmp_path / "page.md"), "--chapters", "1")
    page = (tmp_path / "page.md").read_text()
    assert "10 mistakes of 2 exercises" in said and page.count("\n- ") == 10 and "2.1" not in page
    assert "- takes the rarest: `min(` in place of `max(`" in page


LONG = """    total = 0.0
    for value, weight in zip(values, weights):
        scaled = value * weight
        total = total + scaled if scaled else total
        trace.append((value, weight, scaled, total))
    norm = sum(abs(w) for w in weights) or 1.0
    return total / norm
"""


def test_renamed_variables_comments_and_layout_do_not_hide_a_copy():
    copied = LONG.replace("total", "acc").replace("scaled", "x").replace("value", "v").replace("norm", "n")
    copied = copied.replace("    for", "    # my own idea\n\n    for")
    assert tokens(LONG) == tokens(copied) != tokens(LONG.replace("*", "/"))


def test_pairs_that_share_what_the_reference_has_not_are_named():
    other = "    share = [w / sum(weights) for w in weights]\n    pairs = list(zip(values, share))\n" \
            "    pairs.sort(key=lambda pair: -pair[1])\n    best, rest = pairs[0], pairs[1:]\n" \
            "    return best[0] * best[1] + sum(a * b for a, b in rest)\n"
    bodies = {"ada": LONG, "ben": LONG.replace("total", "t").replace("norm", "length"), "cleo": other}
    [(first, second, share)] = alike(bodies, "    return 1\n", "#", 0.6)
    assert {first, second} == {"ada", "ben"} and share > 0.95
    assert alike(bodies, LONG, "#", 0.1) == []          # the reference's own code is nobody's copy


def test_hand_ins_in_a_folder_are_compared(tmp_path):
    """The real course, two copies and one other, through the command."""
    text = (ROOT / "01_tokenizer/bpe_naive.py").read_text()
    from learn_bodies import graft
    mine = ("    new, merged = [], []\n    for token in ids:\n"
            "        if new and not merged[-1] and (new[-1], token) == tuple(pair):\n"
            "            new[-1], merged[-1] = new_id, True\n        else:\n"
            "            new.append(token)\n            merged.append(False)\n    return new\n")
    for name, body in (("ada", mine), ("ben", mine.replace("new,", "out,").replace("new[", "out[").replace(
            "new.", "out.").replace("return new", "return out").replace("if new ", "if out ")),
                       ("cleo", "    return 1\n")):
        (tmp_path / name / "01_tokenizer").mkdir(parents=True)
        (tmp_path / name / "01_tokenizer/bpe_naive.py").write_text(graft(text, "1.2", body))
    (tmp_path / "dora.rar").write_bytes(b"Rar!")
    said = learn(ROOT, "alike", str(tmp_path))
    assert re.search(r"1\.2 +100%  ada  ben", said) and "cleo" not in said
    assert "dora is not compared: dora.rar is neither a folder nor a zip file" in said
    (tmp_path / "dora.rar").unlink()
    shutil.rmtree(tmp_path / "ben")
    shutil.rmtree(tmp_path / "cleo")
    assert "there is nothing to compare" in learn(ROOT, "alike", str(tmp_path), code=1)
