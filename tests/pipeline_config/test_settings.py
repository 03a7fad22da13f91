import pytest
from pydantic import BaseModel, ValidationError

from pipeline_config.contracts.tokens import CorpusFacts
from pipeline_config.errors import ConfigError
from pipeline_config.names import check_alias, check_model_name
from pipeline_config.registration import GateRule, RegistrationConfig
from pipeline_config.rules import choose_settings
from pipeline_config.sections import Section
from pipeline_config.settings import (
    BucketingConfig,
    CorpusConfig,
    EmbeddingsConfig,
    ModelConfig,
    PipelineConfig,
    TrainingConfig,
    VocabularyConfig,
)

CHOSEN = choose_settings(
    PipelineConfig(), CorpusFacts(documents=100, classes=2, tokens=1000, usual_length=20)
).config  # without auto
SECTIONS = [field.annotation for field in PipelineConfig.model_fields.values() if isinstance(field.annotation, type)]
BAD_ALIASES = ("", " ", "Champion", "Latest", "1", "a b", "a/b", "a:b", "a@b", "a'b", 'a"b', "a\n", "é", "a" * 256)
BAD_MODELS = (
    *(
        "",
        " ",
        ".",
        "..",
        "../a",
        "a/b",
        "/a",
        "a:b",
        "a'b",
        'a"b',
        "a`b",
        "a@b",
        "a%b",
        "a\\b",
        "a\n",
        "a\nb",
        " a",
        "a ",
        "-a",
    ),
    *("_a", "a.", "a?b", "a#b", "a\0", "m" * 257),
)
SECTIONS = [section for section in SECTIONS if issubclass(section, BaseModel)]


def test_there_is_one_section_per_configured_stage_and_those_of_scoring_housekeeping_and_monitoring():
    assert len(SECTIONS) == 14


@pytest.mark.parametrize("section", [PipelineConfig, *SECTIONS])
def test_unknown_key_is_refused(section):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        section(no_such_key=1)


