"""Are more informative words used where distractors are near? Same referents, modifiers treated on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from trimtab.data.naming import NamingCounts
from trimtab.data.tables import Label, check_columns, check_known, find_label, label_text, labels
from trimtab.data.wordlist import WordList
from trimtab.errors import DataError, explain, nearest
from trimtab.numerics import standardise
from trimtab.numerics.bootstrap import check_choice, wilson
from trimtab.numerics.cluster_bootstrap import Intervals, bootstrap_totals, units_of

Treatment = Literal["stripped", "kept", "bare"]
NO_HEAD = "no word of the list"
MODIFIED = "modified"
NOT_IN_LEXICON = "name without informativeness in the lexicon"
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
    """Bits per word in easy and in hard contexts, as observed and for the same referents.

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
    rows.loc[rows["bits"].isna() | rows["place"].isna(), "reason"] = NOT_IN_LEXICON
    rows.loc[rows["side"].isna(), "reason"] = "another context"
    accounting = rows.groupby("reason")["count"].sum().rename("n_messages").reset_index()
    used = rows[(rows["reason"] == "used") & (rows["count"] > 0)]
    if used["side"].nunique() < 2:
        raise DataError(explain("a context without a message in the lexicon", "messages in both"))
    cells = (used["side"] * k + used["place"]).astype(int).to_numpy()
    weight = used["count"].to_numpy(dtype=float)
    values = np.column_stack([weight * used["bits"].to_numpy(), weight])
    units = units_of(values, cells, 2 * k, pd.factorize(used["cluster"])[0])
    found = bootstrap_totals(_differences, units, n_boot=n_boot, confidence=confidence, seed=seed)
    return InContext(_comparison(units.total(), found), accounting)


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
    """The share of messages that are not compared, by context: what is set aside more often in one biases the other.

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
    units = units_of(values, rows["side"].astype(int).to_numpy(), 2, pd.factorize(rows["cluster"])[0])
    found = bootstrap_totals(_shares, units, n_boot=n_boot, confidence=confidence, seed=seed)
    aside, n = units.total().T.round().astype(int)
    low, high, share = found.low.copy(), found.high.copy(), found.values
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
    shares = standardise.quotient(totals[..., 0], totals[..., 1])
    return np.concatenate([shares, shares[..., 1:] - shares[..., :1]], axis=-1)


def _split(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Bits and messages of each side and referent, and the mixes: of the easy contexts, of the hard ones, of both."""
    cells = totals.reshape(*totals.shape[:-2], 2, -1, 2)
    n = cells[..., 1]
    return cells[..., 0], n, (n[..., 0, :], n[..., 1, :], n.sum(axis=-2))


def _differences(totals: np.ndarray) -> np.ndarray:
    bits, n, mixes = _split(totals)
    at = [standardise.standardised_gap(bits, n, mix) for mix in mixes]
    return np.stack([standardise.gap(bits, n), *at], axis=-1)


def _comparison(total: np.ndarray, found: Intervals) -> pd.DataFrame:
    bits, n, mixes = _split(total)
    both, each = standardise.shared(n), standardise.quotient(bits, n)
    rows = [("all messages", *standardise.means(bits, n), 1.0, int(n.sum()), int((n.sum(axis=0) > 0).sum()))]
    for whose, mix in zip(("the easy contexts'", "the hard contexts'", "both contexts'"), mixes, strict=True):
        weights = mix * both
        sides = [float(standardise.quotient(np.nansum(weights * one), weights.sum())) for one in each]
        sizes = (float(weights.sum() / mix.sum()), int((n * both).sum()), int(both.sum()))
        rows.append((f"same referents, {whose} mix", *sides, *sizes))
    names = ["comparison", "easy", "hard", "support", "n_messages", "n_referents"]
    table = pd.DataFrame(rows, columns=names).assign(n_clusters=found.n)
    ends = {"difference": table["hard"] - table["easy"], "low": found.low, "high": found.high}
    return pd.concat([table[names[:3]], pd.DataFrame(ends), table[[*names[3:], "n_clusters"]]], axis=1)


def treated(
    counts: NamingCounts, heads: WordList, modifiers: WordList, treatment: Treatment
) -> tuple[NamingCounts, pd.DataFrame]:
    """Names reduced to the words that a list knows, with modifiers treated on purpose.

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
        modified = MODIFIED if narrowing and treatment == "bare" else "used"
        reasons[name] = modified if kinds else NO_HEAD
    reason = counts.table["name"].map(reasons)
    sums = counts.table["count"].groupby(reason).sum()
    accounting = sums.rename("n_messages").rename_axis("reason").reset_index()
    left = counts.table[(reason == "used").to_numpy()]
    if not left["count"].any():
        raise DataError(explain("no name with a word of the list", "at least one", "another word list"))
    return NamingCounts.from_frame(left.assign(name=left["name"].map(names))), accounting
