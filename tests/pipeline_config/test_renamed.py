import logging

import pytest
from pydantic import ValidationError

from pipeline_config import renamed
from pipeline_config.errors import ConfigError
from pipeline_config.renamed import rename_settings
from pipeline_config.resolve import resolve_config
from pipeline_config.settings import PipelineConfig

OLD = {"training": {"road": "packed", "epochs": 3}}


@pytest.fixture(autouse=True)
def _warn_again(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("pipeline_config"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="pipeline_config")
    renamed.warn_once.cache_clear()


@pytest.fixture
def write_file(tmp_path):
    def write(content: str):
        path = tmp_path / "my.yaml"
        path.write_text(content)
        return path

    return write


class TestNames:
    def test_the_old_name_becomes_the_new_one_and_the_rest_stays(self):
        assert rename_settings(OLD) == {"training": {"layout": "packed", "epochs": 3}}
        assert OLD == {"training": {"road": "packed", "epochs": 3}}

    @pytest.mark.parametrize("values", [{}, {"training": {}}, {"training": 3}, {"training": None}, {"road": "packed"}])
    def test_other_values_stay_as_they_are(self, values, caplog):
        assert rename_settings(values) == values
        assert caplog.messages == []

    def test_a_setting_can_move_to_another_section(self, monkeypatch):
        monkeypatch.setattr(renamed, "RENAMED", {"model.depth": "training.levels"})
        assert rename_settings({"model": {"depth": 2, "width": 3}}) == {
            "model": {"width": 3},
            "training": {"levels": 2},
        }

    def test_every_new_name_is_a_setting_and_no_old_one_is(self):
        settings = PipelineConfig().model_dump()
        for old, new in renamed.RENAMED.items():
            (old_section, old_key), (new_section, new_key) = old.split("."), new.split(".")
            assert old_key not in settings[old_section]
            assert new_key in settings[new_section]

    def test_both_names_at_once_are_refused(self):
        both = {"training": {"road": "packed", "layout": "padded"}}
        with pytest.raises(ValidationError, match=r"training\.road is the old name of training\.layout, and both are"):
            PipelineConfig.model_validate(both)


class TestWarning:
    def test_it_names_the_place_and_the_new_name_once(self, caplog):
        for _ in range(3):
            rename_settings(OLD, where="file my.yaml")
        assert caplog.messages == [
            "file my.yaml: training.road is now called training.layout; the next version will refuse the old name"
        ]


class TestWhereValuesComeIn:
    def test_parameters_of_an_older_deployment(self, caplog):
        assert PipelineConfig.model_validate(OLD).training.layout == "packed"
        assert "configuration: training.road is now called training.layout" in caplog.text

    def test_a_prefect_flow_takes_the_old_parameters(self):
        from prefect import flow

        @flow
        def train(config: PipelineConfig) -> None:
            """Stand in for the pipeline."""

        assert train.validate_parameters({"config": OLD})["config"].training.layout == "packed"

    def test_a_file(self, write_file, caplog):
        file = write_file("training: {road: packed}\n")
        config, origins = resolve_config(file=file)
        assert (config.training.layout, origins["training.layout"]) == ("packed", f"file {file}")
        assert "training.road" not in origins
        assert f"file {file}: training.road is now called training.layout" in caplog.text

    def test_an_override(self, caplog):
        config, origins = resolve_config(overrides=["training.road=packed"])
        assert (config.training.layout, origins["training.layout"]) == ("packed", "--set training.road=packed")
        assert "--set training.road=packed: training.road is now called training.layout" in caplog.text

    def test_a_preset(self, monkeypatch):
        monkeypatch.setattr("pipeline_config.resolve._read_preset", lambda _name: OLD)
        assert resolve_config(preset="old").config.training.layout == "packed"

    @pytest.mark.parametrize(("file", "override"), [("road", "layout"), ("layout", "road")])
    def test_a_later_layer_wins_whichever_name_it_uses(self, write_file, file, override):
        config, _ = resolve_config(
            file=write_file(f"training: {{{file}: packed}}\n"), overrides=[f"training.{override}=padded"]
        )
        assert config.training.layout == "padded"

    def test_a_wrong_value_is_reported_under_the_new_name_with_what_the_user_wrote(self):
        with pytest.raises(ConfigError, match=r"^training\.layout: .*got 'no' \(set by --set training\.road='no'\)$"):
            resolve_config(overrides=["training.road='no'"])

    def test_both_names_in_one_layer_are_a_configuration_error(self, write_file):
        with pytest.raises(ConfigError, match=r"keep only training\.layout \(set by file .*my\.yaml\)$"):
            resolve_config(file=write_file("training: {road: packed, layout: padded}\n"))
