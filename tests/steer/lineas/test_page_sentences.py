"""Every sentence of a steering's page with a number or a comparison, against what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from page_script import without_script
from page_sentences import hold
from trimtab import CAA, LinEAS, MeanAcT, Model, load
from trimtab.job import carry_out
from trimtab.models.language import kl_divergence, log_likelihood
from trimtab.numerics.bootstrap import bootstrap, mean_difference, ratio_of_sums
from trimtab.steer.lineas.job import SteeringConfig, examples_of
from trimtab.steer.lineas.result import SteeringResult

pytestmark = pytest.mark.usefixtures("undrawn")  # what is drawn is looked at in test_job.py

DEFINITIONS = (
    r"Lean is how much likelier per token the target texts became than they were, less the same of the source texts\.",
    r"Intervals are 95 % over the choice of held-out texts; they do not cover the choice of fitting examples\.",
    r"Squared 1-D Wasserstein distance .*; at strength 0 and at 1, on held-out texts\.",
    r"Greedy completions of the same prompts at each strength; nothing is chosen or left out\.",
    r"At the largest strength of each\.",
    r"A point is a strength; up is more effect, right is more side effect\.",
    r"The upright line is the suggested strength, and the dashed one the budget\.",
    r"No strength is suggested, since no budget is stated\.",
    r"Share of .*",
)
MOST = 12
"""Tokens at which texts are cut; the tokenizer has one per character."""


@pytest.fixture(scope="module")
def configs(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, SteeringConfig]:
    """Strengths that are not in order, texts that are cut, one of a single token, and sides without a neutral one."""
    folder = tmp_path_factory.mktemp("texts")
    texts = {
        "source": ["q", *(f"you {a}{b} fool!" for a in "abcdef" for b in "xyz")],
        "target": [f"dear {a}{b}" for a in "abcdef" for b in "xyz"],
        "neutral": [f"some {c}" for c in "abcdefgh"],
    }
    for name, lines in texts.items():
        (folder / f"{name}.txt").write_text("\n".join([*lines, "", lines[1]]))
    files = {name: str(folder / f"{name}.txt") for name in texts}
    first = SteeringConfig(
        model=str(llama_folder), **files, estimator=MeanAcT(sites="residual"), examples=7, held_out=8, prompts=("you",),
        strengths=(1.0, 0.0, 0.5), max_tokens=MOST, max_new_tokens=2, device="cpu",
        budget=10.0, rivals=(CAA(),),
    )  # fmt: skip
    other = replace(
        first,
        estimator=LinEAS(sites="mlp_out", steps=2, gamma=0.0),
        neutral="",
        held_out=11,
        max_tokens=60,
        budget=None,
        rivals=(),
    )
    third = replace(other, neutral=first.neutral, held_out=8, budget=10.0)
    return {"mean": first, "lineas": other, "suggested": third}


@pytest.fixture(scope="module")
def results(
    configs: dict[str, SteeringConfig], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SteeringResult]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: carry_out(config, folder / name) for name, config in configs.items()}


class Measured:
    """The largest strength, measured again with the library's parts and not with the page's frames."""

    def __init__(self, config: SteeringConfig, result: SteeringResult) -> None:
        model, self.config = load(config.model, device="cpu"), config
        self.sides = examples_of(config)
        self.tokens = {
            name: [
                [len(model.tokenizer(text)["input_ids"]) for text in texts]
                for texts in (side.fit, side.held_out)
            ]
            for name, side in self.sides.items()
        }
        self.strength = max(config.strengths)
        held = [self.sides[name].held_out for name in ("source", "target")]
        before = [log_likelihood(model, texts, max_tokens=config.max_tokens) for texts in held]
        with result.steering.on(model, self.strength):
            after = [log_likelihood(model, texts, max_tokens=config.max_tokens) for texts in held]
        gains = [(a.nats - b.nats) / a.tokens.mean() for b, a in zip(before, after, strict=True)]
        self.lean = bootstrap(mean_difference, gains[1], gains[0])
        if config.neutral:
            on = lambda: result.steering.on(model, self.strength)  # noqa: E731
            moved = kl_divergence(model, self.sides["neutral"].held_out, on, max_tokens=config.max_tokens)
            self.kl = bootstrap(ratio_of_sums, moved.nats, moved.tokens.astype(float), paired=True)

        self.by_strength = dict[float, Any]()
        if config.budget is not None:
            for half in (0, 1):
                self._measure_half(model, result, half)

    def _measure_half(self, model: Model, result: SteeringResult, half: int) -> None:
        """Lean and KL of every second text at each strength, from the library and not from the page's parts."""
        texts = {name: list(side.held_out)[half::2] for name, side in self.sides.items()}
        most = self.config.max_tokens
        for strength in (0.5, 1.0):
            on = partial(result.steering.on, model, strength)
            gains = []
            for name in ("source", "target"):
                before = log_likelihood(model, texts[name], max_tokens=most)
                with on():
                    after = log_likelihood(model, texts[name], max_tokens=most)
                gains.append((after.nats - before.nats) / after.tokens.mean())
            moved = kl_divergence(model, texts["neutral"], on, max_tokens=most)
            kl = bootstrap(ratio_of_sums, moved.nats, moved.tokens.astype(float), paired=True)
            self.by_strength[strength, half] = bootstrap(mean_difference, gains[1], gains[0]), kl

    def scored(self, side: str) -> int:
        return sum(length > 1 for length in self.tokens[side][1])

    def halves(self, half: int) -> tuple[int, int, int]:
        """Texts of one half that are scored, of source, target and neutral."""
        lengths = [self.tokens[name][1][half::2] for name in ("source", "target", "neutral")]
        source, target = (sum(length > 1 for length in side) for side in lengths[:2])
        return source, target, len(lengths[2])

    def suggested(self) -> float | None:
        """The rule by hand: the largest lean above 0 whose KL is within the budget, by their intervals."""
        fine = {
            strength: lean.value
            for (strength, half), (lean, kl) in self.by_strength.items()
            if half == 0 and lean.low > 0 and kl.high <= self.config.budget
        }
        return max(fine, key=fine.__getitem__) if fine else None


