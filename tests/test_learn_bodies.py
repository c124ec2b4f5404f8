"""Markers, grafting and what EXERCISES.md must say."""

import pytest

from learn_bodies import audit, blanked, course, digest, find, graft, is_stub
from tiny_course import FILES, make

TEXT = ("def f():\n    # EXERCISE 1.1 add\n    return 1\n    # END EXERCISE 1.1\n\n\n"
        "def g():\n    # EXERCISE 1.2 more\n    x = 2\n    return x\n    # END EXERCISE 1.2\n")


def test_an_exercise_is_what_stands_between_its_markers():
    first, second = find(TEXT)
    assert (first.id, first.title, first.body, first.line) == ("1.1", "add", "    return 1\n", 2)
    assert second.body == "    x = 2\n    return x\n"


def test_grafting_its_own_body_changes_nothing():
    for exercise in find(TEXT):
        assert graft(TEXT, exercise.id, exercise.body) == TEXT


def test_grafting_replaces_one_body_only():
    changed = graft(TEXT, "1.1", "    a = 3\n    return a")
    assert [e.body for e in find(changed)] == ["    a = 3\n    return a\n", "    x = 2\n    return x\n"]
    assert graft(changed, "1.1", "    return 1\n") == TEXT


def test_a_blank_says_which_exercise_it_is():
    spaces = {}
    exec(blanked(TEXT), spaces)
    with pytest.raises(NotImplementedError, match="exercise 1.2: more"):
        spaces["g"]()
    assert all(is_stub(e.body) for e in find(blanked(TEXT)))


@pytest.mark.parametrize("gone, says",
                         [("    # END EXERCISE 1.1\n", "exercise 1.1 has no END line"),
                          ("    # EXERCISE 1.1 add\n", "END EXERCISE 1.1 has no EXERCISE line"),
                          ("    # END EXERCISE 1.2\n", "put back '# END EXERCISE 1.2'")])
def test_a_missing_marker_is_named(gone, says):
    with pytest.raises(ValueError, match=says):
        find(TEXT.replace(gone, ""))


def test_the_same_exercise_twice_is_refused():
    with pytest.raises(ValueError, match="begins twice"):
        find(TEXT + TEXT)


def test_white_space_at_the_end_of_lines_does_not_change_the_hash():
    assert digest("  a\n  b\n") == digest("  a  \n  b") != digest("  a\n b\n")


def test_a_course_is_read_in_the_order_of_its_pages(tmp_path):
    exercises = course(make(tmp_path / "tiny", with_git=False))
    assert list(exercises) == ["1.1", "1.2", "2.1", "c.1"]
    assert [e.points for e in exercises.values()] == [2, 4, 3, 1]
    assert exercises["1.1"].hints[2] == ("Hint 3: pseudocode", "do it")
    assert exercises["1.2"].function == "most_common"


def test_a_course_that_agrees_has_nothing_to_say(tmp_path):
    assert audit(make(tmp_path / "tiny", with_git=False)) == []


@pytest.mark.parametrize("file, old, new, says",
                         [("01_first/EXERCISES.md", "## 1.1 count", "## 1.3 count",
                           "the ids must run 1.1, 1.2"),
                          ("01_first/EXERCISES.md", "## 1.1 count pairs", "## 1.1 Count pairs",
                           "EXERCISES.md says 'Count pairs'"),
                          ("01_first/EXERCISES.md", "`count_pairs`", "`count`", "has no `count`"),
                          ("01_first/EXERCISES.md", "Hint 3", "Hint 4",
                           "must give Hint 1, Hint 2 and Hint 3"),
                          ("01_first/EXERCISES.md", "**Worked example.**", "",
                           "gives no **Worked example.**"),
                          ("01_first/pairs.py", "EXERCISE 1.2 most", "EXERCISE 1.7 most",
                           "1.2: in EXERCISES.md but no code"),
                          ("02_second/blend.py",
                           find(FILES["02_second/blend.py"])[0].body.rsplit("    return", 1)[0], "",
                           "body has 1 lines"),
                          ("tests/test_ex02.py", 'ex("2.1")', 'ex("2.2")',
                           "tests are marked with it but there is no such exercise")])
def test_each_disagreement_is_named(tmp_path, file, old, new, says):
    place = make(tmp_path / "tiny", with_git=False)
    assert old in FILES[file]
    text = FILES[file].replace(old, new)
    (place / file).write_text(text.replace("END EXERCISE 1.2", "END EXERCISE 1.7") if "1.7" in new else text)
    assert any(says in sentence for sentence in audit(place)), audit(place)
