"""`learn.py prove` holds for a good course and finds each kind of weakness in a bad one."""

from tiny_course import FILES, learn, make


def edit(place, name, *changes):
    text = (place / name).read_text()
    for old, new in changes:
        assert text.count(old) == 1, (name, old, text.count(old))
        text = text.replace(old, new)
    (place / name).write_text(text)


def test_a_good_course_is_proven(tmp_path):
    said = learn(make(tmp_path / "tiny", with_git=False), "prove", "--seconds", "1", "--seeds", "3", "-j",
                 "2")
    assert said.count("holds") == 4 and "0 problems" in said
    assert "4 exercises, 28 cases" in said


def test_only_the_exercises_that_are_named_are_proven(tmp_path):
    said = learn(make(tmp_path / "tiny", with_git=False), "prove", "2", "--seeds", "1", "-j", "1")
    assert "2.1" in said and "1.1" not in said and "1 exercises, 7 cases" in said


def test_each_weakness_is_found(tmp_path):
    place = make(tmp_path / "tiny", with_git=False)
    edit(place, "tests/mutants_01.py",
         ('("1.1", "counts each pair once"',
          '("1.1", "is right after all", "counts = {}", "counts = dict()"),\n    ("1.1", "counts once"'),
         ('("1.1", "never ends", "counts = {}", "counts = {}\\n    while True: pass")',
          '("1.1", "crashes", "ids[1:]", "idz[1:]")'),
         ('("1.2", "takes the rarest", "max("', '("1.2", "takes the rarest", "maximum("'))
    edit(place, "tests/test_ex01.py",
         ('@pytest.mark.ex("1.1")\ndef test_nothing',
          '@pytest.mark.ex("1.1")\ndef test_that_counts_nothing():\n    """x"""\n'
          '    assert isinstance(count_pairs, object)\n\n\n@pytest.mark.ex("1.1")\ndef test_nothing'))
    edit(place, "tests/test_ex02.py", ("    got = blend([0, 1], [1, 3])",
                                       "    assert seed != 2, 'unlucky'\n    got = blend([0, 1], [1, 3])"),
         ("counts_more():", "counts_more(seed):"))
    edit(place, "tests/mutants_csrc.py", ('    ("c.1", "subtracts", "+= i", "-= i"),\n', ""))
    edit(place, "csrc/EXERCISES.md", ("Hint 3", "Hint 2"))
    said = learn(place, "prove", "--seconds", "1", "--seeds", "3", "-j", "2", code=1)
    for problem in (
            "1.1: mutant 'is right after all' passes every test",
            "1.1: mutant 'crashes' only crashes (NameError): no assertion rejects it",
            "1.1: test_that_counts_nothing passes on the blank",
            "1.1: test_that_counts_nothing rejects no mutant",
            "1.2: mutant 'takes the rarest': the right fragment 'maximum(' occurs 0 times, not once",
            "1.2: 4 mutants, wanted at least 5",
            "2.1: the reference does not pass under 3 seeds: tests/test_ex02.py::test_a_heavier_value",
            "c.1: 4 mutants, wanted at least 5", "c.1: EXERCISES.md must give Hint 1, Hint 2 and Hint 3"):
        assert problem in said, f"not found: {problem}\n{said}"


def test_a_tree_with_blanks_cannot_be_proven(tmp_path):
    place = make(tmp_path / "tiny")
    learn(place, "start", "2")
    assert "2.1 is blank here: use the branch main" in learn(place, "prove", "2", code=2)


def test_a_mutant_that_breaks_the_import_is_not_rejected(tmp_path):
    place = make(tmp_path / "tiny", with_git=False)
    edit(place, "tests/mutants_02.py",
         ('"total = 0.0", "total = float(\'nan\')"', '"total = 0.0", "total = = 0.0"'))
    assert FILES["tests/mutants_02.py"] != (place / "tests/mutants_02.py").read_text()
    said = learn(place, "prove", "2", "--seeds", "1", "-j", "1", code=1)
    assert "mutant 'gives NaN' only crashes" in said
