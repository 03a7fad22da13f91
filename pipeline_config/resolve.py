"""Resolve a configuration: field default < preset YAML < user's YAML file < arguments and `--set section.key=value`.

Reads a preset and the user's file; writes nothing. The result says for every value which layer set it.

A preset belongs to its corpus. Where the user names another corpus, there is no preset unless it is asked for, and what
an asked-for preset says of its own files (sources, columns, encoding, ...) is left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import ConfigError
from pipeline_config.masking import mask_secrets
from pipeline_config.names import name_corpus
from pipeline_config.preset_files import DEFAULT_PRESET, list_presets, preset_path
from pipeline_config.references import hide_secrets
from pipeline_config.renamed import rename_settings
from pipeline_config.settings import PipelineConfig
from pipeline_config.yaml_text import MAX_DEPTH, parse_yaml

MAX_SHOWN = 200  # characters of a value in a message
Layer: TypeAlias = tuple[str, dict[str, Any]]  # what set the values, and the values by section
# the settings of the section `corpus` that say where files are and how they are read
_OF_FILES = frozenset({"source", "query", "validation_source", "test_source", *Reading.model_fields})


class ResolvedConfig(NamedTuple):
    """A configuration and, for each dotted key, the layer that set its value."""

    config: PipelineConfig
    origins: dict[str, str]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `(dotted key, value)` for each leaf of nested mappings; `label_map` counts as a leaf."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and key != "label_map":
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


def resolve_config(
    *,
    preset: str | None = None,
    file: Path | None = None,
    arguments: Sequence[Layer] = (),
    overrides: Iterable[str] = (),
) -> ResolvedConfig:
    """Merge the layers and validate the result. Secrets in addresses of sources become references to variables.

    Args:
        preset: name of a YAML file in `pipeline_config/presets`; None is the default preset, or none of them if another
            layer names a corpus.
        file: YAML file of the user, with the same sections as a preset.
        arguments: what arguments of their own set, such as a file of texts; a corpus among them gives the name.
        overrides: `section.key=value` strings, values in YAML syntax.

    Raises:
        ConfigError: a layer cannot be read or has an unknown key, a value is out of range, or an argument and an
            override set the same value.
    """
    given = [] if file is None else [(f"file {file}", _read_yaml(file.name, _read_file(file)))]
    given += arguments
    sets = [(f"--set {_shorten(text)}", _parse_override(text)) for text in overrides]
    _refuse_both(arguments, sets)
    layers = [(origin, _rename(layer, origin)) for origin, layer in (*given, *sets)]
    layers = [*_base_layers(preset, layers, named_by_argument=_find_source(arguments) is not None), *layers]
    merged: dict[str, Any] = {}
    origins = {key: "default" for key, _ in flatten(PipelineConfig().model_dump())}
    for origin, layer in layers:
        _merge(merged, layer)
        for key, _ in flatten(layer):
            origins = {name: layer_of for name, layer_of in origins.items() if not key.startswith(f"{name}.")}
            origins[key] = origin
    hide_secrets(merged)
    try:
        config = PipelineConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error, origins)) from None
    return ResolvedConfig(config, {key: mask_secrets(origin) for key, origin in origins.items()})


def _base_layers(preset: str | None, layers: Sequence[Layer], *, named_by_argument: bool) -> list[Layer]:
    """Return what lies below the layers of the user: a preset, and the name that a corpus gives."""
    source = _find_source(layers)
    base = []
    if preset is not None or source is None:
        name = preset or DEFAULT_PRESET
        values = _rename(_read_preset(name), f"preset {name}")
        if source is not None:
            own = {key: value for key, value in values.get("corpus", {}).items() if key not in _OF_FILES}
            values = {**values, "corpus": own}
        base.append((f"preset {name}", values))
    if source is not None and (preset is None or named_by_argument) and (name := name_corpus(source)):
        base.append(("the name of the corpus", {"name": name}))
    return base


def _find_source(layers: Iterable[Layer]) -> tuple[str, ...] | None:
    """Return the corpus that the last of the layers with a corpus names; None if there is none, or it is no text."""
    found = None
    for _, layer in layers:
        corpus = layer.get("corpus")
        if isinstance(corpus, Mapping) and "source" in corpus:
            found = corpus["source"]
    names = [found] if isinstance(found, str) else found if isinstance(found, list | tuple) else []
    texts = tuple(name for name in names if isinstance(name, str) and name)
    return texts or None


def _refuse_both(arguments: Sequence[Layer], sets: Sequence[Layer]) -> None:
    """Raise a ConfigError if an argument and an override set the same value."""
    by_argument = {key: origin for origin, layer in arguments for key, _ in flatten(layer)}
    for origin, layer in sets:
        for key, _ in flatten(layer):
            if key in by_argument:
                raise ConfigError(f"{key}: expected one value, got {by_argument[key]} and {origin}")


def describe_validation_error(error: ValidationError, origins: Mapping[str, str] | None = None) -> str:
    """Turn pydantic's report into one line per mistake: the key, what is wrong, the value, the layer that set it."""
    lines = []
    for item in error.errors():
        parts = [str(part) for part in item["loc"]]
        key = ".".join(parts) or "configuration"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key; expected one of {', '.join(_section_fields(parts[:-1]))}"
        whole_section = item["type"] == "value_error" and isinstance(item["input"], Mapping)
        got = "" if item["type"] == "extra_forbidden" or whole_section else f", got {_shorten(repr(item['input']))}"
        origin = _find_origin(key, origins or {}, inside=not whole_section)
        where = f" (set by {origin})" if origin else ""
        lines.append(f"{key}: {message}{got}{where}")
    return "\n".join(lines)


