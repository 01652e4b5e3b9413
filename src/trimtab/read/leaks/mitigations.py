"""Mitigations of what a server exposes of its next-token distribution, from truncation to concept erasure.

A mitigation maps what is served to what would be served instead. Each is a frozen dataclass with a form in YAML:
`{truncate: 5}`, `{round: 1}`, `{noise: 0.5}` or `{noise: {scale: 0.5, queries: 16}}`, `{temperature: 2}`,
`answer-only`, `{erase: colour}`. A gateway before a server can do all of them but the last, and its answers are
measured alike for a model and for a transcript.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, ClassVar, Protocol, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.special import logsumexp
from torch import nn

from trimtab.errors import ConfigProblems, Problem, nearest, refusal
from trimtab.models.readout import Readout
from trimtab.numerics.erasure import leace
from trimtab.read.leaks.encodings import TopTokens
from trimtab.read.leaks.utility import answer_values
from trimtab.runs.brief import brief
from trimtab.runs.config import show, typed_problems
from trimtab.seeds import derive

ROWS_AT_ONCE = 256
"""Rows whose whole distributions are held at once."""


@dataclass(frozen=True)
class Inside:
    """What is behind a model's outputs, for mitigations that a server alone can do well.

    Attributes:
        normaliser: temperature t -> (questions,) log sum exp(logits / t) over all tokens.
        states: (questions, d) raw hidden states after the last block; None where no mitigation needs them.
        readout: how the model reads them.
    """

    normaliser: Callable[[float], Float[np.ndarray, " questions"]]
    states: Float[np.ndarray, "questions d"] | None = None
    readout: Readout | None = None


@dataclass(frozen=True)
class Served:
    """The replies of a server to n questions, as a caller sees them.

    Attributes:
        top: log-probabilities (nats) of the k likeliest tokens at the answer position, over the whole vocabulary.
        answer: (n,) the id of the token that was answered, 0 or more; it need not be among the k.
        rows: (n,) which questions they answer; a mitigation that has to learn from some rows serves only the others.
        options: ids of tokens that are answers, such as yes and no, beside those that were answered anywhere.
        attributes: (questions, attributes) labels, for `Erase`; missing where a question has none.
        groups: (questions,) which questions belong together, for `Erase`.
        inside: None for a transcript, which has nothing but what was served.
    """

    top: TopTokens
    answer: Int[np.ndarray, " n"]
    rows: Int[np.ndarray, " n"]
    options: tuple[int, ...] = ()
    attributes: pd.DataFrame | None = None
    groups: Int[np.ndarray, " questions"] | None = None
    inside: Inside | None = None

    @property
    def k(self) -> int:
        """The number of tokens served for each question, at most."""
        return int(self.top.ids.shape[1])


class Mitigation(Protocol):
    """A change of what is served.

    Attributes:
        name: what it is called in YAML and in tables.
        inside: it needs the model, so a transcript cannot show it.
    """

    name: ClassVar[str]
    inside: ClassVar[bool]

    @property
    def setting(self) -> str:
        """Its strength in words; empty where it has none."""
        ...

    def __call__(self, served: Served, seed: int = 0) -> Served:
        """What an attacker sees instead; the argument is unchanged."""
        ...


def _check(
    mitigation: Mitigation, field: str, holds: Callable[[Any], bool], expected: str, hint: str
) -> None:
    """Refuse a setting of another type than it is declared, and a value that is out of range."""
    problems = [one for one in typed_problems(mitigation, mitigation.name) if one.where.endswith(f".{field}")]
    value = getattr(mitigation, field)
    if not problems and not holds(value):
        problems = [Problem(f"{mitigation.name}.{field}", show(value), expected, hint)]
    if problems:
        raise ConfigProblems(problems)


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
        _check(self, "k", lambda k: k >= 1, "at least 1 token", "1")

    @property
    def setting(self) -> str:
        """How many tokens stay."""
        return f"top {self.k}"

    def __call__(self, served: Served, seed: int = 0) -> Served:  # noqa: ARG002
        """The first k tokens of each row."""
        return _with(served, served.top.ids[:, : self.k], served.top.values[:, : self.k])


@dataclass(frozen=True)
class Round:
    """Rounding of log-probabilities to a number of decimals; the order of tokens stays.

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
        _check(self, "decimals", lambda decimals: 0 <= decimals <= 12, "0 to 12 decimals", "1")

    @property
    def setting(self) -> str:
        """How many decimals stay."""
        return f"{self.decimals} decimal{'' if self.decimals == 1 else 's'}"

    def __call__(self, served: Served, seed: int = 0) -> Served:  # noqa: ARG002
        """Values rounded to the nearest, halves to even."""
        return _with(served, served.top.ids, np.round(served.top.values, self.decimals) + 0.0)


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
        _check(self, "scale", lambda scale: 0 < scale < inf, "a deviation above 0 nats", "0.5")
        _check(self, "queries", lambda queries: queries >= 1, "at least 1", "16")

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
        _check(self, "t", lambda t: 0 < t < inf, "a temperature above 0", "2.0")

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


