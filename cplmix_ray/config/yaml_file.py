"""A YAML reader restricted to plain mappings, lists, strings and numbers.

Scalars follow YAML 1.2: `1e-3` is a number, `yes` is a string, `010` is ten, and `1:30` is a string.
"""

import re
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from cplmix_ray.utils.errors import InputError

_DEEPEST, _LARGEST = 32, 100_000
"""Largest nesting depth, and largest number of values after the expansion of aliases."""
_BYTES = 10 << 20


class _Loader(yaml.SafeLoader):
    """Refuses deeply nested, recursive or exponentially expanding content, and duplicate keys."""

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def __init__(self, text: bytes):
        super().__init__(text)
        self._level = 0
        self._values: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._level += 1
        if self._level > _DEEPEST:
            self._refuse(f"is nested more than {_DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        self._level -= 1
        if id(node) not in self._values:
            if self._level and isinstance(node, yaml.CollectionNode) and node.end_mark is None:
                self._refuse("contains a value that contains itself")
            self._values[id(node)] = self._count(node)
        return node

    def _count(self, node: Any) -> int:
        """Number of values in a node whose children were counted; an alias counts as the values it refers to."""
        parts: list[Any] = []
        if isinstance(node, yaml.MappingNode):
            self._refuse_duplicate_keys(node)
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        total = 1 + sum(self._values[id(part)] for part in parts)
        if total > _LARGEST:
            self._refuse(f"expands to more than {_LARGEST:,} values")
        return total

    def _refuse_duplicate_keys(self, node: Any) -> None:
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    mark = key.start_mark
                    self._refuse(f"contains '{key.value}' twice, the second time in line {mark.line + 1}")
                seen.add((key.tag, key.value))

    def _refuse(self, what: str) -> None:
        raise yaml.YAMLError(f"it {what}")


def _construct_int(loader: _Loader, node: Any) -> int:
    text = loader.construct_scalar(node)
    if len(text) > 400:  # int() raises an error of its own for thousands of digits
        raise yaml.YAMLError(f"line {node.start_mark.line + 1} contains a number of {len(text)} digits")
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _construct_float(loader: _Loader, node: Any) -> float:
    text = loader.construct_scalar(node).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _construct_bool(loader: _Loader, node: Any) -> bool:
    text = loader.construct_scalar(node).lower()
    if text not in ("true", "false"):
        raise ValueError(f"'{text}' is neither true nor false")
    return text == "true"


_IMPLICIT_TYPES = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
)
"""Types of unquoted scalars other than strings: tag, pattern and first characters."""


class _Dumper(yaml.SafeDumper):
    """Quotes strings that would otherwise be read as another type."""

    yaml_implicit_resolvers: ClassVar[dict] = dict(yaml.SafeDumper.yaml_implicit_resolvers)


for _tag, _pattern, _first in _IMPLICIT_TYPES:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
# All other tags, such as those for Python objects, dates and bytes, are errors.
_Loader.yaml_constructors = {
    "tag:yaml.org,2002:null": yaml.SafeLoader.construct_yaml_null,
    "tag:yaml.org,2002:bool": _construct_bool,
    "tag:yaml.org,2002:int": _construct_int,
    "tag:yaml.org,2002:float": _construct_float,
    "tag:yaml.org,2002:str": yaml.SafeLoader.construct_yaml_str,
    "tag:yaml.org,2002:seq": yaml.SafeLoader.construct_yaml_seq,
    "tag:yaml.org,2002:map": yaml.SafeLoader.construct_yaml_map,
    None: yaml.SafeLoader.construct_undefined,
}


def yaml_text(tree: Any) -> str:
    """Plain values as YAML from which ``read_yaml`` reads equal values."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def read_yaml(path: str | Path, what: str) -> Any:
    """Content of a YAML file.

    Args:
        what: description of the file for messages, such as "configuration".

    Raises:
        InputError: the file is missing, is not a regular file, or is not YAML of plain values.
    """
    try:
        # Reading a pipe or a device may never end.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise InputError(f"Cannot read the {what} {path}: it is not a regular file.")
        with open(path, "rb") as file:
            text = file.read(_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"Cannot read the {what} {path}: {reason}.") from None
    if len(text) > _BYTES:
        raise InputError(
            f"The {what} {path} is larger than {_BYTES >> 20} MB, which is too large for a file of settings."
        )
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"The {what} {path} is not valid YAML: {_in_one_line(error)}.") from None
    finally:
        if loader is not None:
            loader.dispose()


def _in_one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"{error.problem}, in line {error.problem_mark.line + 1}"
    return " ".join(str(error).split()) or type(error).__name__
