"""The corpus profile: its file has the promised content, and is read back only if it has."""

import json

import pytest
from pydantic import ValidationError

from pipeline_config.contracts.corpus import CorpusProfile
from pipeline_config.contracts.reading import Reading
from tasks.store.output import StageOutput

CONTENT = {
    "rows": 12,
    "unlabelled": 2,
    "left_out": 1,
    "files": [{"name": "c.csv", "first_row": 0, "rows": 12}],
    "rejected": {"empty_text": 1},
    "rejected_by_class": {"empty_text": {"a": 1}},
    "near_equal_names": {"A": "a"},
    "readings": {"csv": Reading(text_column=("subject", "body")).model_dump(mode="json")},
    "imbalance": {"largest": "a", "largest_documents": 30, "smallest": "b", "smallest_documents": 3},
    "documents": {"train": {"b": 4, "a": 3}, "validation": {"a": 1}, "test": {"c\u00e9": 2}},
    "characters": {"p0": 1, "p25": 2, "p50": 3, "p75": 4, "p95": 5, "p99": 6, "p100": 7},
    "characters_histogram": [[1, 4], [3, 6]],
    "duplicates": 2,
    "conflicting_labels": 1,
    "leaked": 0,
    "near_duplicates_leaked": 0,
    "near_duplicate_pairs": None,
    "oddities": {"markup": 1},
    "normalization": "NFC",
    "splitter": "hash",
}


def test_the_file_has_all_fields_sorted_and_is_read_back(tmp_path):
    profile = CorpusProfile.model_validate(CONTENT)
    StageOutput(tmp_path).write_model(profile)
    text = (tmp_path / "profile.json").read_text("utf-8")
    assert text == json.dumps(CONTENT, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert CorpusProfile.model_validate_json(text) == profile


def test_labels_are_those_of_all_splits_sorted():
    assert CorpusProfile.model_validate(CONTENT).labels == ["a", "b", "c\u00e9"]


@pytest.mark.parametrize(
    "change", [{"rows": None}, {"rows": 1.5}, {"more": 1}, {"documents": {"holdout": {}}}, {"characters": {"p0": 1}}]
)
def test_other_content_is_refused(change):
    with pytest.raises(ValidationError):
        CorpusProfile.model_validate(CONTENT | change)


@pytest.mark.parametrize("field", CONTENT)
def test_every_field_is_required(field):
    with pytest.raises(ValidationError, match="Field required"):
        CorpusProfile.model_validate({name: value for name, value in CONTENT.items() if name != field})
