"""What a run came to, said in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trimtab.adapt.comparison import gain_difference, target_gain, unique_labels
from trimtab.report.numbers import fixed, missing, span
from trimtab.train.evaluate import Change

if TYPE_CHECKING:
    from trimtab.adapt.result import FinetuneResult


def verdict(results: Sequence[FinetuneResult]) -> str:
    """What the first run gained and kept on test and at which cost, and a second sentence about the comparison."""
    labels = unique_labels(results)
    sentence = sentence_about(results[0], labels[0])
    if len(results) == 1:
        return sentence
    kept = [k for k, result in enumerate(results) if kept_all(result) and target_gain(result)[0] > 0]
    best = max(kept, key=lambda k: target_gain(results[k])[0], default=None)
    group = (
        f"Of the {len(results)} runs compared, {len(kept)} gained something and kept every constraint on test"
    )
    if best is None:
        return f"{sentence} {group}."
    others = {labels[k]: gain_difference(results[best], results[k]) for k in kept if k != best}
    return f"{sentence} {group}. {_best(labels[best], _gain(results[best]), others)}"


def _best(label: str, gain: str, others: Mapping[str, Change]) -> str:
    """Who gained most, and from whom the paired differences on test records tell it apart."""
    sentence = f"The largest estimate among them, {gain}, is that of {label}"
    if not others:
        return f"{sentence}."
    unknown = [name for name, apart in others.items() if math.isnan(apart.high)]
    close = [name for name, apart in others.items() if name not in unknown and apart.high >= 0]
    parts = []
    if close:
        parts.append(f"it is not told apart from {_listed(close)}")
    if unknown:
        parts.append(f"its difference from {_listed(unknown)} was not measured on the same test records")
    if not parts:
        parts = ["it is told apart from each other one"]
    return f"{sentence}; {', and '.join(parts)} (95 % intervals of paired differences over test records)."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sentence_about(result: FinetuneResult, label: str) -> str:
    """What one run gained, kept and cost."""
    return f"{label} {_outcome(result)}, {_price(result)}."


def _outcome(result: FinetuneResult) -> str:
    """What a run came to, to follow its label."""
    if result.status == "infeasible":
        return "is infeasible: no checkpoint kept every constraint on validation, so the base weights were returned"
    if result.status == "no gain":
        return "gained nothing: no checkpoint within the constraints was better on the targets than the base weights"
    if result.status == "diverged" and result.step == 0:
        return "diverged before any checkpoint was better within the constraints, so the base weights were returned"
    diverged = result.status == "diverged"
    begin = f"diverged, and its last good checkpoint (step {result.step}) " if diverged else ""
    return f"{begin}{_moved(result)} and kept {_count_kept(result)}"


def _moved(result: FinetuneResult) -> str:
    gain, low, high = target_gain(result)
    if missing(gain):
        return "has no test result on its targets"
    doubt = ", which may be no change at all" if low <= 0 <= high else ""
    verb = "lowered" if gain >= 0 else "raised"
    low, high = (low, high) if gain >= 0 else (-high, -low)
    return f"{verb} target perplexity on test by {fixed(abs(gain), 1)} % (95 % interval {span(low, high, 1)}{doubt})"


def _gain(result: FinetuneResult) -> str:
    gain, low, high = target_gain(result)
    return f"{fixed(gain, 1)} % ({span(low, high, 1)})"


def _count_kept(result: FinetuneResult) -> str:
    own = result.final[result.final["role"] == "constraint"]
    if not len(own):
        return "no constraint, as none was set"
    broken = own[[not missing(kept) and not kept for kept in own["kept"]]]
    held = own[[not missing(kept) and bool(kept) for kept in own["kept"]]]
    open_ = int((held["change_high"] > held["tolerance"]).sum())
    doubt = f" ({open_} of them within the noise: the interval reaches beyond the tolerance)" if open_ else ""
    count = f"{len(held)} of {len(own)} constraints{doubt}"
    names = [
        f"{name} ({fixed(change, signed=True)} nats, tolerance {fixed(tolerance)})"
        for name, change, tolerance in zip(
            broken["domain"], broken["change"], broken["tolerance"], strict=True
        )
    ]
    return f"{count}; not kept: {', '.join(names)}" if names else count


def kept_all(result: FinetuneResult) -> bool:
    """Whether every constraint is known to be kept on test; true of a run without any."""
    own = result.final.loc[result.final["role"] == "constraint", "kept"]
    return all(not missing(kept) and bool(kept) for kept in own)


def _price(result: FinetuneResult) -> str:
    cost = result.cost
    return (
        f"for {fixed(cost.training_multiple, 2)} times the training steps of one fixed-mixture run "
        f"({fixed(cost.all_in_multiple, 2)} times with evaluations)"
    )
