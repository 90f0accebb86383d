"""YAML files as plain mappings, lists, words and numbers, and nothing that a file could make of them beyond that.

Scalars are those of YAML 1.2: `1e-3` is a number, `yes` is a word, `010` is ten, and `1:30` is no number of seconds.
"""

import re
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from cplmix_ray.utils.errors import InputError

_DEEPEST, _LARGEST = 32, 100_000
"""Levels of a file, and values in it, aliases written out."""
_BYTES = 10 << 20


class _Loader(yaml.SafeLoader):
    """Refuses what no settings need: endless or repeated content, and names that are given twice."""

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
                self._refuse("holds a value that contains itself")
            self._values[id(node)] = self._count(node)
        return node

    def _count(self, node: Any) -> int:
        """Values in a node whose parts were counted; an alias counts as what it stands for."""
        parts: list[Any] = []
        if isinstance(node, yaml.MappingNode):
            self._refuse_twice(node)
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        total = 1 + sum(self._values[id(part)] for part in parts)
        if total > _LARGEST:
            self._refuse(f"stands for more than {_LARGEST:,} values")
        return total

    def _refuse_twice(self, node: Any) -> None:
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    mark = key.start_mark
                    self._refuse(f"gives '{key.value}' twice, at last in line {mark.line + 1}")
                seen.add((key.tag, key.value))

    def _refuse(self, what: str) -> None:
        raise yaml.YAMLError(f"it {what}")


def _whole(loader: _Loader, node: Any) -> int:
    text = loader.construct_scalar(node)
    if len(text) > 400:  # Python would refuse to read thousands of digits, and nothing is that large
        raise yaml.YAMLError(f"a number of {len(text)} digits is in line {node.start_mark.line + 1}")
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _number(loader: _Loader, node: Any) -> float:
    text = loader.construct_scalar(node).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _truth(loader: _Loader, node: Any) -> bool:
    text = loader.construct_scalar(node).lower()
    if text not in ("true", "false"):
        raise ValueError(f"'{text}' is neither true nor false")
    return text == "true"


_PLAIN = (
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
"""Kinds of words that stand without quotation marks and are no text, and how they begin."""


class _Dumper(yaml.SafeDumper):
    """Puts quotation marks around text that would be read as something else."""

    yaml_implicit_resolvers: ClassVar[dict] = dict(yaml.SafeDumper.yaml_implicit_resolvers)


for _tag, _pattern, _firsts in _PLAIN:
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_firsts))
# Of tags there are these; all others, such as those for Python's objects, dates and bytes, are unknown.
_Loader.yaml_constructors = {
    "tag:yaml.org,2002:null": yaml.SafeLoader.construct_yaml_null,
    "tag:yaml.org,2002:bool": _truth,
    "tag:yaml.org,2002:int": _whole,
    "tag:yaml.org,2002:float": _number,
    "tag:yaml.org,2002:str": yaml.SafeLoader.construct_yaml_str,
    "tag:yaml.org,2002:seq": yaml.SafeLoader.construct_yaml_seq,
    "tag:yaml.org,2002:map": yaml.SafeLoader.construct_yaml_map,
    None: yaml.SafeLoader.construct_undefined,
}


def yaml_text(tree: Any) -> str:
    """Plain values as YAML that ``read_yaml`` takes for the same values."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def read_yaml(path: str | Path, what: str) -> Any:
    """What a YAML file holds.

    Args:
        what: what the file is, for messages: "configuration".

    Raises:
        InputError: the file is missing, is no plain file, or is no YAML of plain values.
    """
    try:
        # Of a pipe or a device the end may never come.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise InputError(f"Cannot read the {what} {path}: it is no file.")
        with open(path, "rb") as file:
            text = file.read(_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"Cannot read the {what} {path}: {reason}.") from None
    if len(text) > _BYTES:
        raise InputError(f"The {what} {path} is larger than {_BYTES >> 20} MB; it is no file of settings.")
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