@dataclass(frozen=True)
class Erase:
    """Concept erasure (LEACE) of an attribute from the last hidden state, before the unembedding.

    After it no linear classifier of that state does better than the shares of the classes, on the rows it was fitted
    on. Log-probabilities are not linear in the state, so an attacker of them may still find something. It is fitted
    on a random half of the groups; the other half alone is served and tested.

    Attributes:
        attribute: the name of a column of labels.

    Source: Belrose et al. 2023, arXiv 2306.03819, theorem 4.3.

    >>> Erase("colour").setting
    'colour'
    """

    attribute: str
    name: ClassVar[str] = "erase"
    inside: ClassVar[bool] = True

    __repr__ = brief

    def __post_init__(self) -> None:
        _check(self, "attribute", bool, "the name of an attribute", "'colour'")

    @property
    def setting(self) -> str:
        """What is erased."""
        return self.attribute

    def __call__(self, served: Served, seed: int = 0) -> Served:
        """The served half of the rows, as many tokens of each as before.

        Raises:
            DataError: there is no model behind what was served, or too few labels to fit on.
        """
        inside, table, groups = served.inside, served.attributes, served.groups
        if (
            inside is None
            or inside.states is None
            or inside.readout is None
            or table is None
            or groups is None
        ):
            got = "outputs without the hidden states behind them"
            raise refusal("erase", got, "those of a model that was read", "an audit of the model")
        if self.attribute not in table:
            names = [str(name) for name in table.columns]
            expected = f"one of {', '.join(map(repr, names))}"
            raise refusal("erase", repr(self.attribute), expected, nearest(self.attribute, names))
        fitted, tested = halves(groups[served.rows], derive(seed, "erase", self.attribute))
        labelled = fitted[table[self.attribute].iloc[served.rows[fitted]].notna().to_numpy()]
        labels = table[self.attribute].iloc[served.rows[labelled]]
        if labels.nunique() < 2:
            got = f"{labels.nunique()} class among the {len(labelled)} rows to fit on"
            raise refusal(f"erase {self.attribute}", got, "at least two", "more questions")
        states, (ids, values) = _normed(inside, served.rows), ([], [])
        erasure = leace(states[labelled], pd.get_dummies(labels).to_numpy(dtype=np.float64))
        unnormed = replace(inside.readout, norm=nn.Identity())
        for start in range(0, len(tested), ROWS_AT_ONCE):
            erased = torch.from_numpy(erasure(states[tested[start : start + ROWS_AT_ONCE]]))
            with torch.no_grad():
                best = unnormed.log_probabilities(erased).double().topk(served.k)
            ids.append(best.indices.cpu().numpy())
            values.append(best.values.cpu().numpy())
        top = TopTokens(np.concatenate(ids), np.concatenate(values), served.top.vocabulary)
        return replace(served, top=top, answer=top.ids[:, 0], rows=served.rows[tested])


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


def halves(
    groups: Int[np.ndarray, " n"], seed: int = 0
) -> tuple[Int[np.ndarray, " fitted"], Int[np.ndarray, " tested"]]:
    """Rows of two random halves of the groups, no group in both: to fit on, and to test.

    >>> [half.tolist() for half in halves(np.array([0, 0, 1, 1]), seed=1)] in ([[0, 1], [2, 3]], [[2, 3], [0, 1]])
    True
    """
    names = np.unique(groups)
    chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    first = np.isin(groups, chosen)
    return np.flatnonzero(first), np.flatnonzero(~first)


def _normed(inside: Inside, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
    """States after the final norm, where logits are linear in them."""
    assert inside.states is not None
    assert inside.readout is not None
    with torch.no_grad():
        parts = [
            inside.readout.normed(
                torch.from_numpy(np.array(inside.states[rows[start : start + ROWS_AT_ONCE]]))
            )
            for start in range(0, len(rows), ROWS_AT_ONCE)
        ]
    return np.asarray(torch.cat(parts).double().cpu().numpy())


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
