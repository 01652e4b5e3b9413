"""YAML as people write it: `1e-4` is a number, and a key given twice is a mistake."""

from __future__ import annotations

import re
from typing import Any

import yaml

_FLOAT = re.compile(
    r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
        |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-4` as text; this one reads a number, as YAML 1.2 and everybody does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value!r} given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes text that `_Loader` reads back equal."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def load_yaml(text: str) -> Any:
    """The value of a YAML text; only plain values, never objects.

    Raises:
        yaml.YAMLError: the text is not YAML, or a mapping has a key twice.

    >>> load_yaml("{lr: 1e-4, steps: 320}")
    {'lr': 0.0001, 'steps': 320}
    """
    return yaml.load(text, Loader=_Loader)


def dump_yaml(value: Any) -> str:
    """Plain values as YAML text, keys in the order given.

    >>> print(dump_yaml({"lr": 1e-5, "name": "1e-5"}), end="")
    lr: 1.0e-05
    name: '1e-5'
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
