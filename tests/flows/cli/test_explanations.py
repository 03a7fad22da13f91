import sys

import pytest

from flows.cli.console import print_answers
from flows.cli.explanations import mark_tokens, use_colours

TOKENS = [{"token": token, "weight": weight} for token, weight in (("good", 2.0), ("not", -1.0), ("the", 0.1))]


def tokens(*words: str) -> list[dict]:
    return [{"token": word, "weight": number + 1.0} for number, word in enumerate(words)]


def test_a_text_keeps_its_letters_and_shows_weights_behind_tokens() -> None:
    marked = mark_tokens("Good, NOT the  best", TOKENS, truncation="head", colours=False)
    assert marked == "Good[+2.00], NOT[-1.00] the  best"


def test_colours_are_green_for_the_label_and_red_against_it() -> None:
    marked = mark_tokens("Good, NOT the", TOKENS, truncation="head", colours=True)
    assert marked == "\x1b[97;48;5;34mGood\x1b[0m, \x1b[97;48;5;88mNOT\x1b[0m the"


@pytest.mark.parametrize(
    ("truncation", "words", "expected"),
    [
        ("head", ("a", "b"), "a[+1.00] b[+2.00] x a b"),
        ("tail", ("a", "b"), "a b x a[+1.00] b[+2.00]"),
        ("head_tail", ("a", "b"), "a[+1.00] b x a b[+2.00]"),
    ],
)
def test_a_word_that_is_there_twice_is_marked_where_the_model_read_it(
    truncation: str, words: tuple[str, ...], expected: str
) -> None:
    assert mark_tokens("a b x a b", tokens(*words), truncation=truncation, colours=False) == expected


def test_a_token_that_is_not_in_the_text_is_left_out() -> None:
    assert (
        mark_tokens("one two", tokens("one", "``", "two"), truncation="tail", colours=False) == "one[+1.00] two[+3.00]"
    )


def test_a_text_without_tokens_is_shown_as_it_is() -> None:
    assert mark_tokens("", [], truncation="head", colours=True) == ""


@pytest.mark.parametrize(
    ("terminal", "variable", "expected"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colours_need_a_terminal_and_no_variable_against_them(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, variable: str, expected: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", variable)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert use_colours() is expected


def test_answers_show_the_mark_of_the_threshold(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"label": "a", "score": 0.5, "probabilities": {"b": 0.5, "a": 0.5}, "abstained": True}
    print_answers(["a text"], [answer])
    print_answers(["good"], [{**answer, "tokens": TOKENS[:1]}])
    assert capsys.readouterr().out.splitlines() == [
        "a            b 0.500  a 0.500   (abstained)   a text",
        "a            b 0.500  a 0.500   (abstained)",
        "    good[+2.00]",
    ]
