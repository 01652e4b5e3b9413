"""Levels of an audit: which part of what a model computes at the answer position an attacker sees.

From the inside out: hidden states, the trajectory of a lens, logits, served log-probabilities, the answer alone
(arXiv 2604.09885, section 3).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from trimtab.errors import ConfigProblems, Problem, nearest, not_among
from trimtab.runs.brief import brief

Encoding = Literal["sorted", "fixed", "served", "random"]
"""How logits become features: `sorted` values alone (the weakest attacker); values at `fixed` tokens, those most likely
on average (needs the weights or a logit bias); tokens with values as they are `served`; values at `random` tokens, the
control of equal dimension."""
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
LENSES = ("logit", "tuned", "jacobian")
MOST_TOP = 100
"""Tokens of a trajectory, at most."""
MOST_DECIMALS = 12
_NAME = re.compile(r"[^/\\\0\n]+")
"""Of a lens: files and rows of tables are named by it."""


@dataclass(frozen=True, repr=False)
class Hidden:
    """Hidden states at the answer position: 0 is the input of the first block, l the output of block l, never normed.

    Attributes:
        states: numbers of states; negative ones count from the last; None is all of them.

    >>> Hidden((2, -1))
    Hidden(states=(2, -1))
    """

    name: ClassVar[str] = "hidden"
    states: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "states", _frozen(self.states))

    __repr__ = brief

    def problems(self, where: str = "hidden") -> Iterator[Problem]:
        """What is wrong with the states."""
        if self.states is None:
            return
        at = f"{where}.states"
        yield from _list_problems(
            at, self.states, lambda one: _is_whole(one), "whole numbers, such as [2, -1]"
        )


@dataclass(frozen=True, repr=False)
class Trajectory:
    """Trajectory of a lens: log-probabilities of the `top` final tokens at every state, `top * (L + 1)` numbers.

    Attributes:
        lens: "logit", "tuned", "jacobian", the folder of a lens, or a lens; None is the logit lens.
        top: how many of the most likely final tokens, by their final rank.

    >>> Trajectory(), Trajectory("tuned", top=1)
    (Trajectory(), Trajectory(lens='tuned', top=1))
    """

    name: ClassVar[str] = "trajectory"
    lens: Any = None
    top: int = 2

    __repr__ = brief

    @property
    def lens_name(self) -> str:
        """Name of the lens; of a folder the folder's.

        >>> Trajectory().lens_name, Trajectory("lenses/mine").lens_name
        ('logit', 'mine')
        """
        if self.lens is None:
            return "logit"
        named = getattr(self.lens, "name", None) if not isinstance(self.lens, Path) else self.lens.name
        return str(named) if named else Path(str(self.lens)).name

    @property
    def key(self) -> str:
        """Lens and tokens, for instance "tuned-2": under which `Readings.trajectory` has it."""
        return f"{self.lens_name}-{self.top}"

    def problems(self, where: str = "trajectory") -> Iterator[Problem]:
        """What is wrong with the lens and the number of tokens."""
        if not _is_whole(self.top) or not 1 <= self.top <= MOST_TOP:
            yield Problem(f"{where}.top", repr(self.top), f"a whole number from 1 to {MOST_TOP}")
        if not _NAME.fullmatch(self.lens_name):
            yield Problem(f"{where}.lens", f"the name {self.lens_name!r}"[:60], "a name without slashes")
            return
        known = self.lens is None or hasattr(self.lens, "log_probabilities") or self.lens in LENSES
        if not known and not (isinstance(self.lens, str | Path) and Path(self.lens).is_dir()):
            hint = nearest(self.lens, LENSES) if isinstance(self.lens, str) else ""
            expected = "'logit', 'tuned', 'jacobian', the folder of a lens, or a lens"
            yield Problem(f"{where}.lens", repr(self.lens)[:60], expected, hint)


@dataclass(frozen=True, repr=False)
class TopLogits:
    """The k largest final logits, before normalisation; no server sends them, a local model has them.

    Attributes:
        k: numbers of logits; None, or "all", is every logit.
        encodings: see `Encoding`; every logit has one encoding, so that `k=None` does not look at them. Not "random"
            alone, which is a control and no row of the table.

    >>> TopLogits(k=(2, 5))
    TopLogits(k=(2, 5))
    """

    name: ClassVar[str] = "logits"
    k: tuple[int, ...] | int | str | None = (2, 5, 10, 20)
    encodings: tuple[Encoding, ...] = ENCODINGS

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", None if self.k == "all" else _frozen(self.k))
        object.__setattr__(self, "encodings", _frozen(self.encodings))

    __repr__ = brief

    @property
    def ks(self) -> tuple[int, ...]:
        """Numbers of logits; () where it is every logit."""
        return _whole_numbers(self.k)

    def problems(self, where: str = "logits") -> Iterator[Problem]:
        """What is wrong with the numbers and the encodings."""
        if self.k is not None:
            yield from _list_problems(
                f"{where}.k", self.k, _is_count, "whole numbers of at least 1, or 'all'"
            )
        yield from _encoding_problems(f"{where}.encodings", self.encodings)
        if self.k is not None and self.encodings == ("random",):
            expected = (
                "sorted, fixed or served beside it: random tokens are a control, not a row of the table"
            )
            yield Problem(f"{where}.encodings", "random alone", expected, "['fixed', 'random']")


@dataclass(frozen=True, repr=False)
class TopLogprobs:
    """The k largest log-probabilities as a server sends them: normalised over the whole vocabulary, then rounded.

    Attributes:
        k: numbers of log-probabilities; most servers send 20 at most.
        decimals: places after the decimal point; None rounds nothing.
        temperature: by which logits are divided before they are normalised.
        encodings: "sorted" and "served"; the other two are not what a server sends.

    >>> TopLogprobs(5, decimals=2)
    TopLogprobs(k=(5,), decimals=2)
    """

    name: ClassVar[str] = "logprobs"
    k: tuple[int, ...] | int = (20,)
    decimals: int | None = None
    temperature: float = 1.0
    encodings: tuple[Encoding, ...] = ("sorted", "served")

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", _frozen(self.k))
        object.__setattr__(self, "encodings", _frozen(self.encodings))

    __repr__ = brief

    @property
    def ks(self) -> tuple[int, ...]:
        """Numbers of log-probabilities."""
        return _whole_numbers(self.k)

    def problems(self, where: str = "logprobs") -> Iterator[Problem]:
        """What is wrong with the numbers, the rounding, the temperature and the encodings."""
        yield from _list_problems(f"{where}.k", self.k, _is_count, "whole numbers of at least 1")
        if self.decimals is not None and not (
            _is_whole(self.decimals) and 0 <= self.decimals <= MOST_DECIMALS
        ):
            expected = f"a whole number from 0 to {MOST_DECIMALS}, or null"
            yield Problem(f"{where}.decimals", repr(self.decimals), expected)
        number = isinstance(self.temperature, int | float) and not isinstance(self.temperature, bool)
        if not number or not 0 < self.temperature < float("inf"):
            yield Problem(f"{where}.temperature", repr(self.temperature), "a number above 0")
        yield from _encoding_problems(f"{where}.encodings", self.encodings, ("sorted", "served"))


@dataclass(frozen=True, repr=False)
class Answer:
    """The first token of the greedy answer and nothing else: the most likely next token.

    >>> Answer()
    Answer()
    """

    name: ClassVar[str] = "answer"

    __repr__ = brief

    def problems(self, where: str = "answer") -> Iterator[Problem]:  # noqa: ARG002
        """None: it has no settings."""
        return iter(())


Level = Hidden | Trajectory | TopLogits | TopLogprobs | Answer
KINDS: dict[str, type[Level]] = {kind.name: kind for kind in get_args(Level)}
"""Levels by the name that a recipe gives them."""
_MAIN = {"hidden": "states", "trajectory": "lens", "logits": "k", "logprobs": "k"}
"""The field that stands behind a level's name in a recipe."""


