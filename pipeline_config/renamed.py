"""Renamed settings: the old name is accepted for one more version, with a warning that names the new one.

A setting that an entry of a list replaced is refused, with the entry to write.

The names are translated wherever values come in: in each layer of `resolve_config`, so that layers override each other
whichever name they use, and in `PipelineConfig` itself, for the stored parameters of an older Prefect deployment.
"""

import functools
import logging
from collections.abc import Mapping
from typing import Any, Final

logger = logging.getLogger(__name__)

RENAMED: Final = {"training.road": "training.layout"}  # old dotted key -> new one, which may be in another section
# settings that a list replaced: the value that did nothing, and the entry of the list that does the same
REPLACED: Final[dict[str, tuple[object, str]]] = {
    "registration.minimum": (None, "{{against: value, value: {}, require: any}}"),
    "registration.min_improvement": (0, "{{against: champion, require: any, by: {}}}"),
}


def rename_settings(values: Mapping[str, Any], *, where: str = "configuration") -> dict[str, Any]:
    """Return nested settings with the new name of each renamed one; the given values are not changed.

    Args:
        values: settings by section, as in a preset; a section may be anything, validation comes later.
        where: who set them, for the warning.

    Raises:
        ValueError: a setting is given under both names, or is one that registration.rules replaced.
    """
    renamed: dict[str, Any] = _drop_replaced(values)
    for old, new in RENAMED.items():
        section, _, key = old.rpartition(".")
        new_section, _, new_key = new.rpartition(".")
        if not (isinstance(renamed.get(section), Mapping) and key in renamed[section]):
            continue
        rest = dict(renamed[section])
        value = rest.pop(key)
        renamed[section] = rest
        target = dict(renamed.get(new_section) or {})
        if new_key in target:
            raise ValueError(f"{old} is the old name of {new}, and both are set; keep only {new}")
        renamed[new_section] = {**target, new_key: value}
        warn_once(old, new, where)
    return renamed


def _drop_replaced(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out replaced settings with the value that did nothing, which stored parameters of deployments hold."""
    kept = dict(values)
    for old, (idle, rule) in REPLACED.items():
        section, _, key = old.partition(".")
        if isinstance(kept.get(section), Mapping) and key in kept[section]:
            rest = dict(kept[section])
            value = rest.pop(key)
            if value != idle:
                raise ValueError(f"{old} is now a rule: add {rule.format(value)} to registration.rules")
            kept[section] = rest
    return kept


@functools.cache
def warn_once(old: str, new: str, where: str) -> None:
    """Log that an old name is used; once per process and place, because a configuration is validated many times."""
    logger.warning("%s: %s is now called %s; the next version will refuse the old name", where, old, new)