@pytest.mark.parametrize("section", [PipelineConfig, *SECTIONS])
def test_field_cannot_be_assigned(section):
    config = section()
    field = next(iter(section.model_fields))
    with pytest.raises(ValidationError, match="Instance is frozen"):
        setattr(config, field, getattr(config, field))


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_says_what_it_is(section):
    assert [name for name, field in section.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("section", "field", "value", "expected"),
    [
        (PipelineConfig, "seed", -1, "greater than or equal to 0"),
        (PipelineConfig, "seed", 2**32, "less than 4294967296"),
        (
            PipelineConfig,
            "name",
            "BBC News",
            "hold only lowercase letters, digits and -, at most 200 of them, such as bbc-news",
        ),
        (PipelineConfig, "name", "hate_speech", "such as hate-speech"),
        (CorpusConfig, "format", "xls", "'csv', 'tsv', 'json', 'jsonl', 'parquet', 'xlsx', 'sql' or 'folder'"),
        (CorpusConfig, "source", "", "at least 1 character"),
        (CorpusConfig, "source", [], "at least 1 character"),
        (CorpusConfig, "test_source", ["a.csv", ""], "at least 1 character"),
        (CorpusConfig, "validation_fraction", 0, "greater than 0"),
        (CorpusConfig, "min_class_documents", 2, "greater than or equal to 3"),
        (CorpusConfig, "small_classes", "drop", "'error' or 'reject'"),
        (VocabularyConfig, "max_size", 2, "greater than or equal to 3"),
        (EmbeddingsConfig, "dim", 4097, "less than or equal to 4096"),
        (EmbeddingsConfig, "max_dropped_fraction", 1.5, "less than or equal to 1"),
        (EmbeddingsConfig, "timeout_seconds", 0, "greater than 0"),
        (BucketingConfig, "batch_size", 0, "greater than or equal to 1"),
        (ModelConfig, "dropout", 1.0, "less than 1"),
        (ModelConfig, "pooling", "first", "'last', 'mean', 'max', 'mean_max' or 'attention'"),
        (TrainingConfig, "epochs", 2.5, "valid integer"),
        (TrainingConfig, "learning_rate", 0, "greater than 0"),
        (TrainingConfig, "learning_rate", float("nan"), "finite number"),
        (TrainingConfig, "weight_decay", float("inf"), "finite number"),
        (TrainingConfig, "clip_norm", 0, "greater than 0"),
        (PipelineConfig, "name", "a" * 201, "at most 200 of them"),
        *((RegistrationConfig, "alias", alias, "begin with a lowercase letter") for alias in BAD_ALIASES),
        (RegistrationConfig, "challenger_alias", "", "begin with a lowercase letter"),
        *(
            (RegistrationConfig, "alias", alias, "not be latest or v with a number")
            for alias in ("latest", "v1", "v42")
        ),
        (RegistrationConfig, "challenger_alias", "v1", "not be latest or v with a number"),
        *((RegistrationConfig, "model", model, "begin with a letter or digit") for model in BAD_MODELS),
        (GateRule, "by", -1.1, "greater than or equal to -1"),
        (GateRule, "margin", 0.0, "greater than 0"),
        (GateRule, "level", 0.6, "less than or equal to 0.5"),
        (GateRule, "metric", "f2", r"should be accuracy, macro_f1, .*, or f1\[CLASS\]"),
        (GateRule, "slice", "length", "should be class=NAME, length>=N, length<N, or COLUMN=VALUE"),
        (RegistrationConfig, "looks", 0, "greater than or equal to 1"),
    ],
)
def test_value_out_of_range_is_refused(section, field, value, expected):
    with pytest.raises(ValidationError, match=expected) as caught:
        section(**{field: value})
    assert caught.value.errors()[0]["loc"] == (field,)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (PipelineConfig, "seed", 2**32 - 1),
        (CorpusConfig, "min_class_documents", 3),
        (VocabularyConfig, "max_size", 3),
        (VocabularyConfig, "max_size", None),
        (EmbeddingsConfig, "dim", 4096),
        (ModelConfig, "dropout", 0.0),
        (TrainingConfig, "learning_rate", 1.0),
        (TrainingConfig, "clip_norm", None),
        (RegistrationConfig, "looks", 365),
        *((RegistrationConfig, "alias", alias) for alias in ("live", "v1-live", "v", "latest-one", "a" * 255)),
        *(
            (RegistrationConfig, "model", model)
            for model in ("a", "main.news.Kategorien_1", "Météo 2", "v1", "m" * 256)
        ),
    ],
)
def test_value_at_the_edge_of_its_range_is_taken(section, field, value):
    assert getattr(section(**{field: value}), field) == value


def test_splits_must_leave_documents_to_train_on():
    with pytest.raises(ValidationError, match=r"leave nothing to train on: 0\.4 \+ 0\.6 >= 1"):
        CorpusConfig(validation_fraction=0.4, test_fraction=0.6)


def test_a_source_that_is_needed_and_not_set_is_a_configuration_error():
    with pytest.raises(
        ConfigError, match=r"^corpus\.source: not set; name your corpus with --set corpus\.source=FILE$"
    ):
        CorpusConfig().require_source()
    assert CorpusConfig(source=["a.csv", "b.csv"]).require_source() == ("a.csv", "b.csv")


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (CorpusConfig, "source", "elsewhere.csv"),
        (CorpusConfig, "source", ("one.csv", "other.csv")),
        (CorpusConfig, "test_source", "elsewhere.csv"),
        (EmbeddingsConfig, "source", "elsewhere.txt"),
        (EmbeddingsConfig, "on_failure", "train_from_scratch"),
        (EmbeddingsConfig, "offline", True),
        (EmbeddingsConfig, "timeout_seconds", 1.0),
    ],
)
def test_unkeyed_field_does_not_change_the_key(section, field, value):
    changed = section(**{field: value})
    assert changed != section()
    assert changed.keyed() == section().keyed()


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (CorpusConfig, "label_map", {"0": "negative"}),
        (EmbeddingsConfig, "dim", 100),
        (EmbeddingsConfig, "max_vectors", 7),
        (BucketingConfig, "truncation", "tail"),
        (TrainingConfig, "clip_norm", None),
    ],
)
def test_any_other_field_changes_the_key(section, field, value):
    chosen = next(part for part in vars(CHOSEN).values() if isinstance(part, section))
    assert chosen.model_copy(update={field: value}).keyed() == {**chosen.keyed(), field: value}


