import re

import pytest

from pipeline_config.errors import ConfigError
from pipeline_config.preset_files import DEFAULT_PRESET, list_presets
from pipeline_config.resolve import flatten, resolve_config
from pipeline_config.settings import PipelineConfig
from pipeline_config.yaml_text import parse_yaml


@pytest.fixture
def write_file(tmp_path):
    """Return a function that writes a user's YAML file and returns its path."""

    def write(content: str | bytes):
        path = tmp_path / "my.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_each_layer_overrides_the_one_below_and_each_value_knows_its_layer(write_file):
    file = write_file("training: {epochs: 5, patience: 2}\nbucketing: {batch_size: 24}\n")
    config, origins = resolve_config(preset="bbc-news", file=file, overrides=["training.epochs=9"])
    values = [
        ("training.epochs", config.training.epochs),
        ("training.patience", config.training.patience),
        ("bucketing.batch_size", config.bucketing.batch_size),
        ("corpus.test_fraction", config.corpus.test_fraction),
        ("model.hidden_size", config.model.hidden_size),
    ]
    assert [(key, value, origins[key]) for key, value in values] == [
        ("training.epochs", 9, "--set training.epochs=9"),  # preset 8, file 5
        ("training.patience", 2, f"file {file}"),
        ("bucketing.batch_size", 24, f"file {file}"),  # preset 16
        ("corpus.test_fraction", 0.2, "preset bbc-news"),
        ("model.hidden_size", 128, "default"),
    ]


def test_a_layer_leaves_the_other_keys_of_its_section_alone():
    config, _ = resolve_config(preset="bbc-news", overrides=["bucketing.num_buckets=3"])
    assert (config.bucketing.num_buckets, config.bucketing.batch_size) == (3, 16)


def test_the_last_of_two_overrides_wins():
    config, origins = resolve_config(overrides=["seed=1", "seed=2"])
    assert (config.seed, origins["seed"]) == (2, "--set seed=2")


def test_every_value_of_the_result_has_an_origin():
    config, origins = resolve_config(overrides=["corpus.label_map={bad: negative}"])
    assert set(origins) == {key for key, _ in flatten(config.model_dump())}


def test_without_arguments_the_default_preset_is_used():
    assert resolve_config() == resolve_config(preset=DEFAULT_PRESET)
    assert resolve_config().config.corpus.label_column == "sentiment"


@pytest.mark.parametrize("preset", list_presets())
def test_preset_is_valid_and_runs_under_its_own_name(preset):
    config, origins = resolve_config(preset=preset)
    assert config.name == preset
    assert set(origins.values()) <= {"default", f"preset {preset}"}


@pytest.mark.parametrize("preset", list_presets())
def test_every_preset_but_custom_names_its_corpus(preset):
    config, origins = resolve_config(preset=preset)
    assert (config.corpus.source is None) == (preset == "custom")
    assert origins["corpus.source"] == ("default" if preset == "custom" else f"preset {preset}")


def test_unknown_preset_is_refused_with_the_ones_there_are():
    with pytest.raises(
        ConfigError, match=r"^--preset: got 'bbc', expected one of bbc-news, custom, imdb, sentiment, smoke, sst2$"
    ):
        resolve_config(preset="bbc")


@pytest.mark.parametrize(
    ("override", "section", "key", "expected"),
    [
        ("training.learning_rate=1e-3", "training", "learning_rate", 0.001),  # YAML 1.1 reads text here
        ("training.clip_norm=1e-3", "training", "clip_norm", 0.001),
        ("training.clip_norm=null", "training", "clip_norm", None),
        ("vocabulary.max_size=", "vocabulary", "max_size", None),
        ("model.bidirectional=false", "model", "bidirectional", False),
        ("training.epochs='3'", "training", "epochs", 3),
        (" training . epochs =4", "training", "epochs", 4),
        ("training={epochs: 6}", "training", "epochs", 6),
        ("corpus.source=a=b.csv", "corpus", "source", "a=b.csv"),
        ("corpus.source=[", "corpus", "source", "["),  # not YAML, so it is text
        ("corpus.source=2024-13-45", "corpus", "source", "2024-13-45"),  # looks like a date, but is not one
        ('corpus.label_map={"0": negative, "1": positive}', "corpus", "label_map", {"0": "negative", "1": "positive"}),
    ],
)
def test_override_value_is_read_as_yaml(override, section, key, expected):
    config, _ = resolve_config(overrides=[override])
    value = getattr(getattr(config, section), key)
    assert (value, type(value)) == (expected, type(expected))


