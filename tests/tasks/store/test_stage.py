import inspect
import logging
from types import SimpleNamespace

import pytest
from prefect.utilities.callables import get_call_parameters

from pipeline_config.settings import EmbeddingsConfig
from tasks.store.artifacts import ArtifactRef, stage_key
from tasks.store.output import StageOutput
from tasks.store.stage import describe_output, headline_facts, stage


@pytest.fixture
def calls(artifacts):
    """The texts that `count_words` was computed for."""
    return []


@pytest.fixture
def count_words(calls):
    """A stage task that counts the words of a text; its output does not depend on `note`."""

    @stage(version=3, unkeyed=("note",), retries=2)
    def count_words(output: StageOutput, text: str, config: EmbeddingsConfig, least: int = 1, note: str = "") -> None:
        """Write the number of words."""
        calls.append(text)
        words = [word for word in text.split() if len(word) >= least]
        output.write_json("count.json", len(words))
        output.facts = {"words": len(words)}

    return count_words


def reference_with(**facts) -> ArtifactRef:
    return ArtifactRef.model_construct(stage="count_words", key="k", digest="d", facts=facts)


def test_fn_runs_the_stage_without_prefect_and_returns_the_verified_output(count_words):
    output = count_words.fn("a bb ccc", EmbeddingsConfig(), least=2)
    assert isinstance(output, ArtifactRef)
    assert output.read_json("count.json") == 2
    assert output.facts["words"] == 2


def test_task_is_named_after_the_function_and_keeps_the_options(count_words):
    assert (count_words.name, count_words.task_run_name, count_words.retries) == ("count_words", "count words", 2)
    assert count_words.fn.__doc__ == "Write the number of words."


def test_task_takes_the_inputs_without_the_output(count_words):
    assert list(inspect.signature(count_words.fn).parameters) == ["text", "config", "least", "note"]
    assert inspect.signature(count_words.fn).return_annotation is ArtifactRef
    assert get_call_parameters(count_words.fn, ("a", None), {"note": "x"}) == {
        "text": "a",
        "config": None,
        "least": 1,
        "note": "x",
    }


def test_wrong_arguments_are_refused_before_anything_is_computed(count_words, calls):
    with pytest.raises(TypeError, match="missing a required argument: 'config'"):
        count_words.fn("a")
    assert calls == []


def test_output_is_stored_under_the_key_of_name_version_and_keyed_inputs(count_words):
    output = count_words.fn("a", EmbeddingsConfig(), note="x")
    expected = stage_key("count_words", 3, {"text": "a", "config": EmbeddingsConfig(), "least": 1})
    assert (output.stage, output.key) == ("count_words", expected)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("a", EmbeddingsConfig()), {"note": "other"}),
        (("a", EmbeddingsConfig(offline=True)), {}),
        (("a", EmbeddingsConfig(), 1), {}),
        ((), {"config": EmbeddingsConfig(), "text": "a", "least": 1}),
    ],
    ids=["unkeyed input", "unkeyed field", "default given", "by name"],
)
def test_same_work_is_done_once(count_words, calls, arguments, options):
    first = count_words.fn("a", EmbeddingsConfig())
    assert count_words.fn(*arguments, **options) == first
    assert calls == ["a"]


@pytest.mark.parametrize(
    ("arguments", "options"),
    [(("b", EmbeddingsConfig()), {}), (("a", EmbeddingsConfig(dim=7)), {}), (("a", EmbeddingsConfig()), {"least": 2})],
    ids=["input", "field", "default changed"],
)
def test_other_work_is_computed(count_words, calls, arguments, options):
    first = count_words.fn("a", EmbeddingsConfig())
    assert count_words.fn(*arguments, **options).key != first.key
    assert calls == ["a", arguments[0]]


def test_a_raised_version_computes_again(artifacts):
    def write(output: StageOutput) -> None:
        output.write_json("one.json", 1)

    old, new = stage(version=1)(write).fn(), stage(version=2)(write).fn()
    assert old.key != new.key
    assert old.digest == new.digest


def test_stage_takes_the_output_of_another_one_as_input(count_words, artifacts):
    @stage(version=1)
    def double_count(output: StageOutput, counted: ArtifactRef) -> None:
        output.write_json("double.json", 2 * counted.read_json("count.json"))

    counted = count_words.fn("a b c", EmbeddingsConfig())
    doubled = double_count.fn(counted)
    assert doubled.read_json("double.json") == 6
    assert doubled.key == stage_key("double_count", 1, {"counted": counted})


def test_error_of_a_stage_passes_and_stores_nothing(artifacts):
    @stage(version=1)
    def fail(output: StageOutput) -> None:
        output.write_json("one.json", 1)
        raise RuntimeError("no such word")

    with pytest.raises(RuntimeError, match="no such word"):
        fail.fn()
    assert [path for path in (artifacts / "store" / "fail").iterdir() if path.is_dir()] == []


def test_in_a_task_run_a_stored_output_ends_in_the_state_cached(count_words, monkeypatch):
    monkeypatch.setattr("tasks.store.stage.TaskRunContext", SimpleNamespace(get=lambda: object()))
    first = count_words.fn("a", EmbeddingsConfig())
    state = count_words.fn("a", EmbeddingsConfig())
    assert isinstance(first, ArtifactRef)
    assert (state.name, state.is_completed(), state.message, state.data) == ("Cached", True, first.key, first)


def test_one_line_is_logged_for_each_run(count_words, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tasks"), "propagate", True)
    caplog.set_level(logging.INFO, logger="tasks.store.stage")
    for _ in range(2):
        count_words.fn("a b", EmbeddingsConfig())
    assert [line.split()[-3:] for line in caplog.messages] == [["s", "words", "2"], ["cached", "words", "2"]]


def test_computed_output_is_described_with_seconds_and_facts():
    output = reference_with(seconds=12.34, documents=38_000, macro_f1=0.51239, largest=123456.7, label="good")
    assert describe_output(output, computed=True) == (
        "count_words             12.3 s  documents 38,000, macro f1 0.5124, largest 123,457, label good"
    )


def test_reused_output_is_described_as_cached():
    assert describe_output(reference_with(seconds=12.34, words=2), computed=False) == (
        "count_words             cached  words 2"
    )


def test_headline_facts_are_the_first_plain_ones_without_seconds():
    output = reference_with(seconds=1.0, a=1, nested={"x": 1}, b=2.5, rows=[1], c="c", nothing=None, d=4, e=5)
    assert headline_facts(output) == [("a", 1), ("b", 2.5), ("c", "c"), ("d", 4)]
    assert headline_facts(output, most=1) == [("a", 1)]
