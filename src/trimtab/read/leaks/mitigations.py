"""Mitigations of what a server exposes of its next-token distribution, from truncation to concept erasure.

A mitigation maps what is served to what would be served instead. Each is a frozen dataclass with a form in YAML:
`{truncate: 5}`, `{round: 1}`, `{noise: 0.5}` or `{noise: {scale: 0.5, queries: 16}}`, `{temperature: 2}`,
`answer-only`, `{erase: colour}`. A gateway before a server can do all of them but the last, and its answers are
measured alike for a model and for a transcript.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, ClassVar, get_args

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from trimtab.errors import ConfigProblems, Problem, nearest
from trimtab.read.leaks.erase import Erase
from trimtab.read.leaks.served import Mitigation, Served, check_setting
from trimtab.read.leaks.utility import answer_values
from trimtab.runs.brief import brief
from trimtab.runs.config import show
from trimtab.seeds import derive


@dataclass(frozen=True)
class Truncate:
    """Truncation: the k likeliest tokens alone are served.

    Attributes:
        k: at least 1; as many as are served, or more, changes nothing.

    >>> Truncate(5).setting
    'top 5'
    """

    k: int
    name: ClassVar[str] = "truncate"
    inside: ClassVar[bool] = False

    __repr__ = brief

    def __post_init__(self) -> None:
        check_setting(self, "k", lambda k: k >= 1, "at least 1 token", "1")

    @property
    def setting(self) -> str:
        """How many tokens stay."""
        return f"top {self.k}"

    def __call__(self, served: Served, seed: int = 0) -> Served:  # noqa: ARG002
        """The first k tokens of each row."""
        return _with(served, served.top.ids[:, : self.k], served.top.values[:, : self.k])


@dataclass(frozen=True)
class Round:
    """Rounding of log-probabilities to a number of decimals; tokens of equal values are put in an order of no meaning.

    Their old order would tell which was likelier: the answer, which a caller knows, comes first, the others by id.

    Attributes:
        decimals: of a nat, from 0 (whole nats) to 12.

    >>> Round(1).setting
    '1 decimal'
    """

    decimals: int
    name: ClassVar[str] = "round"
    inside: ClassVar[bool] = False

    __repr__ = brief

    def __post_init__(self) -> None:
        check_setting(self, "decimals", lambda decimals: 0 <= decimals <= 12, "0 to 12 decimals", "1")

    @property
    def setting(self) -> str:
        """How many decimals stay."""
        return f"{self.decimals} decimal{'' if self.decimals == 1 else 's'}"

    def __call__(self, served: Served, seed: int = 0) -> Served:  # noqa: ARG002
        """Values rounded to the nearest, halves to even."""
        ids, values = served.top.ids, np.round(served.top.values, self.decimals) + 0.0
        falling = np.where(np.isnan(values), inf, -values)
        order = np.lexsort((ids, ids != served.answer[:, None], falling), axis=1)
        return _with(
            served, np.take_along_axis(ids, order, axis=1), np.take_along_axis(values, order, axis=1)
        )


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on the served log-probabilities, anew for each token of each reply; which tokens stay.

    An attacker who asks `queries` times averages the noise away: its deviation falls to scale / sqrt(queries). The
    remedy is noise that is fixed for each request (seeded by the prompt or kept in a cache), so that asking again
    shows nothing new: `queries=1` is that server.

    Attributes:
        scale: standard deviation in nats, above 0.
        queries: how often the attacker asks the same, at least 1. A caller is taken to ask once.

    >>> Noise(0.5, queries=16).setting
    '0.5, 16 queries'
    """

    scale: float
    queries: int = 1
    name: ClassVar[str] = "noise"
    inside: ClassVar[bool] = False

    __repr__ = brief

    def __post_init__(self) -> None:
        check_setting(self, "scale", lambda scale: 0 < scale < inf, "a deviation above 0 nats", "0.5")
        check_setting(self, "queries", lambda queries: queries >= 1, "at least 1", "16")

    @property
    def setting(self) -> str:
        """Deviation in nats, and how often the attacker asks."""
        return f"{self.scale:g}, {self.queries} quer{'y' if self.queries == 1 else 'ies'}"

    def __call__(self, served: Served, seed: int = 0) -> Served:
        """The mean of the replies to all queries, sorted anew."""
        rng = np.random.default_rng(derive(seed, "noise", f"{self.scale:g}", self.queries))
        # The mean of q normal draws is one normal draw of a deviation smaller by sqrt(q).
        drawn = rng.normal(0.0, self.scale / self.queries**0.5, served.top.values.shape)
        return _sorted(served, served.top.ids, served.top.values + drawn)