def test_label_map_of_a_later_layer_replaces_the_earlier_one(write_file):
    file = write_file("corpus: {label_map: {bad: negative, good: positive}}\n")
    config, origins = resolve_config(file=file, overrides=["corpus.label_map={ok: neutral}"])
    assert config.corpus.label_map == {"ok": "neutral"}
    assert origins["corpus.label_map"] == "--set corpus.label_map={ok: neutral}"


def test_single_labels_cannot_be_set_because_each_would_drop_the_others():
    with pytest.raises(ConfigError, match=r"^--set corpus\.label_map\.0=bad: expected the whole map, for example "):
        resolve_config(overrides=["corpus.label_map.0=bad"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs=0", "training.epochs: Input should be greater than or equal to 1, got 0"),
        ("seed=4294967296", "seed: Input should be less than 4294967296, got 4294967296"),
        ("training.learning_rate=.nan", "training.learning_rate: Input should be a finite number, got nan"),
        (
            "model.pooling=first",
            "model.pooling: Input should be 'last', 'mean', 'max', 'mean_max' or 'attention', got 'first'",
        ),
        ("training.epochs.most=3", "training.epochs: Input should be a valid integer, got {'most': 3}"),
        ("training=3", "training: Input should be a valid dictionary or instance of TrainingConfig, got 3"),
        ("corpus.label_map={a: 1}", "corpus.label_map.a: Input should be a valid string, got 1"),
        (
            "vocabulary.min_frequency=3",
            "vocabulary.min_frequency: unknown key; expected one of specials, min_freq, max_size, extend_from_vectors",
        ),
        (
            "trainer.epochs=3",
            "trainer: unknown key; expected one of name, seed, corpus, tokenization, vocabulary, embeddings, "
            "alignment, bucketing, baseline, model, training, evaluation, registration, "
            "scoring, housekeeping, monitoring",
        ),
    ],
)
def test_error_of_a_wrong_override_names_key_reason_value_and_origin(override, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)} {re.escape(f'(set by --set {override})')}$"):
        resolve_config(overrides=[override])


def test_error_of_a_wrong_value_in_a_file_names_the_file(write_file):
    file = write_file("corpus: {label_map: {0: negative}}\n")
    expected = f"corpus.label_map.0.[key]: Input should be a valid string, got 0 (set by file {file})"
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        resolve_config(file=file)


def test_every_mistake_has_a_line_of_its_own():
    with pytest.raises(ConfigError) as caught:
        resolve_config(overrides=["training.epochs=0", "nope=1", "model.num_layers=9"])
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "model.num_layers",
        "training.epochs",
        "nope",
    ]


def test_mistake_between_two_values_names_both_and_no_single_origin():
    expected = "corpus: validation_fraction + test_fraction leave nothing to train on: 0.5 + 0.5 >= 1"
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        resolve_config(overrides=["corpus.validation_fraction=0.5", "corpus.test_fraction=0.5"])


