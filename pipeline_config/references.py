"""`${NAME}` in the setting of a source: it is replaced by the environment variable where the source is opened.

The configuration, its dump, keys and log lines hold the reference. A secret that stands in a setting itself becomes a
variable of this process when the layers of the configuration are merged. Reads and sets environment variables.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline_config.errors import ConfigError
from pipeline_config.masking import REFERENCE, remember_value, replace_secrets

SOURCE_SETTINGS = {"corpus": ("source", "validation_source", "test_source"), "embeddings": ("source", "keep")}


def fill_references(text: str, setting: str) -> str:
    """Return a source with the value of its variable in place of each `${NAME}`; call it where the source is opened.

    Raises:
        ConfigError: a variable is not set.
    """

    def fill(found: re.Match[str]) -> str:
        value = os.environ.get(found[1])
        if value is None:
            raise ConfigError(
                f"{setting}: the environment variable {found[1]} is not set, which {text!r} refers to; set it "
                "where the pipeline runs"
            )
        remember_value(value, found[0])
        return value

    return REFERENCE.sub(fill, text)


def check_references(sections: Mapping[str, Any]) -> None:
    """Check that the variables which sources refer to are set; `sections` is a dumped configuration.

    Raises:
        ConfigError: one is not.
    """
    for setting, text in _list_sources(sections):
        fill_references(text, setting)


def hide_secrets(sections: dict[str, Any]) -> None:
    """Replace secrets in the sources of merged layers, in place, by references to variables of this process."""
    for section, keys in SOURCE_SETTINGS.items():
        values = sections.get(section)
        if not isinstance(values, dict):
            continue
        for key in keys:
            source, setting = values.get(key), f"{section}.{key}"
            if isinstance(source, str):
                values[key] = _hide(source, setting)
            elif isinstance(source, list):
                values[key] = [_hide(name, setting) if isinstance(name, str) else name for name in source]


def _hide(source: str, setting: str) -> str:
    """Return a source with references in place of secrets; their names are `GLOVEFLOW_SECRET_<SETTING>_<number>`."""
    stem = f"GLOVEFLOW_SECRET_{setting.replace('.', '_').upper()}"

    def refer(secret: str) -> str:
        number = 1
        while os.environ.setdefault(f"{stem}_{number}", secret) != secret:
            number += 1
        return f"${{{stem}_{number}}}"

    return replace_secrets(source, refer)


def _list_sources(sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for section, keys in SOURCE_SETTINGS.items():
        for key in keys:
            source = sections[section][key]
            for text in (source,) if isinstance(source, str) else source or ():
                yield f"{section}.{key}", text