def check_levels(levels: object, where: str = "levels") -> tuple[Level, ...]:
    """The levels of an audit, checked: at least one, each once.

    Raises:
        ConfigProblems: with everything that is wrong about them.
    """
    problems = list(level_problems(levels, where))
    if problems:
        raise ConfigProblems(problems)
    return tuple(levels)  # type: ignore[arg-type]


def level_problems(levels: object, where: str = "levels") -> Iterator[Problem]:
    """Problems of levels: no list of them, none at all, one twice, and those of each."""
    expected, hint = "a list of levels", "[Hidden(), TopLogprobs(20), Answer()]"
    if isinstance(levels, str) or not isinstance(levels, Sequence) or not levels:
        got = "none" if isinstance(levels, Sequence) and not levels else f"a {type(levels).__name__}"
        yield Problem(where, got, expected, hint)
        return
    for number, level in enumerate(levels):
        at = f"{where}[{number}]"
        if not isinstance(level, Level):
            yield Problem(at, repr(level)[:60], "a level", hint)
            continue
        if any(level == before for before in levels[:number]):
            yield Problem(at, f"{level!r} twice", "each level once")
        elif isinstance(level, Trajectory) and level.key in [
            getattr(one, "key", "") for one in levels[:number]
        ]:
            yield Problem(at, f"a second trajectory {level.key!r}", "lenses of different names")
        yield from level.problems(at)