@pytest.mark.parametrize("override", ["training.epochs", "=3", "training.=3", ".epochs=3", ""])
def test_override_without_a_key_or_a_value_is_refused(override):
    expected = f"--set {override}: expected section.key=value, for example training.epochs=3"
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        resolve_config(overrides=[override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("training: [", r"^my\.yaml: not valid YAML: .*line 1, column 12"),
        ("training:\n\tepochs: 3\n", r"^my\.yaml: not valid YAML: .*line 2, column 1"),
        ("name: !!python/name:os.system\n", r"^my\.yaml: not valid YAML: could not determine a constructor"),
        ("name: 2024-13-45\n", r"^my\.yaml: not valid YAML: month must be in 1\.\.12"),
        ("- training\n", r"^my\.yaml: got list, expected sections such as 'training: {epochs: 3}'$"),
        ("epochs\n", r"^my\.yaml: got str, expected sections"),
        (b"name: caf\xe9\n", r"^--config .*my\.yaml: cannot be read: not UTF-8 text$"),
    ],
)
def test_file_that_holds_no_configuration_is_refused(write_file, content, message):
    with pytest.raises(ConfigError, match=re.compile(message, re.DOTALL)):
        resolve_config(file=write_file(content))


@pytest.mark.parametrize(
    ("name", "reason"), [("absent.yaml", "No such file or directory"), ("", "Is a directory")], ids=["absent", "folder"]
)
def test_error_of_an_unreadable_file_names_its_path_and_the_reason(tmp_path, name, reason):
    path = tmp_path / name
    with pytest.raises(ConfigError, match=f"^--config {re.escape(str(path))}: cannot be read: {reason}$"):
        resolve_config(file=path)


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "{}\n"])
def test_empty_file_changes_nothing(write_file, content):
    assert resolve_config(file=write_file(content)) == resolve_config()


def test_resolving_does_not_touch_the_defaults():
    before = PipelineConfig().model_dump()
    resolve_config(preset="smoke", overrides=["corpus.label_map={a: b}", "training.epochs=9"])
    assert PipelineConfig().model_dump() == before


def test_flatten_names_leaves_by_dotted_keys_and_keeps_the_label_map_whole():
    nested = {"seed": 1, "corpus": {"label_map": {"a": "b"}, "format": "csv"}, "empty": {}}
    assert list(flatten(nested)) == [("seed", 1), ("corpus.label_map", {"a": "b"}), ("corpus.format", "csv")]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "registration.alias=latest",
            "registration.alias: should not be latest or v with a number, which MLflow keeps for versions, got 'latest' "
            "(set by --set registration.alias=latest)",
        ),
        (
            "registration.challenger_alias=champion",
            "registration: alias and challenger_alias must differ, got champion for both: every version gets the second "
            "without passing the gate",
        ),
    ],
)
def test_a_name_that_the_registry_would_misread_is_refused_when_the_configuration_is_read(override, expected):
    with pytest.raises(ConfigError) as caught:
        resolve_config(overrides=[override])
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "training: {epochs: 3}\ntraining: {epochs: 4}\n",
            "my.yaml:2: the key 'training' is given twice in one section",
        ),
        ("training:\n  epochs: 3\n  patience: 1\n  epochs: 4\n", "my.yaml:4: the key 'epochs' is given twice"),
        ("training: {epochs: 3, 'epochs': 4}\n", "my.yaml:1: the key 'epochs' is given twice in one section, first in"),
        ("corpus: {label_map: {1: a, 0x1: b}}\n", "my.yaml:1: the key '0x1' is given twice in one section"),
        ("a: &a {epochs: 1}\ntraining: {<<: *a, <<: *a}\n", "my.yaml:2: the key '<<' is given twice in one section"),
        ("corpus: &a\n  label_map: *a\n", "my.yaml:2: the value of the anchor &a contains itself; write the value out"),
        ("corpus: &a {<<: *a}\n", "my.yaml:1: the value of the anchor &a contains itself"),
        ("corpus: &a [1, [2, *a]]\n", "my.yaml:1: the value of the anchor &a contains itself"),
        ("&a *a\n", "my.yaml: not valid YAML: "),
        (f"corpus: {'[' * 5000}{']' * 5000}\n", "my.yaml:1: nested more than 20 levels deep, expected sections with"),
        ("\n".join(f"{' ' * n}a:" for n in range(3000)), "my.yaml:21: nested more than 20 levels deep"),
        (
            "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 400)),
            "my.yaml:20: nested more than 20 levels deep",
        ),
        (
            "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 15)),
            "my.yaml:5: more than 100,000 values (each alias counts as what it stands for)",
        ),
        ("? [a]\n: 1\n", "my.yaml: not valid YAML: "),
    ],
)
def test_yaml_that_contradicts_or_contains_itself_is_refused_with_its_line(write_file, content, message):
    with pytest.raises(ConfigError) as caught:
        resolve_config(file=write_file(content))
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training={epochs: 3, epochs: 4}", "the key 'epochs' is given twice in one section; keep one of them"),
        ("corpus.label_map=&a {x: *a}", "the value of the anchor &a contains itself; write the value out"),
        (f"corpus.source={'[' * 5000}", "nested more than 20 levels deep, expected sections with settings"),
        (f"{'a.' * 5000}a=1", "5001 names, expected section.key=value"),
    ],
)
def test_override_that_contradicts_or_contains_itself_is_refused(override, message):
    with pytest.raises(ConfigError) as caught:
        resolve_config(overrides=[override])
    assert str(caught.value).startswith(f"--set {override[:150]}")
    assert str(caught.value).endswith(message)
    assert len(str(caught.value)) < 400


