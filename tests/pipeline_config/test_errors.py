import pytest

from pipeline_config import errors
from pipeline_config.errors import EXIT_CODES, EXIT_INTERRUPTED, GloveflowError

KINDS = [
    (errors.ConfigError, 2),
    (errors.InputError, 3),
    (errors.StoreError, 4),
    (errors.ServiceError, 5),
    (errors.GateError, 6),
    (errors.TrainingError, 7),
]


@pytest.mark.parametrize(("kind", "code"), KINDS)
def test_each_kind_of_error_ends_with_its_documented_exit_code(kind, code):
    assert kind.exit_code == code
    assert EXIT_CODES[code]


def test_no_kind_is_missing_from_the_list_above():
    kinds = {kind for kind in GloveflowError.__subclasses__() if kind.__module__ == errors.__name__}
    assert kinds == {kind for kind, _ in KINDS}


def test_exit_codes_are_distinct():
    assert sorted(EXIT_CODES) == [0, 1, 2, 3, 4, 5, 6, 7, EXIT_INTERRUPTED]
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)


def test_interruption_ends_as_shells_expect_it_of_ctrl_c():
    assert EXIT_INTERRUPTED == 128 + 2  # 2 is SIGINT


def test_meaning_of_a_code_is_the_first_clause_of_the_docstring():
    assert EXIT_CODES[4] == "The artifact store cannot be read or written"


@pytest.mark.parametrize(("kind", "code"), KINDS)
def test_base_class_catches_every_kind_and_keeps_the_message(kind, code):
    with pytest.raises(GloveflowError, match=r"^corpus\.csv:7: no label$"):
        raise kind("corpus.csv:7: no label")