@dataclass(frozen=True)
class Temperature:
    """Log-probabilities at another temperature: log softmax(logits / t).

    Of a model they are normalised over all tokens. Of a transcript there is no more than what was served, and all
    other tokens count as a single one that holds the rest of the mass. At t = 1 both change nothing.

    Attributes:
        t: above 0; above 1 is flatter. The token that is answered is another setting of a server and stays.

    >>> Temperature(2.0).setting
    't = 2'
    """

    t: float
    name: ClassVar[str] = "temperature"
    inside: ClassVar[bool] = False

    __repr__ = brief

    def __post_init__(self) -> None:
        check_setting(self, "t", lambda t: 0 < t < inf, "a temperature above 0", "2.0")

    @property
    def setting(self) -> str:
        """The temperature."""
        return f"t = {self.t:g}"

    def __call__(self, served: Served, seed: int = 0) -> Served:  # noqa: ARG002
        """Values at the temperature; ids and order stay."""
        ids, values = served.top.ids, served.top.values
        if served.inside is None:
            every = np.concatenate([np.where(ids < 0, -inf, values), _log_rest(values)], axis=1)
            total = logsumexp(every / self.t, axis=1, keepdims=True)
            return _with(served, ids, values / self.t - total)
        as_served, tempered = (served.inside.normaliser(t)[served.rows, None] for t in (1.0, self.t))
        return _with(served, ids, (values + as_served) / self.t - tempered)


@dataclass(frozen=True)
class AnswerOnly:
    """The answer's log-probability alone, renormalised over the served tokens that are answers at all.

    It is the confidence of a yes or no question: log p(answer) - log sum p(options that are served). An answer that is
    not among its row's served tokens gets the lowest value of all rows, which says no more than that.
    """

    name: ClassVar[str] = "answer-only"
    inside: ClassVar[bool] = False

    __repr__ = brief

    @property
    def setting(self) -> str:
        """It has no strength."""
        return ""

    def __call__(self, served: Served, seed: int = 0) -> Served:  # noqa: ARG002
        """One token for each row: its answer."""
        ids, values = served.top.ids, served.top.values
        options = [*served.options, *np.unique(served.answer)]
        among = np.where(np.isin(ids, options) & ~np.isnan(values), values, -inf)
        own = answer_values(served.top, served.answer)
        known = ~np.isnan(own)
        confidence = np.zeros(len(ids))
        confidence[known] = np.minimum(own[known] - logsumexp(among[known], axis=1), 0.0)
        confidence[~known] = confidence.min(initial=0.0)
        return _with(served, served.answer[:, None], confidence[:, None])


AnyMitigation = Truncate | Round | Noise | Temperature | AnswerOnly | Erase
KINDS: dict[str, type[AnyMitigation]] = {kind.name: kind for kind in get_args(AnyMitigation)}
"""Mitigations by their names in YAML."""
DEFAULT: tuple[AnyMitigation, ...] = (
    Truncate(5),
    Truncate(1),
    Round(1),
    Round(0),
    Noise(0.5),
    Noise(0.5, queries=16),
    Temperature(2.0),
    AnswerOnly(),
)
"""Mitigations of an audit that names none; `Erase` needs the name of an attribute."""