def test_aliases_and_merged_sections_are_read(write_file):
    file = write_file("corpus: &a {label_map: {x: y}, validation_fraction: 0.3}\n")
    assert resolve_config(file=file).config.corpus.label_map == {"x": "y"}
    text = "training: &t {epochs: 5, patience: 2}\nbaseline: {min_df: &n 7, ngram_max: 1}\nvocabulary: {min_freq: *n}\n"
    config = resolve_config(file=write_file(text)).config
    assert (config.training.epochs, config.vocabulary.min_freq) == (5, 7)
    merged = parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, {z: 4}]}\n=: 5\n", "text")
    assert merged == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2, "z": 4}, "=": 5}


def test_error_of_a_long_value_is_short():
    with pytest.raises(ConfigError) as caught:
        resolve_config(overrides=[f"training.epochs={'x' * 5000}"])
    assert len(str(caught.value)) < 600


FILE = ("FILE tickets.csv", {"corpus": {"source": "tickets.csv"}})


@pytest.mark.parametrize("way", ["argument", "override", "file"])
def test_a_corpus_without_a_preset_means_the_field_defaults_and_its_name(way, write_file):
    given = {
        "argument": {"arguments": [FILE]},
        "override": {"overrides": ["corpus.source=tickets.csv"]},
        "file": {"file": write_file("corpus: {source: tickets.csv}\n")},
    }[way]
    config = resolve_config(**given).config
    source = ("tickets.csv",) if isinstance(config.corpus.source, tuple) else "tickets.csv"
    assert config == PipelineConfig.model_validate({"name": "tickets", "corpus": {"source": source}})


def test_a_file_without_a_corpus_is_about_the_default_preset(write_file):
    config = resolve_config(file=write_file("training: {epochs: 2}\n")).config
    assert (config.name, config.corpus.encoding, config.bucketing.max_length) == ("sentiment", "latin-1", 64)


def test_a_source_that_is_taken_back_leaves_the_default_preset():
    assert resolve_config(overrides=["corpus.source=a.csv", "corpus.source=null"]).config.name == DEFAULT_PRESET


@pytest.mark.parametrize("override", ["corpus.source=[]", "corpus.source=3", "corpus=3", "corpus.source=''"])
def test_a_corpus_that_is_no_text_is_told(override):
    with pytest.raises(ConfigError, match=r"^corpus"):
        resolve_config(overrides=[override])


