"""YAML as people write it: `1e-4` is a number, `no` is a word, and a key given twice is a mistake.

What anybody may have written is read within bounds: how deep it nests, how many values it has with every alias written
out, how many digits a number has. Only plain values are made, never objects, dates or bytes.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from trimtab.runs.files import DEPTH_LIMIT

VALUE_LIMIT = 200_000
"""Values that a text may have, each alias counted as all that it stands for; long texts count once per 100 letters."""

DIGIT_LIMIT = 400
"""Digits of a whole number; floats end at 309."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_FLOAT = re.compile(
    r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
        |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)


class _Loader(yaml.SafeLoader):
    """Reads what people mean: `1e-4` is a number, `no`, `010` and `2026-01-01` are text (as in YAML 1.2)."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (not the base class's)

    most = VALUE_LIMIT

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._level = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node of bounded depth and size; an alias may stand for what is before it only."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if self._level > DEPTH_LIMIT:
            raise _error(f"values nested deeper than {DEPTH_LIMIT}", event.start_mark)
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        if isinstance(event, yaml.AliasEvent) and isinstance(node, yaml.CollectionNode) and not node.end_mark:
            raise _error(f"alias {event.anchor!r} inside what it stands for", event.start_mark)
        if node is not None and id(node) not in self._sizes:
            self._sizes[id(node)] = self._size(node)
            self._refuse_many(len(self._sizes), node)
        return node

    def _size(self, node: yaml.Node) -> int:
        """How many values a node is, what stands in it being counted already."""
        if isinstance(node, yaml.ScalarNode):
            return 1 + len(node.value) // 100
        inner = [each for pair in node.value for each in (pair if isinstance(pair, tuple) else (pair,))]
        size = 1 + sum(self._sizes[id(each)] for each in inner)
        self._refuse_many(size, node)
        return size

    def _refuse_many(self, values: int, node: yaml.Node) -> None:
        if values > self.most:
            raise _error(f"more than {self.most:,} values, aliases written out", node.start_mark)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping in which every key is one value and given once, also where two spellings mean the same."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error(f"a {key.id} as a key, expected text", key.start_mark)
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if {key.value, str(self.construct_object(key))} & seen:
                raise _error(f"key {key.value!r} given twice", key.start_mark)
            seen |= {key.value, str(self.construct_object(key))}
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; what its tag cannot be made from is told with its place."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, IndexError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            raise _error(f"{_start(node)} that is no {kind}", node.start_mark) from error

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """The text of a node, of which halves of a character (as JSON writes them) are put together."""
        text = super().construct_scalar(node)
        if not isinstance(text, str) or not _SURROGATE.search(text):
            return text
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as error:
            raise _error("half a character (a lone surrogate)", node.start_mark) from error

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A whole number of bounded length."""
        if len(node.value) > DIGIT_LIMIT:
            raise _error(f"a number of more than {DIGIT_LIMIT} digits", node.start_mark)
        number: int = super().construct_yaml_int(node)
        return number


def _error(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _start(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(str(node.value)[:40])
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
for _tag in ("binary", "timestamp", "omap", "pairs", "set"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", yaml.SafeLoader.yaml_constructors[None])


class _Dumper(yaml.SafeDumper):
    """Writes text that `_Loader` reads back equal; quotes whatever any YAML reader could mistake."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Quote text with line breaks other than newline, which PyYAML would read back as spaces."""
    style = '"' if set("\r\x85\u2028\u2029") & set(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
for _tag, _pattern, _first in (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"^(?:[-+]?(?:0|[1-9][0-9_]*)|0x_*[0-9a-fA-F][0-9a-fA-F_]*)$"), list("-+0123456789")),
    ("float", _FLOAT, list("-+0123456789.")),
    ("merge", re.compile(r"^(?:<<)$"), ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def load_yaml(text: str, *, most: int = VALUE_LIMIT) -> Any:
    """The value of a YAML text; only plain values, never objects.

    Args:
        text: the YAML.
        most: values that it may have, see `VALUE_LIMIT`.

    Raises:
        yaml.YAMLError: the text is not YAML, a mapping has a key twice or one that is no single value, a tag stands
            before what cannot have it, a text holds half a character, or it is larger or deeper than the bounds.

    >>> load_yaml("{lr: 1e-4, steps: 320}")
    {'lr': 0.0001, 'steps': 320}
    """
    try:
        loader = _Loader(text)
        loader.most = most
        return loader.get_single_data()
    except RecursionError as error:
        raise yaml.MarkedYAMLError(problem=f"values nested deeper than {DEPTH_LIMIT}") from error
    except (
        ValueError,
        OverflowError,
    ) as error:  # such as an escape beyond Unicode, which PyYAML hands to chr()
        raise yaml.MarkedYAMLError(problem=f"text that cannot be read ({error})") from error


def dump_yaml(value: Any) -> str:
    """Plain values as YAML text, keys in the order given.

    >>> print(dump_yaml({"lr": 1e-5, "name": "1e-5"}), end="")
    lr: 1.0e-05
    name: '1e-5'
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
