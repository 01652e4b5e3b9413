"""Word lists: labels of names by words and regular expressions, from a file with a stated source.

Expressions are refused where backtracking could take too long: Python's matcher tries one way after another, and a
name that does not match makes it try all of them; `(a+)+$` has 2^n ways to read n letters. The number of ways is
bounded from the structure of an expression, and names have at most `NAME_LIMIT` characters.
"""

from __future__ import annotations

import importlib
import math
import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from trimtab.data.tables import check_columns, label_text, labels, whole_counts
from trimtab.errors import ConfigProblems, DataError, Problem, explain, nearest, refusal
from trimtab.runs.brief import brief
from trimtab.runs.config import read_mapping
from trimtab.runs.files import check_regular, read_text, reading

NAME_LIMIT = 500
"""Characters that a name may have."""
WAYS_LIMIT = 2e8
"""Steps of a search at worst: a second or so, and only for a name made for the purpose."""
_TREE: Any = importlib.import_module("re._parser")


@lru_cache(maxsize=10_000)
def compiled(expression: str) -> re.Pattern[str]:
    """Compiled regular expression, any case, whose backtracking is bounded.

    Raises:
        DataError: it is no regular expression, sets flags, matches everything, or may try too many ways (one repetition
            within another, as in `(a+)+`, or several long ones after each other).

    >>> bool(compiled(r"\\bski+er").search("SKIIER"))
    True
    >>> compiled("[")
    Traceback (most recent call last):
    trimtab.errors.DataError: got '[', expected a regular expression (unterminated character set at position 0)
    """
    try:
        with warnings.catch_warnings():
            # Of sets that other dialects have and Python's reads otherwise, as [[:alpha:]].
            warnings.simplefilter("error", FutureWarning)
            pattern = re.compile(expression, re.IGNORECASE)
            ways = _ways(_TREE.parse(expression, re.IGNORECASE))
    except (re.error, FutureWarning, RecursionError, OverflowError, MemoryError) as raised:
        expected = f"a regular expression ({str(raised) or type(raised).__name__})"
        raise DataError(explain(f"{expression!r:.80}", expected)) from None
    starts = 1 if expression.startswith("^") and "|" not in expression else NAME_LIMIT
    got, expected, hint = "", "an expression that does not match everything", ""
    if re.match(r"\s*\(\?[aiLmsux]+\)", expression):
        got, expected = ", which sets flags for a whole list", "an expression without them"
        hint = "leaving (?i) out: any case is the default"
    elif starts * ways > WAYS_LIMIT:
        got = ", which could take for ever on a name that does not match"
        expected, hint = "an expression without a repetition in a repetition", "simpler ones, each on its own"
    elif not pattern.search("") and not pattern.search("\x00\x01\x02"):
        return pattern
    raise DataError(explain(f"{expression!r:.80}{got}", expected, hint))


def _ways(tree: Any) -> float:
    """Upper bound on the ways to match a name of the greatest length from one place."""
    return math.prod(_ways_of(str(operation), argument) for operation, argument in tree)


def _ways_of(operation: str, argument: Any) -> float:
    if operation in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        # The sum of inside^k over the numbers of repetitions.
        least, most, inside = int(argument[0]), min(int(argument[1]), NAME_LIMIT), _ways(argument[2])
        if inside <= 1.0:
            return float(max(most - least + 1, 1))
        endless = most * math.log(inside) > math.log(1e12)
        return math.inf if endless else sum(inside**k for k in range(least, most + 1))
    if operation == "BRANCH":
        # Alternatives that begin with different letters exclude each other: only one is tried to its end.
        firsts = [_first(one) for one in argument[1]]
        exclusive = None not in firsts and len(set(firsts)) == len(firsts)
        return (max if exclusive else sum)(_ways(one) for one in argument[1])
    if operation == "GROUPREF_EXISTS":
        return sum(_ways(one) for one in argument[1:] if one is not None)
    if operation == "ATOMIC_GROUP":
        return _ways(argument)
    place = {"SUBPATTERN": -1, "ASSERT": 1, "ASSERT_NOT": 1}.get(operation)
    return 1.0 if place is None else _ways(argument[place])


def _first(tree: Any) -> str | None:
    """The letter that a match begins with, in lower case; None where it may be several."""
    for operation, argument in tree:
        if str(operation) == "LITERAL":
            return chr(argument).lower()
        if str(operation) == "SUBPATTERN":
            return _first(argument[-1])
        if str(operation) not in ("AT", "ASSERT", "ASSERT_NOT"):
            return None
    return None


MIXED, UNKNOWN = "mixed", "unknown"
"""Labels of objects that a list gives several labels, and none."""
LIST_LIMIT = 4 * 2**20
"""Bytes that the file of a word list may have."""
_NESTED = 10
_SPACELESS = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u1aaf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
"""Letters of scripts that put no spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, Tai, kana, Chinese."""
_WORD_LETTER = rf"[^\W{_SPACELESS}]"
_SHIPPED = Path(str(files("trimtab.data"))) / "words"