def test_a_name_that_is_given_wins_over_that_of_the_corpus(write_file):
    file = write_file("name: mine\n")
    assert resolve_config(arguments=[FILE]).config.name == "tickets"
    assert resolve_config(file=file, arguments=[FILE]).config.name == "mine"
    assert resolve_config(file=file, arguments=[FILE], overrides=["name=yours"]).config.name == "yours"


def test_a_corpus_without_a_valid_name_is_called_custom():
    assert resolve_config(overrides=["corpus.source=отзывы.csv"]).config.name == "custom"


def test_a_preset_that_is_asked_for_says_nothing_of_the_files_of_another_corpus():
    config, origins = resolve_config(preset="bbc-news", arguments=[FILE])
    corpus = config.corpus
    assert (corpus.format, corpus.encoding, config.name) == ("auto", "auto", "tickets")
    assert (corpus.validation_fraction, config.training.epochs) == (0.15, 8)
    assert (config.tokenization.tokenizer, origins["tokenization.tokenizer"]) == ("treebank", "preset bbc-news")


def test_files_of_a_preset_are_not_mixed_with_those_of_the_user():
    config = resolve_config(preset="imdb", overrides=["corpus.source=mine.parquet"]).config
    assert (config.corpus.source, config.corpus.test_source, config.name) == ("mine.parquet", None, "imdb")
    config = resolve_config(preset="imdb", overrides=["corpus.test_source=mine.parquet"]).config
    assert (config.corpus.source, config.corpus.test_source) == ("imdb_train.parquet", "mine.parquet")


def test_a_preset_for_files_of_the_user_keeps_its_name_only_if_no_argument_names_them():
    assert resolve_config(preset="smoke", overrides=["corpus.source=tickets.csv"]).config.name == "smoke"
    assert resolve_config(preset="smoke", arguments=[FILE]).config.name == "tickets"


def test_one_value_from_an_argument_and_an_override_is_refused():
    with pytest.raises(
        ConfigError, match=r"^corpus\.source: expected one value, got FILE tickets.csv and --set corpus\.source=b\.csv$"
    ):
        resolve_config(arguments=[FILE], overrides=["corpus.source=b.csv"])


def test_an_argument_wins_over_the_file_of_the_user(write_file):
    config, origins = resolve_config(file=write_file("corpus: {source: a.csv, encoding: utf-8}\n"), arguments=[FILE])
    assert (config.corpus.source, config.corpus.encoding) == ("tickets.csv", "utf-8")
    assert origins["corpus.source"] == "FILE tickets.csv"


def test_rules_of_the_gate_are_set_as_a_list():
    rules = resolve_config(overrides=["registration.rules=[{metric: accuracy, require: better, by: 0.01}]"])
    (rule,) = rules.config.registration.rules
    assert (rule.metric, rule.against, rule.require, rule.by) == ("accuracy", "champion", "better", 0.01)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "registration.rules=[{metrik: accuracy}]",
            "registration.rules.0.metrik: unknown key; expected one of metric, ",
        ),
        ("registration.rules=[{metric: f2}]", "registration.rules.0.metric: should be accuracy, "),
        (
            "registration.minimum=0.7",
            "registration.minimum is now a rule: add {against: value, value: 0.7, require: any} to registration.rules",
        ),
        (
            "registration.min_improvement=0.01",
            "registration.min_improvement is now a rule: add {against: champion, require: any, by: 0.01} to",
        ),
    ],
)
def test_a_wrong_rule_of_the_gate_is_named(override, message):
    with pytest.raises(ConfigError) as caught:
        resolve_config(overrides=[override])
    assert str(caught.value).startswith(message)


def test_replaced_settings_without_effect_are_left_out_as_stored_parameters_hold_them():
    stored = {"registration": {"minimum": None, "min_improvement": 0.0, "alias": "live"}}
    assert PipelineConfig.model_validate(stored).registration.alias == "live"
