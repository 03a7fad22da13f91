"""The settings of an MLflow run: its parameters and the file `config.yaml`.

A parameter of MLflow never changes. So a setting that is `auto` becomes a parameter when its value is chosen.
"""

from collections.abc import Collection

import yaml
from mlflow.entities import Param

from pipeline_config.masking import mask_values
from pipeline_config.resolve import flatten
from pipeline_config.rules import list_open_settings
from pipeline_config.settings import PipelineConfig
from tasks.tracking.server import open_client


def list_settings(config: PipelineConfig) -> dict[str, str]:
    """Return every setting as a run has it among its parameters: by its dotted key, without secrets."""
    values = mask_values(config.model_dump(mode="json"))
    return {key: "null" if value is None else str(value) for key, value in flatten(values)}


def log_settings(run_id: str, config: PipelineConfig) -> None:
    """Log a configuration to a run; settings that are still `auto` stand in the file only."""
    _log(run_id, config, list_settings(config).keys() - set(list_open_settings(config)))


def log_chosen_settings(run_id: str, config: PipelineConfig, keys: Collection[str]) -> None:
    """Log settings that were chosen after the start of a run, and the file anew."""
    _log(run_id, config, keys)


def _log(run_id: str, config: PipelineConfig, keys: Collection[str]) -> None:
    client, settings = open_client(), list_settings(config)
    client.log_batch(run_id, params=[Param(key, value) for key, value in settings.items() if key in keys])
    values = mask_values(config.model_dump(mode="json"))
    client.log_text(run_id, yaml.safe_dump(values, sort_keys=False), "config.yaml")