@pytest.fixture(scope="module")
def measured(configs: dict[str, SteeringConfig], results: dict[str, SteeringResult]) -> dict[str, Measured]:
    return {name: Measured(config, results[name]) for name, config in configs.items()}


def near(text: str, value: float) -> bool:
    return abs(float(text.replace("−", "-")) - value) <= 0.00051


def rules(all_of: Sequence[Measured]) -> dict[str, Callable[..., bool]]:
    """What each sentence claims; on a page of several it is true of one of them."""

    def any_of(check: Callable[..., bool]) -> Callable[..., bool]:
        return lambda *groups: any(_tried(check, it, groups) for it in all_of)

    def leans(it: Measured, strength: str, lean: str, side: str, low: str, high: str, *rest: str) -> bool:
        source, target, end = rest
        unclear = it.lean.low <= 0 <= it.lean.high
        return (
            float(strength) == it.strength
            and near(lean, abs(it.lean.value))
            and side == ("towards" if it.lean.value > 0 else "away from")
            and near(low, it.lean.low)
            and near(high, it.lean.high)
            and (int(source), int(target)) == (it.scored("source"), it.scored("target"))
            and (end == ": within what chance explains") == unclear
        )

    def moved(it: Measured, kl: str, low: str, high: str, n: str) -> bool:
        ends = zip((kl, low, high), (it.kl.value, it.kl.low, it.kl.high), strict=True)
        return all(near(text, value) for text, value in ends) and int(n) == len(it.sides["neutral"].held_out)

    def counted(it: Measured, told: str) -> bool:
        wanted = [
            f"source: {it.scored('source')} held-out texts",
            f"target: {it.scored('target')} held-out texts",
        ]
        if it.config.neutral:
            wanted.append(f"neutral: {it.config.held_out} held-out texts")
        return told.lower() == "; ".join(wanted)

    def cut(it: Measured, told: str) -> bool:
        wanted = []
        for name, lengths in it.tokens.items():
            both = [length for part in lengths for length in part]
            long = sum(length > it.config.max_tokens for length in both)
            wanted += [f"{long} of {len(both)} {name} texts"] if long else []
        return bool(wanted) and told == ", ".join(wanted)

    def single(it: Measured, told: str) -> bool:
        short = {name: len(it.tokens[name][1]) - it.scored(name) for name in ("source", "target")}
        return told == ", ".join(f"{count} {name}" for name, count in short.items() if count)

    def suggested(it: Measured, strength: str, budget: str) -> bool:
        return float(strength) == it.suggested() and float(budget) == it.config.budget

    def chosen(it: Measured, *counts: str) -> bool:
        return tuple(map(int, counts)) == it.halves(0)

    def apart(it: Measured, *groups: str) -> bool:
        counts, values = groups[:3], groups[3:]
        lean, kl = it.by_strength[it.suggested(), 1]
        ends = (lean.value, lean.low, lean.high, kl.value, kl.low, kl.high)
        return tuple(map(int, counts)) == it.halves(1) and all(map(near, values, ends))

    return {
        r"Suggested strength: (\S+), with the largest lean at a KL within (\S+) nats per token, "
        r"by the upper end of its interval\.": any_of(suggested),
        r"No strength is suggested: none has a lean above (0) and a KL within (\S+) nats per token, "
        r"each by its interval\.": any_of(
            lambda it, zero, budget: it.suggested() is None and (float(zero), float(budget)) == (0, it.config.budget)
        ),
        r"That was chosen on (\d+) source, (\d+) target and (\d+) neutral texts\.": any_of(chosen),
        r"On (\d+) source, (\d+) target and (\d+) neutral texts apart the lean is (\S+) \((\S+) to (\S+)\) "
        r"and KL (\S+) \((\S+) to (\S+)\)\.": any_of(apart),
        r"The upright line is the budget, (\S+) nats per token\.": any_of(
            lambda it, budget: float(budget) == it.config.budget
        ),
        r"Marked: words that differ from the completion at strength (\S+)\.": any_of(
            lambda it, strength: float(strength) == min(it.config.strengths)
        ),
        r"(\d+) runs side by side\.": lambda n: int(n) == len(all_of),
        r"At strength (\S+) the model leans (\S+) nats per token (towards|away from) the target \(lean (\S+) to (\S+); "
        r"n = (\d+) source and (\d+) target texts\)(: within what chance explains|)\.": any_of(leans),
        r"On neutral text its predictions moved by (\S+) nats per token \((\S+) to (\S+); n = (\d+)\)\.": any_of(moved),
        r"(Source: .* held-out texts)\.": any_of(counted),
        r"Longer than the limit of tokens, and cut there: (.*)\.": any_of(cut),
        r"Held-out texts of a single token, of which no loss is told: (.*)\.": any_of(single),
        r"Blank and repeated ones were left out, and those of another side or to fit with\.": lambda: True,
    }  # fmt: skip


