"""Odd files and kills: a small part of the campaign."""

import pytest

from tests.campaigns import scored_files


@pytest.mark.usefixtures("artifacts")
def test_every_row_of_odd_files_has_its_own_answer() -> None:
    counts = scored_files.play(40, 0, seed=100)
    assert counts["scored"] > 25


@pytest.mark.usefixtures("artifacts")
def test_a_scoring_that_is_killed_ends_with_the_bytes_of_an_unbroken_one() -> None:
    counts = scored_files.play(0, 5, seed=101)
    assert counts["killed"] > 0
