"""Words in context: literal listener and pragmatic speaker among candidates, and bits per word by context.

Contexts are compared for the same referents, with modifiers treated on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from trimtab.data.naming import NamingCounts
from trimtab.data.tables import Label, check_columns, check_known, find_label, label_text, labels
from trimtab.data.wordlist import WordList
from trimtab.errors import ConfigError, DataError, explain, nearest
from trimtab.numerics import cluster_bootstrap as clustered
from trimtab.numerics.bootstrap import bootstrap, check_choice, mean, wilson
from trimtab.runs.brief import brief
from trimtab.seeds import derive


@dataclass(frozen=True)
class Speaker:
    """Pragmatic speaker, who weighs the listener's success against the bits that a word conveys.

    The chance of a word is softmax(alpha (log L(m | w, C) - cost I(w))) over the words that the referent has.

    Attributes:
        alpha: how strictly the best word is chosen; 0 is indifferent.
        cost: nats of log-success that one bit conveyed is worth.
    """

    alpha: float = 4.0
    cost: float = 0.1


@dataclass(frozen=True)
class Trials:
    """Simulated trials: a referent among distractors.

    Attributes:
        trials: how many.
        distractors: candidates beside the referent in each.
        nearby: share of trials whose distractors are the referent's nearest neighbours; in the others they are any.
        seed: of the draw.
    """

    trials: int = 2000
    distractors: int = 2
    nearby: float = 0.5
    seed: int = 0


def listener(
    naming: Float[np.ndarray, "*trials candidates words"], prior: Float[np.ndarray, "*#trials candidates"]
) -> Float[np.ndarray, "*trials candidates words"]:
    """Literal listener: the chance p(m | w, C) of each candidate, given a word; 0 where none has the word."""
    weighted = naming * prior[..., None]
    total = weighted.sum(axis=-2, keepdims=True)
    return np.asarray(np.divide(weighted, total, out=np.zeros_like(weighted), where=total > 0))


def speaker_choice(
    success: Float[np.ndarray, "*trials words"], bits: Float[np.ndarray, " words"], speaker: Speaker
) -> Float[np.ndarray, "*trials words"]:
    """Pragmatic speaker: the chance of each word; words that cannot succeed have 0."""
    with np.errstate(divide="ignore"):
        utility = np.log(success) - speaker.cost * np.where(np.isfinite(bits), bits, 0.0)
    said = success > 0
    utility = np.where(said, speaker.alpha * np.where(said, utility, 0.0), -np.inf)
    weights = np.exp(utility - utility.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def draw_trials(
    features: Float[np.ndarray, "referents d"], prior: Float[np.ndarray, " referents"], trials: Trials
) -> Int[np.ndarray, "trials candidates"]:
    """Candidates of each trial, the referent first, all different."""
    n = len(prior)
    if not 1 <= trials.distractors < n:
        raise ConfigError(explain(f"{trials.distractors} distractors of {n} referents", f"1 to {n - 1}"))
    rng = np.random.default_rng(derive(trials.seed, "trials"))
    referents = rng.choice(n, size=trials.trials, p=prior)
    distances = ((features[referents][:, None] - features[None]) ** 2).sum(axis=-1)
    anywhere = rng.random((trials.trials, n))
    near = rng.random(trials.trials) < trials.nearby
    # Ties in distance are broken at random, by a noise far below any distance that matters.
    order = np.where(near[:, None], distances + 1e-9 * anywhere * distances.max(), anywhere)
    order[np.arange(trials.trials), referents] = -1.0
    return np.argsort(order, axis=1)[:, : trials.distractors + 1]


def simulated(
    naming: Float[np.ndarray, "referents words"],
    bits: Float[np.ndarray, " words"],
    candidates: Int[np.ndarray, "trials candidates"],
    flexibilities: Sequence[float],
    speaker: Speaker,
) -> pd.DataFrame:
    """Accuracy against bits conveyed, for simulated speakers from rigid to flexible.

    At flexibility 0 each referent has one word, its most frequent one; at 1 every word the lexicon gives it is weighed
    in context. Success is the listener's probability of the referent, exact for each trial.

    Returns:
        Columns flexibility, success, success_low, success_high, info_bits, info_low, info_high, n (trials).
    """
    for one in flexibilities:
        if not 0 <= one <= 1:
            raise ConfigError(explain(f"flexibility {one}", "a number in [0, 1]"))
    inside = naming[candidates]
    even = np.full(candidates.shape[1], 1.0 / candidates.shape[1])
    success = listener(inside, even)[:, 0, :]
    free = speaker_choice(success * (inside[:, 0] > 0), bits, speaker)
    top = np.eye(naming.shape[1])[naming.argmax(axis=1)][candidates[:, 0]]
    conveyed = np.where(np.isfinite(bits), bits, 0.0)
    rows = []
    for flexibility in flexibilities:
        said = (1 - flexibility) * top + flexibility * free
        estimates = [bootstrap(mean, (said * what).sum(axis=1), n_boot=500) for what in (success, conveyed)]
        ends = [end for one in estimates for end in (one.value, one.low, one.high)]
        rows.append((float(flexibility), *ends, len(candidates)))
    names = ["success", "success_low", "success_high", "info_bits", "info_low", "info_high", "n"]
    return pd.DataFrame(rows, columns=["flexibility", *names])


Treatment = Literal["stripped", "kept", "bare"]
HARD_LESS_EASY = "hard less easy"


@dataclass(frozen=True)
class InContext:
    """Bits per word in easy and in hard contexts.

    Attributes:
        comparison: one row each for all messages as they are, and for the same referents at the mix of the easy, the
            hard and both contexts: comparison, easy, hard, difference (hard - easy), low, high, support (share of that
            mix's messages in referents seen in both contexts), n_messages, n_referents, n_clusters.
        accounting: columns reason, n_messages; adds up to the counts given.
    """

    comparison: pd.DataFrame
    accounting: pd.DataFrame

    __repr__ = brief


def in_context(
    bits: pd.Series[float],
    referents: Sequence[Any],
    counts: NamingCounts,
    easy: Label,
    hard: Label,
    *,
    context: str = "context",
    cluster: str | None = None,
    n_boot: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> InContext:
    """Bits per word in easy and in hard contexts, as observed and standardised to the same referents.

    Hard contexts may show other referents than easy ones, and some regions have more precise words than others; so the
    difference is also taken referent by referent, and averaged at a common mix.

    Args:
        bits: how informative each name is, by name.
        referents: of the lexicon.
        counts: with a column of contexts.
        easy, hard: the two contexts that are compared.
        context: column of contexts.
        cluster: column of what is drawn together, such as the game or speaker; None: each referent's messages.
        n_boot: resamples of clusters.
        confidence: of the intervals.
        seed: the same seed gives the same intervals.

    Raises:
        DataError: a column or context is missing, both contexts are one, or no message of one is in the lexicon.
    """
    side, names = _sides_and_clusters(counts, easy, hard, context, cluster)
    table, k = counts.table, len(referents)
    rows = pd.DataFrame({"count": table["count"], "side": side, "cluster": names, "reason": "used"})
    rows["bits"] = table["name"].map(bits)
    rows["place"] = table["referent"].map({one: place for place, one in enumerate(referents)})
    unknown = rows["bits"].isna() | rows["place"].isna()
    rows.loc[unknown, "reason"] = "name without informativeness in the lexicon"
    rows.loc[rows["side"].isna(), "reason"] = "another context"
    accounting = rows.groupby("reason")["count"].sum().rename("n_messages").reset_index()
    used = rows[(rows["reason"] == "used") & (rows["count"] > 0)]
    if used["side"].nunique() < 2:
        raise DataError(explain("a context without a message in the lexicon", "messages in both"))
    cells = (used["side"] * k + used["place"]).astype(int).to_numpy()
    weight = used["count"].to_numpy(dtype=float)
    values = np.column_stack([weight * used["bits"].to_numpy(), weight])
    units = clustered.units_of(values, cells, 2 * k, pd.factorize(used["cluster"])[0])
    draws: Any = {"n_boot": n_boot, "confidence": confidence, "seed": seed}
    intervals = clustered.bootstrap_totals(lambda totals: clustered.gaps(*_split(totals)), units, **draws)
    return InContext(_comparison(units.total(), intervals), accounting)


def set_aside(
    counts: NamingCounts,
    kept: pd.Series[bool],
    easy: Label,
    hard: Label,
    *,
    context: str = "context",
    cluster: str | None = None,
    n_boot: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Attrition by context: the share of messages that are not compared, and its difference, which biases a comparison.

    Args:
        counts: all messages, with a column of contexts.
        kept: by row of `counts.table`: whether it is compared.
        easy, hard, context, cluster, n_boot, confidence, seed: as for `in_context`.

    Returns:
        Columns context, n_messages, n_aside, share, low, high; a row for the easy context, one for the hard one, and
        one for "hard less easy", the difference of the shares with its interval. A share of 0 or 1 has Wilson's
        interval over clusters, and the difference then Newcombe's.

    Raises:
        DataError: a column or context is missing, or the two contexts are one.
    """
    side, names = _sides_and_clusters(counts, easy, hard, context, cluster)
    weight = counts.table["count"].astype(float)
    rows = pd.DataFrame({"side": side, "n": weight, "aside": weight.where(~kept, 0.0), "cluster": names})
    rows = rows[rows["side"].notna() & (rows["n"] > 0)]
    values = rows[["aside", "n"]].to_numpy()
    units = clustered.units_of(
        values, rows["side"].astype(int).to_numpy(), 2, pd.factorize(rows["cluster"])[0]
    )
    intervals = clustered.bootstrap_totals(_shares, units, n_boot=n_boot, confidence=confidence, seed=seed)
    aside, n = units.total().T.round().astype(int)
    low, high, share = intervals.low.copy(), intervals.high.copy(), intervals.values
    # A share of 0 or 1 varies in no resample: Wilson's interval over clusters, and Newcombe's for the difference.
    flat = np.isin(share[:2], (0.0, 1.0))
    for place in np.flatnonzero(flat):
        clusters = int(units.counts @ (units.totals[:, place, 1] > 0))
        wilsons = wilson(int(share[place]) * clusters, clusters, confidence=confidence)
        low[place], high[place] = wilsons.low, wilsons.high
    if flat.any():
        low[2] = share[2] - np.hypot(share[1] - low[1], high[0] - share[0])
        high[2] = share[2] + np.hypot(high[1] - share[1], share[0] - low[0])
    table = pd.DataFrame({"context": [label_text(easy), label_text(hard), HARD_LESS_EASY]})
    table["n_messages"], table["n_aside"] = [*n, n.sum()], [*aside, aside.sum()]
    return table.assign(share=share, low=low, high=high)


def _sides_and_clusters(
    counts: NamingCounts, easy: Label, hard: Label, context: str, cluster: str | None
) -> tuple[pd.Series[Any], pd.Series[Any]]:
    """By row: 0 for the easy context, 1 for the hard one, nan for others; and what is drawn together."""
    table = counts.table
    check_columns(table, [context, *([cluster] if cluster else [])])
    if cluster:
        check_known(table, cluster)
    texts = labels(table[context])
    there = sorted(texts[table["count"] > 0].dropna().unique())
    places: dict[str, int] = {}
    for place, one in enumerate((easy, hard)):
        same = find_label(one, there)
        if same is None:
            got, hint = f"no messages in context {one!r}", nearest(label_text(one), there)
            raise DataError(explain(got, f"one of {there[:12]}", hint))
        places[same] = place
    if len(places) < 2:
        raise DataError(explain(f"{easy!r} as the easy and the hard context", "two different ones"))
    return texts.map(places), labels(table[cluster]) if cluster else table["referent"]


def _shares(totals: np.ndarray) -> np.ndarray:
    shares = clustered.quotient(totals[..., 0], totals[..., 1])
    more = shares[..., 1:] - shares[..., :1]
    return np.concatenate([shares, more], axis=-1)


def _split(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits and messages of each side and referent."""
    cells = totals.reshape(*totals.shape[:-2], 2, -1, 2)
    return cells[..., 0], cells[..., 1]


def _comparison(total: np.ndarray, intervals: clustered.Intervals) -> pd.DataFrame:
    bits, n = _split(total)
    both, each = clustered.shared(n), clustered.quotient(bits, n)
    rows = [("all messages", *clustered.means(bits, n), 1.0, int(n.sum()), int((n.sum(axis=0) > 0).sum()))]
    for whose, mix in zip(
        ("the easy contexts'", "the hard contexts'", "both contexts'"), clustered.mixes_of(n), strict=True
    ):
        weights = mix * both
        sides = [float(clustered.quotient(np.nansum(weights * one), weights.sum())) for one in each]
        sizes = (float(weights.sum() / mix.sum()), int((n * both).sum()), int(both.sum()))
        rows.append((f"same referents, {whose} mix", *sides, *sizes))
    names = ["comparison", "easy", "hard", "support", "n_messages", "n_referents"]
    table = pd.DataFrame(rows, columns=names).assign(n_clusters=intervals.n)
    ends = {"difference": table["hard"] - table["easy"], "low": intervals.low, "high": intervals.high}
    return pd.concat([table[names[:3]], pd.DataFrame(ends), table[[*names[3:], "n_clusters"]]], axis=1)


def treated(
    counts: NamingCounts, heads: WordList, modifiers: WordList, treatment: Treatment
) -> tuple[NamingCounts, pd.DataFrame]:
    """Treatment of modifiers: names reduced to the words that a list knows, with modifiers treated on purpose.

    Args:
        counts: names as they were given.
        heads: the words that name a kind, such as colours. A name with several is a name of its own ("blue + green").
        modifiers: the words that narrow a kind down, such as light, dark, most.
        treatment: "stripped": modifiers are taken off; "kept": a modified name is a name of its own ("green, dark");
            "bare": only names without a modifier are used.

    Returns:
        The counts, and an accounting with columns reason, n_messages that adds up to the counts given.

    Raises:
        ConfigError: an unknown treatment.
        DataError: no name is left.
    """
    check_choice("treatment", treatment, get_args(Treatment))
    names, reasons = {}, {}
    for name in counts.table["name"].unique():
        kinds, narrowing = heads.labels_in(str(name)), modifiers.labels_in(str(name))
        parts = [" + ".join(kinds), *(narrowing if treatment == "kept" else ())]
        names[name] = ", ".join(parts)
        modified = "modified" if narrowing and treatment == "bare" else "used"
        reasons[name] = modified if kinds else "no word of the list"
    reason = counts.table["name"].map(reasons)
    sums = counts.table["count"].groupby(reason).sum()
    accounting = sums.rename("n_messages").rename_axis("reason").reset_index()
    left = counts.table[(reason == "used").to_numpy()]
    if not left["count"].any():
        raise DataError(explain("no name with a word of the list", "at least one", "another word list"))
    return NamingCounts.from_frame(left.assign(name=left["name"].map(names))), accounting