def _tried(check: Callable[..., bool], it: Measured, groups: Sequence[str]) -> bool:
    try:
        return bool(check(it, *groups))
    except (KeyError, ValueError, AttributeError):
        return False


@pytest.mark.parametrize("name", ["mean", "lineas", "suggested"])
def test_every_sentence_of_one_page_is_true(
    results: dict[str, SteeringResult], measured: dict[str, Measured], name: str
) -> None:
    held = hold(SteeringResult.page([results[name]]), rules([measured[name]]), definitions=DEFINITIONS)
    assert sum(count > 0 for count in held.values()) >= 3
    told = [rule for rule in held if rule.startswith("Suggested") and held[rule]]
    assert bool(told) == (name == "suggested")


def test_every_sentence_of_a_page_of_two_is_true(
    results: dict[str, SteeringResult], measured: dict[str, Measured]
) -> None:
    held = hold(
        SteeringResult.page(list(results.values())), rules(list(measured.values())), definitions=DEFINITIONS
    )
    assert held[r"(\d+) runs side by side\."] == 1
    assert sum(held.values()) >= 6


def test_the_largest_strength_is_told_wherever_it_stands(results: dict[str, SteeringResult]) -> None:
    it = results["mean"]
    assert it.curve["strength"].tolist() == [1.0, 0.0, 0.5]
    sorted_one = replace(it, curve=it.curve.sort_values("strength", ignore_index=True))
    assert it.summary() == sorted_one.summary()
    assert it.summary().startswith("At strength 1 the model leans")


def test_what_is_not_known_is_not_said(results: dict[str, SteeringResult]) -> None:
    it = results["mean"]
    untouched = replace(it, curve=it.curve[it.curve["strength"] == 0])
    assert untouched.summary() == "Only strength 0 was tried, which leaves the model as it is."
    open_ends = replace(it, curve=it.curve.assign(lean_low=np.nan, kl=np.nan))
    assert open_ends.summary().endswith("of which there is no interval.")
    assert "chance" not in open_ends.summary()
    assert "lean is not defined" in replace(it, curve=it.curve.assign(lean=np.nan)).summary()


def test_a_result_of_an_earlier_version_has_a_page(results: dict[str, SteeringResult]) -> None:
    it = results["mean"]
    assert torch.is_tensor(it.steering.maps["model.layers.0:out"][0])
    html = SteeringResult.page([replace(it, read=pd.DataFrame())])
    assert "n = " not in without_script(html)
    assert "What was read" not in html