@dataclass(frozen=True)
class WordList:
    """Labels of names, by whole words and by regular expressions; any case.

    Attributes:
        labels: label -> expressions, any of which makes a name bear the label.
        source: where the list is from.
        title: what it is called in messages and reports.
        anywhere: labels of whole words in a script without spaces, which are found within longer words too.
    """

    labels: Mapping[str, Sequence[str]]
    source: str
    title: str = "a word list"
    anywhere: tuple[str, ...] = ()

    __repr__ = brief

    def __post_init__(self) -> None:
        if not self.labels or not any(self.labels.values()):
            raise refusal(self.title, "no word", "at least one word or pattern")
        if not self.source.strip():
            raise refusal(self.title, "no source", "a line that says where the list is from")
        _check_text(self.source, f"{self.title}, source")
        for label, expressions in self.labels.items():
            where = f"{self.title}, {label!r}"
            _check_text(label, f"{self.title}, label")
            if not expressions:
                raise refusal(where, "no word", "at least one")
            try:
                for expression in expressions:
                    compiled(expression)
            except DataError as error:
                raise DataError(f"{where}: {error}") from None

    @classmethod
    def read(cls, where: str | Path) -> WordList:
        """A list from a YAML file, or one that ships with the package: `gender-en`, `sports-en`, `people-en`.

        The file has `source`, and `words` (label -> whole words) or `patterns` (label -> regular expressions), or both.
        A whole word has no letter next to it. Chinese, Japanese, Thai and other scripts without spaces have no such
        border, so a word that begins or ends in one is found anywhere (see `anywhere`); what it must not be part of
        has to be said by a pattern.

        Raises:
            DataError: an empty list, a list without a source, an expression that `patterns.compiled` refuses; a file
                that is no regular one, is larger than `LIST_LIMIT`, nests deeply or uses aliases.
            ConfigProblems: no such file, or not YAML.
        """
        content = _content(_path(where), str(where))
        if unknown := set(content) - {"source", "words", "patterns"}:
            got = sorted(str(one)[:40] for one in unknown)[:5]
            raise refusal(where, got, "source, words and patterns only")
        whole = _lists(content, "words", where)
        expressions = {label: [_whole(word) for word in words] for label, words in whole.items()}
        for label, patterns in _lists(content, "patterns", where).items():
            expressions.setdefault(label, []).extend(patterns)
        source = content.get("source") or ""
        if not isinstance(source, str):
            raise refusal(f"{where}, source", f"a {type(source).__name__}", "a text")
        ends = {label: [w.strip()[end] for w in words for end in (0, -1)] for label, words in whole.items()}
        anywhere = tuple(label for label, letters in ends.items() if any(map(_spaceless, letters)))
        return cls(expressions, source, str(where), anywhere)

    def described(self) -> str:
        """Source of the list, with the labels whose words are found within longer ones."""
        where = " Found anywhere in a name, also within longer words, for want of spaces"
        return f"{self.source}{where}: {', '.join(self.anywhere)}." if self.anywhere else self.source

    @cached_property
    def _compiled(self) -> dict[str, tuple[re.Pattern[str], ...]]:
        return {label: tuple(map(compiled, texts)) for label, texts in self.labels.items()}

    def __call__(self, name: str) -> bool:
        """Whether a name bears any label."""
        return bool(self.labels_in(name))

    def label(self, name: str, ignore: Iterable[str] = ()) -> str | None:
        """The label of a name: the one that fits, `"mixed"` if several do, None if none does.

        Args:
            name: at most `NAME_LIMIT` characters.
            ignore: labels that do not count, even beside others.

        >>> words = WordList({"male": [r"\\bman\\b"], "female": [r"\\bwoman\\b"]}, "an example")
        >>> words.label("Old man"), words.label("man and woman"), words.label("mango")
        ('male', 'mixed', None)
        """
        borne = [one for one in self.labels_in(name) if one not in ignore]
        return MIXED if len(borne) > 1 else borne[0] if borne else None

    def labels_in(self, name: str) -> tuple[str, ...]:
        """Every label that a name bears, in the order of the list.

        Raises:
            DataError: the name is longer than `NAME_LIMIT`, as no name is.
        """
        if len(name) > NAME_LIMIT:
            got = f"a name of {len(name):,} characters ({name[:40]!r}...)"
            raise DataError(explain(got, f"at most {NAME_LIMIT}"))
        text = unicodedata.normalize("NFC", name).lower()
        by_label = self._compiled.items()
        return tuple(label for label, patterns in by_label if any(one.search(text) for one in patterns))


