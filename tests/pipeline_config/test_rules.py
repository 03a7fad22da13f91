"""Rules: they fill in what is auto and nothing else, say why, and stay within bounds for any corpus."""

import itertools

import pytest

from pipeline_config.contracts.tokens import CorpusFacts
from pipeline_config.rules import RULES, choose_settings, list_open_settings
from pipeline_config.settings import PipelineConfig
from tasks.store.artifacts import stage_key


def facts(documents: int = 800, *, classes: int = 4, mean: int = 20, usual: int = 40) -> CorpusFacts:
    return CorpusFacts(documents=documents, classes=classes, tokens=documents * mean, usual_length=usual)


def test_every_open_setting_has_a_rule_and_every_rule_an_open_setting():
    dumped = PipelineConfig().model_dump()
    undecided = [f"{s}.{k}" for s, v in dumped.items() if isinstance(v, dict) for k, x in v.items() if x == "auto"]
    of_reading = {"corpus.format", "corpus.separator", "corpus.quoting", "corpus.encoding"}
    of_machine = {"training.precision", "training.device"}
    of_fitting = {"baseline.pieces", "baseline.weighting", "baseline.regularization"}  # chosen where it is fitted
    ruled = sorted({*undecided} - of_reading - of_machine - of_fitting)
    assert ruled == sorted(RULES) == sorted(list_open_settings(PipelineConfig()))


def test_a_value_set_by_hand_switches_its_rule_off():
    given = PipelineConfig.model_validate({"training": {"epochs": 3}, "bucketing": {"batch_size": 7}})
    config, choices = choose_settings(given, facts())
    assert (config.training.epochs, config.bucketing.batch_size) == (3, 7)
    assert choices.keys() == RULES.keys() - {"training.epochs", "bucketing.batch_size"}
    assert list_open_settings(given)  # nothing was written back


def test_a_rule_goes_by_a_value_that_was_set_by_hand():
    by_rule = choose_settings(PipelineConfig(), facts(5000)).config.training.epochs
    larger = PipelineConfig.model_validate({"bucketing": {"batch_size": 64}})
    assert choose_settings(larger, facts(5000)).config.training.epochs > by_rule


@pytest.mark.parametrize("documents", [1, 30, 500, 5_000, 50_000, 5_000_000])
def test_the_chosen_values_are_valid_for_any_corpus(documents):
    for classes, mean, usual in itertools.product((2, 300), (0, 12, 3000), (1, 20_000)):
        corpus = facts(documents, classes=classes, mean=mean, usual=usual)
        config, choices = choose_settings(PipelineConfig(), corpus)
        assert PipelineConfig.model_validate(config.model_dump()) == config
        assert not list_open_settings(config)
        assert all(choices[key].reason for key in RULES)


def test_reasons_name_the_corpus():
    choices = choose_settings(PipelineConfig(), facts(822)).choices
    assert choices["training.epochs"].reason == "822 train documents in batches of 8 give 1,030 steps"
    assert choices["bucketing.batch_size"].reason == "822 train documents"


def test_epochs_count_the_tokens_that_are_kept():
    whole = choose_settings(PipelineConfig(), facts(2_000, mean=900, usual=1_000)).config
    cut = choose_settings(PipelineConfig(), facts(2_000, mean=90_000, usual=100_000)).config
    assert cut.bucketing.max_length == 1_000
    assert (whole.training.epochs, cut.training.epochs) == (5, 5)


def test_without_vectors_none_of_their_words_are_added():
    config = PipelineConfig.model_validate({"embeddings": {"source": "none"}})
    assert choose_settings(config, facts()).config.vocabulary.extend_from_vectors == 0


def test_a_stage_refuses_a_setting_that_is_still_open():
    with pytest.raises(ValueError, match="is auto, expected the value that its rule chooses"):
        stage_key("bucket_corpus", 1, {"config": PipelineConfig().bucketing})
