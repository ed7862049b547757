"""What the comparison of a document's console output with what is printed lets pass."""

import pytest
from test_documents import assert_numbers_agree


@pytest.mark.parametrize(
    "shown, printed",
    [
        ("loss 0.718\n...\nits end", "loss 0.717\nstep 2\nstep 3\nits end\n"),
        ("a  1.1e-04  1,0", "a 2.3e-04  1,0"),
        ("-0.919217 ok", "-0.919218 ok"),
        ("1.1e-04 1,0,3 0.5 0.6 ok", "2.1e-04 1,1,2 0.3 0.4 ok"),
        ("1.1e-04 1,0,3 8.85e-06 ok", "1.1e-04 1,1,2 -0.000171 ok"),
        ("(a) [b] 2 WRONG", "(a) [b]   2 WRONG"),
        ("", "\n"),
    ],
)
def test_rounding_and_what_dots_stand_for_may_differ(shown, printed):
    assert_numbers_agree(shown, printed, "here")


@pytest.mark.parametrize(
    "shown, printed",
    [
        ("loss 0.718", "loss 0.518"),
        ("a 1.1e-04", "a 1.1e-02"),
        ("2 WRONG", "3 WRONG"),
        ("0.5 ok", "-0.5 ok"),
        ("0.5 ok", "0.5 WRONG"),
        ("0.5 0.25", "0.5"),
        ("1.1e-04 1,0,3 0.5 ok", "1.1e-04 1,0,3 0.3 ok"),
        ("1.1e-04 1,0,3 8.85e-06 ok", "1.1e-04 1,0,3 9.85e-06 ok"),
        ("1,0 0.5\n0,1 0.6", "1,1 0.4\n0,1 0.7"),
    ],
)
def test_other_numbers_and_words_may_not(shown, printed):
    with pytest.raises(AssertionError):
        assert_numbers_agree(shown, printed, "here")