def mitigation_of(form: Any, where: str = "mitigations") -> AnyMitigation:
    """A mitigation from its form in YAML; one that is made already is given back.

    Args:
        form: its name alone, or a mapping of its name to its strength or to its settings.
        where: the key of a config that holds it, for messages.

    Raises:
        ConfigProblems: everything that is wrong with it.

    >>> mitigation_of({"truncate": 5}), mitigation_of({"noise": {"scale": 0.5, "queries": 4}})
    (Truncate(k=5), Noise(scale=0.5, queries=4))
    """
    if isinstance(form, AnyMitigation):
        return form
    name, given = next(iter(form.items())) if isinstance(form, Mapping) and len(form) == 1 else (form, {})
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        hint = nearest(str(name), KINDS) or "{truncate: 5}"
        raise ConfigProblems([Problem(where, show(form), f"one of {', '.join(map(repr, KINDS))}", hint)])
    names = [one.name for one in fields(kind)]
    if not isinstance(given, Mapping):
        given = {} if given is None or not names else {names[0]: given}
    try:
        return kind(**given)
    except TypeError:  # unknown settings, or none where some are needed
        example = next(form_of(one) for one in (*DEFAULT, Erase("colour")) if one.name == name)
        expected = f"settings among {', '.join(names)}" if names else "no settings"
        raise ConfigProblems([Problem(f"{where}.{name}", show(given), expected, show(example))]) from None
    except ConfigProblems as error:
        problems = [replace(one, where=f"{where}.{one.where}") for one in error.problems]
        raise ConfigProblems(problems) from None


def form_of(mitigation: AnyMitigation) -> Any:
    """The form of a mitigation in YAML, from which `mitigation_of` makes it again.

    >>> form_of(Truncate(5)), form_of(AnswerOnly()), form_of(Noise(0.5, 4))
    ({'truncate': 5}, 'answer-only', {'noise': {'scale': 0.5, 'queries': 4}})
    """
    settings = {
        one.name: getattr(mitigation, one.name)
        for place, one in enumerate(fields(mitigation))
        if place == 0 or getattr(mitigation, one.name) != one.default
    }
    if not settings:
        return mitigation.name
    return {mitigation.name: next(iter(settings.values())) if len(settings) == 1 else settings}


def mitigation_problems(
    forms: Sequence[Any], attributes: Collection[str], *, model: bool, where: str = "mitigations"
) -> Iterator[Problem]:
    """The problems of a list of mitigations: of each alone, with the attributes, and of a transcript with erasure.

    Args:
        forms: mitigations or their forms in YAML.
        attributes: names of the attributes that are audited.
        model: whether a model is there, not a transcript alone.
        where: the key that holds the list.

    >>> [str(one) for one in mitigation_problems([{"truncate": 0}], ["city"], model=False)]
    ['mitigations[0].truncate.k: got 0, expected at least 1 token; try 1']
    """
    for number, form in enumerate(forms):
        place = f"{where}[{number}]"
        try:
            mitigation = mitigation_of(form, place)
        except ConfigProblems as error:
            yield from error.problems
            continue
        if mitigation.inside and not model:
            expected = "a mitigation of what was served: a transcript holds no hidden states to change"
            yield Problem(place, mitigation.name, expected, "an audit of the model")
        elif isinstance(mitigation, Erase) and mitigation.attribute not in attributes:
            expected = f"one of {', '.join(map(repr, attributes))}"
            hint = nearest(mitigation.attribute, attributes)
            yield Problem(f"{place}.erase", repr(mitigation.attribute), expected, hint)


def as_used(mitigation: Mitigation) -> Mitigation:
    """The mitigation as a caller meets it who asks once: noise is then not averaged.

    >>> as_used(Noise(0.5, queries=16)) == Noise(0.5)
    True
    """
    return replace(mitigation, queries=1) if isinstance(mitigation, Noise) else mitigation


def _with(served: Served, ids: np.ndarray, values: np.ndarray) -> Served:
    return replace(served, top=replace(served.top, ids=ids, values=values))


def _sorted(served: Served, ids: np.ndarray, values: np.ndarray) -> Served:
    order = np.argsort(-values, axis=1, kind="stable")  # nan last
    return _with(served, np.take_along_axis(ids, order, axis=1), np.take_along_axis(values, order, axis=1))


def _log_rest(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n 1"]:
    """The logarithm of the mass that the served tokens leave, -inf where rounding leaves none."""
    left = 1.0 - np.exp(np.where(np.isnan(values), -inf, values)).sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.maximum(left, 0.0)))
