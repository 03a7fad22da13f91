"""Read YAML text strictly: no key twice, no anchor inside itself, bounded nesting and size.

PyYAML takes the last of two equal keys, builds mappings that contain themselves, and recurses as deep as the text is
nested. Here each of these is a `ConfigError` with the place. Reads a string; writes nothing.
"""

from collections.abc import Hashable
from typing import Any, NamedTuple, NoReturn

import yaml
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode

from pipeline_config.errors import ConfigError

MAX_DEPTH = 20  # levels of nesting, those inside aliases included; a configuration has three
MAX_VALUES = 100_000  # values of a text, each alias counted as all that it stands for
_SPECIAL_KEYS = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")  # `<<` and `=`, which have no constructor


class _Extent(NamedTuple):
    """Number of values in a node, itself included, and number of levels below it."""

    values: int
    levels: int


def parse_yaml(text: str, where: str, *, one_line: bool = False) -> Any:
    """Return the value of a YAML text, of plain types only.

    Args:
        text: one YAML document; an empty one is None.
        where: name of the file or option, for messages.
        one_line: leave the line number out of messages.

    Raises:
        ConfigError: a key stands twice in a mapping, an anchor contains itself, or there are too many levels or values.
        yaml.YAMLError: the text is not YAML.
        ValueError: a value has no type, such as the date 2024-13-45.
    """
    loader = _StrictLoader(text, where, one_line=one_line)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _StrictLoader(yaml.SafeLoader):
    """A `SafeLoader` that checks the tree of nodes while it is composed, before any mapping or list is constructed."""

    def __init__(self, text: str, where: str, *, one_line: bool) -> None:
        super().__init__(text)
        self._where, self._one_line = where, one_line
        self._values = 0
        self._depth = 0  # of the node that is being composed
        self._deepest = 0  # level reached so far inside the node that is being composed
        self._extents: dict[int, _Extent] = {}  # by the identity of a complete node

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """Compose a node, or find the node of an alias; add its values and levels to those around it."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line, values, deepest = event.start_mark.line + 1, self._values, self._deepest
        if isinstance(event, AliasEvent):
            node = self._find_anchor(parent, index, event, line=line)
            extent = self._extents.get(id(node), _Extent(1, 0))
            self._values += extent.values
            self._deepest = self._depth + extent.levels
            self._check_limits(line)
        else:
            self._values += 1
            self._deepest = self._depth
            self._check_limits(line)
            self._depth += 1
            node = super().compose_node(parent, index)
            self._depth -= 1
            self._extents[id(node)] = _Extent(self._values - values, self._deepest - self._depth)
        self._deepest = max(self._deepest, deepest)
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """Compose a mapping and compare its keys as values, since `1` and `0x1` are one key."""
        node: MappingNode = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):  # not hashable, which PyYAML refuses later
                continue
            value = key.value if key.tag in _SPECIAL_KEYS else self.construct_object(key)
            line = key.start_mark.line + 1
            if not isinstance(value, Hashable):
                continue
            if value in lines:
                first = "" if self._one_line else f", first in line {lines[value]}"
                self._refuse(line, f"the key {key.value!r} is given twice in one section{first}; keep one of them")
            lines[value] = line
        return node

    def _find_anchor(self, parent: Node | None, index: int, event: AliasEvent, *, line: int) -> Node | None:
        target = self.anchors.get(event.anchor)
        if target is not None and target.end_mark is None:  # its end is not read yet
            self._refuse(line, f"the value of the anchor &{event.anchor} contains itself; write the value out")
        return super().compose_node(parent, index)

    def _check_limits(self, line: int) -> None:
        if self._deepest > MAX_DEPTH:
            self._refuse(line, f"nested more than {MAX_DEPTH} levels deep, expected sections with settings")
        if self._values > MAX_VALUES:
            self._refuse(line, f"more than {MAX_VALUES:,} values (each alias counts as what it stands for)")

    def _refuse(self, line: int, problem: str) -> NoReturn:
        raise ConfigError(f"{self._where}: {problem}" if self._one_line else f"{self._where}:{line}: {problem}")