def test_unkeyed_names_only_fields_that_exist():
    unknown = {section: section.unkeyed - set(section.model_fields) for section in SECTIONS}
    assert unknown == dict.fromkeys(SECTIONS, frozenset())


def test_keyed_gives_plain_json_values():
    class Small(Section):
        unkeyed = frozenset({"where"})
        sizes: tuple[int, ...] = (1, 2)
        where: str = "here"

    assert Small().keyed() == {"sizes": [1, 2]}


def test_two_configurations_share_no_label_map():
    PipelineConfig().corpus.label_map["0"] = "negative"
    assert PipelineConfig().corpus.label_map == {}
    assert CorpusConfig().label_map == {}


def test_registered_model_is_named_after_the_configuration():
    assert PipelineConfig(name="bbc-news").registered_model == "gloveflow-bbc-news"


def test_registered_model_name_can_be_chosen():
    config = PipelineConfig(name="bbc-news", registration=RegistrationConfig(model="news"))
    assert config.registered_model == "news"


def test_configuration_survives_a_trip_through_json():
    config = PipelineConfig(seed=3, training=TrainingConfig(learning_rate=1e-3, patience=None))
    assert PipelineConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (CorpusConfig, {"splitter": "time"}, "splitter time needs time_column"),
        (CorpusConfig, {"splitter": "group"}, "splitter group needs group_column"),
        (VocabularyConfig, {"specials": ["<pad>"]}, "at least 2 items"),
        (VocabularyConfig, {"specials": ["<pad>", "<pad>"]}, "specials must differ, got <pad>, <pad>"),
        (VocabularyConfig, {"specials": ["a", "b", "c"], "max_size": 3}, "max_size 3 leaves no room beside 3 specials"),
    ],
)
def test_values_that_do_not_go_together_are_refused(section, values, message):
    with pytest.raises(ValidationError, match=message):
        section(**values)


@pytest.mark.parametrize("other", ["alias", "challenger_alias"])
def test_the_alias_of_the_previous_version_is_another_one(other):
    with pytest.raises(ValidationError, match="previous_alias must differ from the other two aliases, got live"):
        RegistrationConfig(previous_alias="live", **{other: "live"})


def test_names_from_the_command_line_get_the_same_check():
    assert check_alias("live", "--alias") == "live"
    assert check_model_name("gloveflow-a", "--model") == "gloveflow-a"
    with pytest.raises(ConfigError, match=r"--alias: should not be latest .*, got 'v1'"):
        check_alias("v1", "--alias")
    with pytest.raises(ConfigError, match=r"--model: should begin with a letter or digit.*, got 'a/b'"):
        check_model_name("a/b", "--model")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"against": "value"}, "value is the number for against: value; set both or none"),
        ({"value": 0.7}, "value is the number for against: value; set both or none"),
        ({"margin": 0.1, "require": "better"}, "margin is for require: not_worse, and require is better"),
        ({"by": 0.1}, "by is for require: better or any, and require is not_worse"),
        ({"by": -0.1, "require": "better"}, "by should be at least 0 for require: better"),
    ],
)
def test_the_parts_of_a_rule_of_the_gate_fit_together(rule, message):
    with pytest.raises(ValidationError, match=message):
        GateRule.model_validate(rule)


def test_the_rules_of_the_gate_survive_json():
    config = RegistrationConfig(rules=(GateRule(metric="f1[a]", require="better", by=0.01),))
    assert RegistrationConfig.model_validate(config.model_dump(mode="json")) == config