def levels_of(given: object, where: str = "levels") -> tuple[Level, ...]:
    """Levels as a recipe lists them.

    Args:
        given: a list of names ("hidden", "trajectory", "logits", "logprobs", "answer") or of mappings from a name to
            its main setting, with further settings beside it.
        where: key of the list in the recipe.

    Raises:
        ConfigProblems: with everything that is wrong about it.

    >>> levels_of([{"hidden": [2, -1]}, {"logprobs": [1, 20], "decimals": 2}, "answer"])
    (Hidden(states=(2, -1)), TopLogprobs(k=(1, 20), decimals=2), Answer())
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        expected = "a list such as [hidden, {logprobs: [1, 5, 20]}, answer]"
        raise ConfigProblems([Problem(where, f"a {type(given).__name__}", expected)])
    problems, levels = list[Problem](), list[Level]()
    for number, one in enumerate(given):
        read = _level_of(one, f"{where}[{number}]")
        if isinstance(read, Problem):
            problems.append(read)
        else:
            levels.append(read)
    problems = problems or list(level_problems(levels, where))
    if problems:
        raise ConfigProblems(problems)
    return tuple(levels)


def level_items(levels: Iterable[Level]) -> list[Any]:
    """Levels as a recipe lists them, the inverse of `levels_of`; settings at their defaults are left out.

    >>> level_items([Hidden((2, -1)), Trajectory("tuned"), TopLogits(None), Answer()])
    [{'hidden': [2, -1]}, {'trajectory': 'tuned'}, {'logits': 'all'}, 'answer']
    """
    return [_item_of(level) for level in levels]


def _item_of(level: Level) -> Any:
    main, plain = _MAIN.get(level.name, ""), type(level)()
    settings = {
        field.name: list(value) if isinstance(value, tuple) else value
        for field in dataclasses.fields(level)
        if (value := getattr(level, field.name)) != getattr(plain, field.name)
    }
    if isinstance(level, Trajectory) and "lens" in settings and not isinstance(level.lens, str):
        settings["lens"] = level.lens_name if not isinstance(level.lens, Path) else str(level.lens)
    if isinstance(level, TopLogits) and level.k is None:
        settings["k"] = "all"
    if not settings:
        return level.name
    first = settings.pop(main, None)
    return {level.name: first} | settings


def _level_of(given: object, where: str) -> Level | Problem:
    names = list(KINDS)
    if isinstance(given, str):
        return KINDS[given]() if given in KINDS else not_among(where, given, names)
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        return Problem(where, repr(given)[:60], "a level's name, or a mapping such as {hidden: [2, -1]}")
    named = [key for key in given if key in KINDS]
    if len(named) != 1:
        got = f"a mapping with {', '.join(map(repr, given)) or 'nothing'}"
        hint = nearest(next(iter(given), ""), names)
        return Problem(where, got[:80], f"one of {', '.join(names)}", hint)
    kind = KINDS[named[0]]
    fields = [field.name for field in dataclasses.fields(kind)]
    main = _MAIN.get(named[0], "")
    settings = {key: value for key, value in given.items() if key != named[0]}
    allowed = [name for name in fields if name != main]
    for key in settings:
        if key not in allowed:
            expected = f"one of {', '.join(allowed)}" if allowed else "no setting"
            return Problem(f"{where}.{key}", f"no setting of {named[0]}", expected, nearest(key, allowed))
    if given[named[0]] is not None:
        if not main:
            return Problem(f"{where}.{named[0]}", repr(given[named[0]])[:60], "no setting", f"'{named[0]}'")
        settings[main] = given[named[0]]
    return kind(**settings)


def _frozen(value: Any) -> Any:
    """Lists as tuples; a single whole number or text is a list of one; other values as they are, to be refused."""
    if _is_whole(value) or (isinstance(value, str) and value in ENCODINGS):
        return (value,)
    return tuple(value) if isinstance(value, list | range) else value


def _whole_numbers(k: Any) -> tuple[int, ...]:
    return tuple(int(one) for one in k) if isinstance(k, tuple) else ()


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 1


def _list_problems(where: str, values: Any, fits: Any, expected: str) -> Iterator[Problem]:
    if not isinstance(values, tuple) or not values:
        yield Problem(where, repr(values)[:60], expected)
        return
    for number, value in enumerate(values):
        if not fits(value):
            yield Problem(f"{where}[{number}]", repr(value)[:60], expected)
    if all(map(fits, values)) and len(set(values)) < len(values):
        yield Problem(where, f"{list(values)}", "each number once")


def _encoding_problems(where: str, given: Any, allowed: Sequence[str] = ENCODINGS) -> Iterator[Problem]:
    if not isinstance(given, tuple) or not given:
        yield Problem(where, repr(given)[:60], f"a list of {', '.join(allowed)}")
        return
    yield from (not_among(f"{where}[{n}]", one, allowed) for n, one in enumerate(given) if one not in allowed)
    if all(isinstance(one, str) for one in given) and len(set(given)) < len(given):
        yield Problem(where, f"{list(given)}", "each encoding once")


DEFAULT: tuple[Level, ...] = (Hidden(), Trajectory(), TopLogits(), TopLogprobs((1, 2, 5, 10, 20)), Answer())
"""What an audit looks at unless it is told."""