def _find_origin(key: str, origins: Mapping[str, str], *, inside: bool) -> str | None:
    """Return the layer that set a key, else the mapping around the key, else (with `inside`) a key below it."""
    related = [
        origin
        for name, origin in origins.items()
        if origin != "default" and (key.startswith(f"{name}.") or (inside and name.startswith(f"{key}.")))
    ]
    exact = origins.get(key, "default")
    return exact if exact != "default" else related[-1] if related else None


def _section_fields(path: list[str]) -> list[str]:
    """Return the field names of the section at a path, or none if there is no section."""
    model: type[BaseModel] = PipelineConfig
    for part in path:
        if part.isdecimal():  # the place in a list of sections, such as registration.rules
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        annotation = next(iter(get_args(annotation)), annotation) if get_origin(annotation) is tuple else annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _rename(layer: Mapping[str, Any], origin: str) -> dict[str, Any]:
    try:
        return rename_settings(layer, where=origin)
    except ValueError as error:
        raise ConfigError(f"{error} (set by {origin})") from None


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Add a layer to the merged layers below it; `label_map` is replaced as a whole."""
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict) and key != "label_map":
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _read_preset(name: str) -> dict[str, Any]:
    if name not in list_presets():
        raise ConfigError(f"--preset: got {name!r}, expected one of {', '.join(list_presets())}")
    return _read_yaml(f"preset {name}", preset_path(name).read_text("utf-8"))


def _read_file(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"--config {path}: cannot be read: {reason}") from None


def _read_yaml(where: str, text: str) -> dict[str, Any]:
    try:
        values = parse_yaml(text, where)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: for example the date 2024-13-45
        raise ConfigError(f"{where}: not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{where}: got {type(values).__name__}, expected sections such as 'training: {{epochs: 3}}'")
    return values


def _parse_override(text: str) -> dict[str, Any]:
    key, separator, raw = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not separator or not all(parts):
        raise ConfigError(f"--set {text}: expected section.key=value, for example training.epochs=3")
    if len(parts) > MAX_DEPTH:
        raise ConfigError(f"--set {_shorten(text)}: {len(parts)} names, expected section.key=value")
    if "label_map" in parts[:-1]:
        raise ConfigError(f"--set {text}: expected the whole map, for example corpus.label_map={{'0': negative}}")
    try:
        value: Any = parse_yaml(raw, f"--set {_shorten(text)}", one_line=True)
    except (yaml.YAMLError, ValueError):
        value = raw
    for part in reversed(parts):
        value = {part: value}
    return dict(value)


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