def labels_of_objects(
    frame: pd.DataFrame,
    words: WordList,
    *,
    object: str = "referent",
    name: str = "name",
    weight: str | None = "count",
    agreement: float = 0.5,
    ignore: Sequence[str] = (),
) -> pd.Series[Any]:
    """Majority label of each object: the label that more than `agreement` of its labelled names bear.

    Args:
        frame: one row per object and name.
        words: the list.
        object: the column of objects.
        name: the column of names.
        weight: the column of counts; None: one per row.
        agreement: in [0.5, 1); objects where no label has a larger share are "mixed".
        ignore: labels that do not count, such as those that say nothing specific; a name that bears one of them and
            another label bears the other.

    Returns:
        A series by object, in order of appearance; "unknown" where no name bears a label.

    Raises:
        DataError: a column is missing, the agreement is out of range, a count is wrong, or a label to ignore is none
            of the list's.
    """
    check_columns(frame, [object, name])
    if not 0.5 <= agreement < 1:
        raise DataError(explain(f"agreement {agreement}", "a number in [0.5, 1)", "0.5"))
    if unknown := [one for one in ignore if one not in words.labels]:
        there = [str(label) for label in words.labels]
        got = f"no label {unknown[0]!r} in {words.title}"
        raise DataError(explain(got, f"one of {there}", nearest(str(unknown[0]), there)))
    counts = whole_counts(frame, weight)
    names = labels(frame[name], strip=False)
    # A name of both groups speaks for neither alone; it counts against agreement by being labelled "mixed".
    given = names.map({one: words.label(one, ignore) for one in names.dropna().unique()})
    labelled, objects = given.notna(), frame[object].astype("object")
    shares = pd.DataFrame(index=pd.Index([], dtype=objects.dtype), columns=[UNKNOWN], dtype=float)
    if labelled.any():
        shares = counts[labelled].groupby([objects[labelled], given[labelled]]).sum().unstack(fill_value=0)
    shares = shares[shares.sum(axis=1) > 0]
    shares = shares.div(shares.sum(axis=1), axis=0)
    best = shares.idxmax(axis=1).where(shares.max(axis=1) > agreement, MIXED)
    return best.reindex(objects.unique()).fillna(UNKNOWN)


def is_word_list(text: str) -> bool:
    """Whether a setting names a word list (one that ships, or a YAML file) and not a column.

    >>> is_word_list("gender-en"), is_word_list("mine.yaml"), is_word_list("gender")
    (True, True, False)
    """
    return text.endswith((".yaml", ".yml")) or _path(text) != Path(text)


def unreadable_list(where: str, value: str, example: str) -> list[Problem]:
    """Problem of a setting that names no readable word list; none where it is empty.

    >>> unreadable_list("heads", "", "gender-en")
    []
    """
    try:
        if value:
            WordList.read(value)
    except (DataError, ConfigProblems) as error:
        return [Problem(where, str(error), "a word list", f"{example}, or a YAML file")]
    return []


def _whole(word: str) -> str:
    """The expression of a whole word: no letter of a script with spaces next to a letter of one."""
    text = unicodedata.normalize("NFC", word).lower().strip()
    before = "" if _spaceless(text[0]) else f"(?<!{_WORD_LETTER})"
    return f"{before}{re.escape(text)}{'' if _spaceless(text[-1]) else f'(?!{_WORD_LETTER})'}"


def _spaceless(letter: str) -> bool:
    return re.fullmatch(f"[{_SPACELESS}]", letter) is not None


def _path(where: str | Path) -> Path:
    return next((one for one in _SHIPPED.iterdir() if one.name == f"{where}.yaml"), Path(where))


def _content(path: Path, where: str) -> dict[str, Any]:
    """What the file of a list says, without aliases, which may multiply, and nesting that no list has."""
    expected = "a word list in YAML"
    with reading(path, expected):
        missing = not path.is_symlink() and not path.exists()
    if missing:
        hint = nearest(where, [one.stem for one in _SHIPPED.iterdir()]) or "trimtab ls"
        raise ConfigProblems([Problem(where, "no such file", expected, hint)])
    text, depth = read_text(check_regular(path, expected), expected, limit=LIST_LIMIT), 0
    with suppress(yaml.YAMLError):  # faults of YAML are reported by its reader
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if (alias := isinstance(event, yaml.AliasEvent)) or depth > _NESTED:
                got = "an alias (*name)" if alias else f"lists nested {depth} deep"
                raise refusal(path, got, "source, and words and patterns by label")
    try:
        with reading(path, expected):
            return read_mapping(path)
    except TypeError:
        raise refusal(path, "a list or mapping as a key", "texts as keys") from None


def _check_text(text: Any, where: str) -> None:
    try:
        blank = not isinstance(text, str) or not label_text(text)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    if blank:
        raise refusal(where, f"{text!r:.60}", "a text that is not blank")


def _lists(content: Mapping[str, Any], key: str, where: str | Path) -> dict[str, list[str]]:
    by_label = content.get(key) or {}
    if not isinstance(by_label, Mapping):
        raise refusal(f"{where}, {key}", type(by_label).__name__, "labels with lists of words")
    lists: dict[str, list[str]] = {}
    for label, words in by_label.items():
        place = f"{where}, {key}, {str(label)[:40]!a}"
        if not isinstance(words, list):
            raise refusal(place, f"{words!r:.60}", "a list of words")
        for word in words:
            if not isinstance(word, str) or not word.strip():
                raise refusal(place, f"{word!r:.60}", "a list of words", "quotes")
            _check_text(word, place)
        if label is None:
            raise refusal(place, "a label without a name", "a text")
        text = label if isinstance(label, str) else label_text(label)
        _check_text(text, f"{where}, {key}, label")
        lists[text.strip()] = list(words)
    return lists
