"""The exercises of chapter 7 about patches."""

import pytest

from code_tasks import resolved
from ex_compare import call, same
from unified_diff import DoesNotApply, Hunk, apply_hunk

# 7.15 the grade of a patch


@pytest.mark.ex("7.15")
def test_every_test_of_both_lists_must_pass():
    """one that fails, or was not run, in either list: not resolved"""
    passed = {"a": True, "b": True, "c": False, "d": True}
    for mend, keep, want in ((["a"], ["b"], True), (["a", "b"], ["d"], True), (["a"], [], True),
                             (["c"], ["b"], False),
                             (["a"], ["c"], False), (["a", "c"], ["b"], False), (["a"], ["b", "c"], False),
                             (["c", "a"], ["b"], False), (["a"], ["c", "b"], False)):
        given = f"passed {passed}, FAIL_TO_PASS {mend}, PASS_TO_PASS {keep}"
        same(bool(call(given, resolved, passed, mend, keep)), want, given,
             "all tests of both lists, no others")


@pytest.mark.ex("7.15")
def test_a_test_that_was_not_run_has_not_passed():
    """a missing test counts as failed"""
    for mend, keep in ((["a", "x"], []), (["x"], ["a"]), (["a"], ["x"])):
        given = f"passed {{'a': True}}, FAIL_TO_PASS {mend}, PASS_TO_PASS {keep}"
        same(bool(call(given, resolved, {"a": True}, mend, keep)), False, given, "x was not run")


@pytest.mark.ex("7.15")
def test_an_instance_without_a_failing_test_is_refused():
    """ValueError if nothing had to be mended"""
    with pytest.raises(ValueError):
        resolved({"a": True}, [], ["a"])


# 7.16 apply a hunk


def check_hunk(text, begin, lines, shift, want, moved, hint):
    """apply_hunk on one case; the caller's list stays as it is."""
    given = f"text {text}, begin {begin}, lines {lines}, shift {shift}"
    kept = list(text)
    got = call(given, apply_hunk, text, Hunk(begin, list(lines)), shift)
    same(list(got[0]), want, given + "; the new text", hint)
    same(got[1], moved, given + "; the new shift",
         "place - wanted place + shift + lines that came - lines that went")
    same(text, kept, given + "; the caller's text", "make a new list")


@pytest.mark.ex("7.16")
def test_a_hunk_where_it_says():
    """lines that stay, go and come, at the place that the hunk names"""
    check_hunk(["a", "b", "c"], 1, [" a", "-b", "+B", " c"], 0, ["a", "B", "c"], 0, "")
    check_hunk(["a", "b", "c", "d"], 2, [" b", "-c"], 0, ["a", "b", "d"], -1, "lines with - go")
    check_hunk(["a", "b"], 2, [" b", "+c", "+d"], 0, ["a", "b", "c", "d"], 2, "lines with + come")
    check_hunk(["a", "a", "a", "a"], 3, ["-a", "+A"], 0, ["a", "a", "A", "a"], 0, "begin counts from 1")
    check_hunk(["+x", "- y"], 1, [" +x", "-- y", "+  z"], 0, ["+x", "  z"], 0,
               "only the first character is the hunk's own")


@pytest.mark.ex("7.16")
def test_a_hunk_that_has_moved():
    """the nearest place that fits, with the shift of earlier hunks"""
    check_hunk(["new", "a", "b"], 1, [" a", "-b", "+B", "+C"], 0, ["new", "a", "B", "C"], 2,
               "it is found one line later")
    text = ["a", "x", "x", "a", "x", "x", "a"]
    check_hunk(text, 4, ["-a", "+A"], 0, ["a", "x", "x", "A", "x", "x", "a"], 0, "nearest to begin")
    check_hunk(text, 4, ["-a", "+A"], 3, ["a", "x", "x", "a", "x", "x", "A"], 3,
               "nearest to begin plus shift")
    check_hunk(text, 6, ["-a"], 0, ["a", "x", "x", "a", "x", "x"], 0,
               "at index 6, wanted 5: one later, one line fewer")
    check_hunk(["a", "x", "a"], 2, ["-a", "+A"], 0, ["A", "x", "a"], -1, "of two equally near the earlier")
    check_hunk([*"xxxaxxa"], 5, ["-a", "+A"], 0, [*"xxxAxxa"], -1, "index 3 is one line from 4, index 6 two")


@pytest.mark.ex("7.16")
def test_a_hunk_of_new_lines_only():
    """without old lines it stands after the line it names; 0 is the start"""
    check_hunk([], 0, ["+a", "+b"], 0, ["a", "b"], 2, "a new file")
    check_hunk(["a", "b", "c"], 2, ["+x"], 0, ["a", "b", "x", "c"], 1, "after line 2")
    check_hunk(["a", "b", "c"], 0, ["+x"], 0, ["x", "a", "b", "c"], 1, "before all")
    check_hunk([*"abc"], 1, ["+x"], 1, [*"abxc"], 2, "earlier hunks have moved line 1 by one")
    check_hunk([*"abc"], 2, ["+x"], 1, [*"abcx"], 2, "earlier hunks have moved line 2 by one")
    check_hunk([*"abc"], 5, ["+x"], 0, [*"abcx"], -1, "of all places the nearest to index 5 is the end")


@pytest.mark.ex("7.16")
def test_a_hunk_that_fits_nowhere_is_refused():
    """DoesNotApply, also where only a part of its old lines is there"""
    for text, lines in ((["a", "b"], ["-z", "+y"]), (["a", "b"], [" b", "-a"]), (["a"], [" a", " b"]),
                        ([], ["-a"]),
                        (["a "], ["-a"])):
        with pytest.raises(DoesNotApply):
            apply_hunk(text, Hunk(1, lines), 0)
