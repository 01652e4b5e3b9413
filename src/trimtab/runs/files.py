"""Bounded reading of untrusted files, JSON and YAML above all, and of the numbers of configs.

How deep a text nests, how many values it has with every alias written out and how many digits a number has is bounded;
only plain values are made, and errors of libraries get the file's name. YAML is what people mean by it:
`1e-4` is a number, `no` is a word, and a key given twice is a mistake. Nothing is listed, drawn or allocated by a
whole number that is a slip.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trimtab.errors import DataError, Problem, TrimtabError, explain
from trimtab.seeds import seed_problem

TEXT_LIMIT = 64 * 2**20
"""Bytes that a text read whole may have."""

DEPTH_LIMIT = 100
"""How deep lists and mappings may nest in JSON and YAML."""
_TOO_DEEP = f"values nested deeper than {DEPTH_LIMIT}"

_EXPECTED = (OSError, ValueError, EOFError, RecursionError, OverflowError, MemoryError)
_LIBS = {"pyarrow", "pandas", "safetensors", "safetensors_rust", "zlib", "zipfile", "lzma", "_lzma", "yaml"}


@contextlib.contextmanager
def reading(
    path: str | Path, expected: str, *, error: type[TrimtabError] = DataError, hint: str = ""
) -> Iterator[None]:
    """Turn what libraries raise about a damaged, missing or unreadable file into `error`, with the file's name.

    Covers the operating system, decoding, decompression, JSON, YAML, pandas, Arrow and safetensors. What is a fault
    of the code (a KeyError, say) passes; so do our own errors.

    Args:
        path: what to call the file: a path, or a path with a line.
        expected: what it should have held, such as "a Parquet file".
        error: what to raise.
        hint: what to try.

    >>> with reading("a.json", "JSON"):
    ...     json.loads("{")
    Traceback (most recent call last):
    trimtab.errors.DataError: a.json: got a file that cannot be read (Expecting property name ... expected JSON
    """
    try:
        yield
    except TrimtabError:
        raise
    except Exception as raised:
        library = type(raised).__module__.partition(".")[0]
        if not isinstance(raised, _EXPECTED) and library not in _LIBS:
            raise
        why = str(raised).strip().partition("\n")[0] or type(raised).__name__
        if isinstance(raised, OSError) and raised.errno:
            why = os.strerror(raised.errno)
        got = _TOO_DEEP if isinstance(raised, RecursionError) else f"a file that cannot be read ({why})"
        got = "no such file" if isinstance(raised, FileNotFoundError) else got
        raise error(f"{path}: {explain(got, expected, hint)}") from raised


def check_regular(
    path: str | Path, expected: str, *, error: type[TrimtabError] = DataError, limit: int | None = None
) -> Path:
    """The path, after making sure that reading it ends: a regular file of at most `limit` bytes.

    Raises:
        error: it is missing, a folder, a pipe or a device, or larger than `limit`.
    """
    path = Path(path)
    with reading(path, expected, error=error):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe"}
        got = kinds.get(stat.S_IFMT(status.st_mode), "a device or socket")
        raise error(f"{path}: {explain(got, expected)}")
    if limit is not None and status.st_size > limit:
        got = f"{status.st_size / 2**20:,.0f} MiB"
        raise error(f"{path}: {explain(got, f'{expected} of at most {limit / 2**20:,.0f} MiB')}")
    return path


def read_bytes(
    path: str | Path, expected: str, *, error: type[TrimtabError] = DataError, limit: int | None = None
) -> bytes:
    """A whole file; see `check_regular` for what is refused."""
    path = check_regular(path, expected, error=error, limit=limit)
    with reading(path, expected, error=error):
        raw: bytes = path.read_bytes()
    return raw


def read_text(
    path: str | Path, expected: str, *, error: type[TrimtabError] = DataError, limit: int = TEXT_LIMIT
) -> str:
    """A whole text file, in UTF-8 with or without a byte order mark.

    Raises:
        error: see `check_regular`; or it is not UTF-8, reported with the byte at which it fails.
    """
    raw = read_bytes(path, expected, error=error, limit=limit)
    return decode(raw, path, expected, error=error)


def decode(
    raw: bytes, path: str | Path, expected: str, *, error: type[TrimtabError] = DataError, whole: bool = True
) -> str:
    """UTF-8 bytes, with or without a byte order mark, as text.

    Args:
        raw: the bytes.
        path: the file, for the message.
        expected: what it should have held.
        error: what to raise.
        whole: False for the beginning of a file, which may end within a character.

    Raises:
        error: they are not UTF-8, reported with the line and the byte at which it fails.

    >>> decode("caf\u00e9".encode()[:-1], "a.csv", "a table", whole=False)
    'caf'
    """
    try:
        if whole:
            return raw.decode("utf-8-sig")
        return codecs.getincrementaldecoder("utf-8-sig")().decode(raw)
    except UnicodeDecodeError as raised:
        line = raw.count(b"\n", 0, raised.start) + 1
        got = f"bytes that are not UTF-8 ({raised.reason}, line {line}, byte {raised.start})"
        raise error(f"{path}: {explain(got, f'{expected} in UTF-8', 'iconv -t utf-8')}") from raised


def parse_json(text: str, where: str, expected: str, *, error: type[TrimtabError] = DataError) -> Any:
    """The value of a JSON text whose nesting, and whose numbers' length, are bounded.

    Args:
        text: the JSON.
        where: file, or file and line, for the message.
        expected: what it should be, such as "a JSON object".
        error: what to raise.

    Raises:
        error: it is not JSON, a number has more digits than Python reads, or it nests deeper than `DEPTH_LIMIT`.

    >>> parse_json("[" * 500 + "]" * 500, "a.json", "a list")
    Traceback (most recent call last):
    trimtab.errors.DataError: a.json: got values nested deeper than 100, expected a list
    """
    try:
        value = json.loads(text)
    except RecursionError as raised:
        raise error(f"{where}: {explain(_TOO_DEEP, expected)}") from raised
    except json.JSONDecodeError as raised:
        place = f"line {raised.lineno}, " if "\n" in text.strip() else ""
        got = f"text that is not JSON ({raised.msg}, {place}column {raised.colno})"
        raise error(f"{where}: {explain(got, expected)}") from raised
    except ValueError as raised:
        raise error(f"{where}: {explain('a number with too many digits', expected)}") from raised
    # No text nests deeper than it has brackets, and to count those is quick.
    if text.count("[") + text.count("{") > DEPTH_LIMIT and depth(value) > DEPTH_LIMIT:
        raise error(f"{where}: {explain(_TOO_DEEP, expected)}")
    return value


def read_json(
    path: str | Path, expected: str, *, error: type[TrimtabError] = DataError, limit: int = TEXT_LIMIT
) -> Any:
    """The value of a JSON file; see `read_text` and `parse_json` for what is refused."""
    return parse_json(read_text(path, expected, error=error, limit=limit), str(path), expected, error=error)


def depth(value: Any) -> int:
    """The nesting depth of a tree of plain values; 0 for a single value, without recursion.

    >>> depth({"a": [1, [2]]}), depth(5)
    (3, 0)
    """
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        one, level = waiting.pop()
        if isinstance(one, dict | list):
            deepest = max(deepest, level)
            inner = one.values() if isinstance(one, dict) else one
            waiting.extend((item, level + 1) for item in inner if isinstance(item, dict | list))
    return deepest


def has_halves(text: str) -> bool:
    r"""Whether a text holds half of a character, a lone surrogate, which no tokenizer reads and no UTF-8 can say.

    JSON and UTF-16 exports hold such halves.

    >>> has_halves("so happy \ud83d today"), has_halves("so happy \U0001f600 today")
    (True, False)
    """
    with contextlib.suppress(UnicodeEncodeError):
        text.encode()
        return False
    return True


VALUE_LIMIT = 200_000
"""Values that a text may have, each alias counted as all that it stands for; long texts count once per 100 letters."""

DIGIT_LIMIT = 400
"""Digits of a whole number; floats end at 309."""

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
            raise _error(_TOO_DEEP, event.start_mark)
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
        """The size of a node in values, those in it being counted already."""
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
        """The value of a node; what its tag cannot be made from is reported with its place."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, IndexError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            names: dict[type, str] = {yaml.SequenceNode: "a list", yaml.MappingNode: "a mapping"}
            got = names.get(type(node)) or repr(str(node.value)[:40])
            raise _error(f"{got} that is no {kind}", node.start_mark) from error

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """The text of a node, of which halves of a character (as JSON writes them) are put together."""
        text = super().construct_scalar(node)
        if not isinstance(text, str) or not has_halves(text):
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
        raise yaml.MarkedYAMLError(problem=_TOO_DEEP) from error
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


_MOST = {
    1024: ("jobs",),
    10**4: ("blocks", "crossings", "distractors", "eval_points", "rounds", "sweeps"),
    10**5: ("batch_size", "eval_batch_size", "micro_batch_size"),
    10**6: ("max_new_tokens", "n_boot", "sequences"),
    10**7: ("max_tokens", "seq_len", "steps", "trials"),
}
MOST = {key: most for most, keys in _MOST.items() for key in keys}
"""Key -> the largest value that a config may give it, wherever it stands; far above any use, and soon refused."""

ANY = 10**12
"""The same for every other whole number."""


def bound_problems(config: Any, where: str = "", key: str = "") -> Iterator[Problem]:
    """Each whole number of a config that is out of bounds, and each seed that is none.

    Args:
        config: a dataclass; those inside it, mappings and sequences are looked into.
        where: dotted key of the value, if it is a part of a config.
        key: name of the field that holds it.

    >>> from trimtab.train.settings import Fit
    >>> [str(problem) for problem in bound_problems(Fit(steps=10**12))]
    ['steps: got 1000000000000, expected at most 10,000,000']
    """
    if dataclasses.is_dataclass(config):
        for field in dataclasses.fields(config):
            inner = f"{where}.{field.name}" if where else field.name
            yield from bound_problems(getattr(config, field.name), inner, field.name)
    elif isinstance(config, Mapping):
        for name, each in config.items():
            yield from bound_problems(each, f"{where}.{name}", key)
    elif isinstance(config, Sequence) and not isinstance(config, str | bytes):
        for number, each in enumerate(config):
            yield from bound_problems(each, f"{where}[{number}]", key)
    elif isinstance(config, int) and not isinstance(config, bool):
        if key in ("seed", "seeds"):
            yield from filter(None, [seed_problem(where, config)])
        elif config > MOST.get(key, ANY):
            yield Problem(where, str(config), f"at most {MOST.get(key, ANY):,}")
