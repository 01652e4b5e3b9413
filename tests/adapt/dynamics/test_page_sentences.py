"""Every sentence with a number or a comparison on the pages of fine-tuning runs, held against the results."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from finetune_results import MakeResult
from page_sentences import hold
from trimtab.adapt.dynamics.compare import gain_difference
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.record import COLUMNS, COMPLETION_COLUMNS, SlopeUpdate

pytestmark = pytest.mark.usefixtures("undrawn")  # what is drawn is looked at in test_page.py

NUMBER = r"([−+-]?\d+(?:\.\d+)?)"


def close(text: str, value: float) -> bool:
    """Whether a number as written is a value rounded to the digits it has."""
    written = text.replace("−", "-")
    digits = len(written.partition(".")[2])
    return math.isfinite(value) and abs(float(written) - value) <= 0.5 * 10**-digits + 1e-9


def gain(result: FinetuneResult) -> tuple[float, float, float]:
    """Fall of test perplexity in per cent, by hand: targets as independent."""
    rows = result.final[result.final["role"] == "target"]
    middle = rows["change"].mean()
    down = math.sqrt(((rows["change"] - rows["change_low"]) ** 2).sum()) / len(rows)
    up = math.sqrt(((rows["change_high"] - rows["change"]) ** 2).sum()) / len(rows)
    value, low, high = (100 * (1 - math.exp(one)) for one in (middle, middle + up, middle - down))
    return value, low, high


def kept(result: FinetuneResult) -> pd.DataFrame:
    rows = result.final[result.final["role"] == "constraint"]
    return rows[[bool(one) for one in rows["kept"]]]


def noisy(result: FinetuneResult) -> int:
    return int((kept(result)["change_high"] > kept(result)["tolerance"]).sum())


def with_records(result: FinetuneResult, shift: float, seed: int) -> FinetuneResult:
    """The result with per-record changes whose mean is `shift`."""
    random = np.random.default_rng(seed)
    names = result.final.loc[result.final["role"] == "target", "domain"]
    parts = [
        pd.DataFrame(
            {"domain": name, "record": range(40), "tokens": 100, "change": random.normal(100 * shift, 1, 40)}
        )
        for name in names
    ]
    return replace(result, target_records=pd.concat(parts, ignore_index=True))


def with_data(result: FinetuneResult, seed: int, *, grouped: Sequence[str] = ()) -> FinetuneResult:
    """The result with a table of data in which every domain has other numbers, and some have groups."""
    random = np.random.default_rng(seed)
    rows = [
        {
            "domain": name,
            "split": split,
            "read": read,
            "read_records": max(1, read // 3),
            "probe": min(read, 32),
            "groups": 90 if name in grouped else math.nan,
            "read_groups": 1 + read // 7 if name in grouped else math.nan,
        }
        for name in result.final["domain"]
        for split, read in (
            ("validation", int(random.integers(9, 60))),
            ("test", int(random.integers(30, 300))),
        )
    ]
    counts = [column for column in COLUMNS if column not in rows[0]]
    return replace(result, data=pd.DataFrame(rows).assign(**dict.fromkeys(counts, 400))[list(COLUMNS)])


def with_completions(result: FinetuneResult, domains: Sequence[str], changed: int) -> FinetuneResult:
    """The result with two prompts of each of some domains, of which so many are answered otherwise by its weights."""
    asked = [(name, f"{name} {k}", "reference", f"before {k}") for name in domains for k in range(2)]
    rows = [(*row, f"after {result.label}" if k < changed else row[3]) for k, row in enumerate(asked)]
    return replace(result, completions=pd.DataFrame(rows, columns=list(COMPLETION_COLUMNS), dtype=object))


def broken(result: FinetuneResult) -> FinetuneResult:
    """The result with a constraint broken from the first step on, more and more."""
    losses = result.losses.copy()
    rows = (losses["domain"] == "metadata") & (losses["step"] > 0)
    losses.loc[rows, "change"] = 0.06 + losses.loc[rows, "step"] / 1000
    return replace(result, losses=losses)


def feeding_back(result: FinetuneResult, broken_at: Sequence[int]) -> FinetuneResult:
    """The result as if the mass had been fed back, `metadata` broken at some updates, and `tests` not read there."""

    def fed(update: SlopeUpdate) -> SlopeUpdate:
        lost = update.step in broken_at
        slopes, errors = (each.copy() for each in (update.slopes, update.standard_errors))
        slopes.loc["tests"] = errors.loc["tests"] = math.nan
        return replace(
            update,
            slopes=slopes,
            standard_errors=errors,
            predicted={**update.predicted, "tests": math.nan},
            solver_status="broken" if lost else "kept",
            conflicts=("metadata",) if lost else (),
            shadow_prices=dict.fromkeys(update.shadow_prices, math.nan),
        )

    return replace(result, slopes=[fed(update) for update in result.slopes])


def paired(a: FinetuneResult, b: FinetuneResult) -> tuple[float, float]:
    """The 95 % paired t interval of the mean difference in nats per token; all records have as many tokens."""
    apart = a.target_records.assign(d=(a.target_records["change"] - b.target_records["change"]) / 100)
    by = [part["d"].to_numpy() for _, part in apart.groupby("domain")]
    mean, error = (
        np.mean([one.mean() for one in by]),
        math.sqrt(sum(stats.sem(one) ** 2 for one in by)) / len(by),
    )
    half = stats.t.ppf(0.975, len(by[0]) - 1) * error
    return mean - half, mean + half


def named(text: str) -> list[str]:
    return [one for one in re.split(r", | and ", text) if one]


DEFINITIONS = (
    r"Green: steps at which every constraint holds \(each evaluation speaks for half the way to the next\)\.",
    r"What one step on a domain \(column\) does to the loss of a domain \(row\), in thousandths of a nat\.",
    r"Pale and in parentheses: below 1\.28 standard errors, the sign is not known\.",
    r"One colour scale for all\.",
    r"One point per interval between updates and evaluation domain\.",
    r"Bars: one standard error of the slopes\.",
    r"A price says how many nats the sum of predicted target losses would fall per nat of extra tolerance: .*",
    r"Broken: its validation loss at that step, with the reserve of `fit\.margin`, was above its limit\.",
    r"Wall-clock on one machine, once \(n = 1\)\.",
    r"Intervals: 95 % over test records, paired with the base model on the same sequences; .* training seed\.",
    r"Costs: multiples of one fixed-mixture run\.",
    r"Bars: 95 % intervals of the gain over test records\.",
    r"Costs are multiples of one fixed-mixture run; runs of nearly the same cost stand side by side\.",
    r"Filled: trained weights that kept every constraint on test\.",
    r"Named: those of them that no other estimate beats in gain and in cost\.",
    r"Change of loss on test in tolerances: 0 \(dotted\) is the base model, 1 \(dashed\) the limit\.",
    r"Bars: 95 % intervals over test records, one training seed per run\.",
    r"The first panel has each run's worst constraint; picked by the same sequences, .*",
    r"The largest violation of each run on test; below 0 nats there was room left\.",
    r"The same colour is the same training domain in every drawing\.",
    r"Targets are at the bottom \(left\) in full colour, .*",
    r"Vertical line: the checkpoint kept, where there is one\.",
    r"By length: the error with its 95 % interval .*",
    r"Standard errors are the slopes', carried to the whole interval; about 95 % within two of them would be honest\.",
    r"The Wilson interval takes points as independent, .*",
    r"Cut: sequences that were longer\.",
    r"Read: by each evaluation; a packed sequence counts as of one record, that of most of it\.",
    r"Each token is the most likely one; “…” stands where a text was cut\.",
    r"The run returned the base weights, so before and after are one\.",
    r"At the right of each bar: the share of the targets together\.",
)


def rules(results: Sequence[FinetuneResult]) -> dict[str, Callable[..., bool]]:
    """What each sentence must say of these results."""
    of = {result.label: result for result in results}
    first = results[0]
    winners = [one for one in results if gain(one)[0] > 0 and len(kept(one)) == 4]

    def about(
        label: str, value: str, low: str, high: str, held: str, doubt: str, steps: str, all_in: str
    ) -> bool:
        result = of[label]
        cost = result.cost
        numbers = zip((value, low, high), gain(result), strict=True)
        return (
            all(close(a, b) for a, b in numbers)
            and (int(held), int(doubt or 0)) == (len(kept(result)), noisy(result))
            and close(steps, cost.training_multiple)
            and close(all_in, cost.all_in_multiple)
        )

    def infeasible(label: str, steps: str, all_in: str) -> bool:
        cost = of[label].cost
        none = of[label].status == "infeasible" and of[label].step == 0
        return none and close(steps, cost.training_multiple) and close(all_in, cost.all_in_multiple)

    def for_nothing(step: str, last: str, name: str, steps: str) -> bool:
        """By hand: the only reading after the chosen step, and which constraint rose by more than .05 there."""
        return any(
            (int(step), int(last), int(steps)) == (one.step, 320, 320 - one.step)
            and one.losses[(one.losses["step"] == 320) & (one.losses["change"] > 0.05)]["domain"].tolist()
            == [name]
            for one in results
        )

    def missed(name: str, change: str, step: str, last: str, limit: str) -> bool:
        return any(
            close(change, at["change"]) and (int(last), float(limit)) == (320, 0.05)
            for one in results
            if one.status == "infeasible"
            for at in one.losses.to_dict("records")
            if at["domain"] == name and at["step"] == int(step) == 5
        )

    def best(value: str, low: str, high: str, label: str, close_: str) -> bool:
        top = max(winners, key=lambda one: gain(one)[0])
        near = [one.label for one in winners if one is not top and paired(top, one)[1] >= 0]
        numbers = zip((value, low, high), gain(top), strict=True)
        return (
            label == top.label
            and sorted(named(close_)) == sorted(near)
            and all(close(a, b) for a, b in numbers)
        )

    def relaxed(count: str, n: str) -> bool:
        return any(
            int(n) == len(one.slopes) and int(count) == sum(u.solver_status == "relaxed" for u in one.slopes)
            for one in results
        )

    def points(n: str, error: str, r: str) -> bool:
        return any(_predictions(one, int(n), error, r) for one in results if one.slopes)

    def counted(runs: str, n: str, left_out: str) -> bool:
        probing = [one for one in results if one.slopes]
        expected = sum(len(one.slopes) * first.losses["domain"].nunique() for one in probing)
        return (int(runs), int(n), int(left_out)) == (len(probing), expected, 0)

    def asked(n: str, told: str) -> bool:
        """Whether as many prompts are shown as one of the runs has, and of each domain as many."""
        every = [dict(Counter(one.completions["domain"])) for one in results]
        if told.endswith(" per domain"):
            return any(sum(one.values()) == int(n) and set(one.values()) == {int(told[0])} for one in every)
        pairs = {name: int(k) for k, name in (each.split(" of ") for each in told.split(", "))}
        return int(n) == sum(pairs.values()) and pairs in every

    def differ(k: str, n: str) -> bool:
        return any(
            (int(k), int(n))
            == (sum(b != a for b, a in one.completions[["before", "after"]].to_numpy()), len(one.completions))
            for one in results
        )

    def side_by_side(n: str, domains: str) -> bool:
        """By hand: of the runs with tuned weights, all were asked the first one's prompts; one is shown per domain."""
        return (int(n), int(domains)) == (
            sum(one.step > 0 for one in results),
            first.completions["domain"].nunique(),
        )

    def moving(count: str, n: str) -> bool:
        return (int(count), int(n)) == (sum(len(one.mixtures) > 1 for one in results), len(results))

    gained = rf"{NUMBER} % \(95 % interval {NUMBER} to {NUMBER}\)"
    price = rf"for {NUMBER} times the training steps of one fixed-mixture run \({NUMBER} times with evaluations\)\."
    doubt = r"(?: \((\d+) of them within the noise: the interval reaches beyond the tolerance\))?"
    none = "no checkpoint kept every constraint on validation, so the base weights were returned"
    near = r"(?:; it is not distinguishable from (.*)|; it is distinguishable from every other one)?"
    return {
        rf"(\w+) lowered target perplexity on test by {gained} and kept (\d) of 4 constraints{doubt}, {price}": about,
        rf"(\w+) is infeasible: {none}, {price}": infeasible,
        r"The best checkpoint is that of step (\d+) of (\d+): the one evaluation after it did not keep (\w+), so (\d+)"
        r" steps were for nothing\.": for_nothing,
        rf"The nearest miss: (\w+) {NUMBER} nats at step (\d+) of (\d+) \(limit {NUMBER}\)\.": missed,
        r"Try training on (\w+), too, a larger tolerance or a lower lr\.": lambda name: name == "metadata",
        r"Of the (\d+) runs compared, (\d+) gained something and kept every constraint on test\.": (
            lambda n, k: (int(n), int(k)) == (len(results), len(winners))
        ),
        rf"The largest estimate among them, {NUMBER} % \({NUMBER} to {NUMBER}\), is that of (\w+){near}"
        r" \(95 % intervals of paired differences over test records\)\.": best,
        r"At (\d+) of (\d+) updates no mixture was predicted to keep every constraint; the solver then .*": relaxed,
        r"On the dotted line the prediction came true\. n = (\d+) \(.*\): "
        rf"median absolute error {NUMBER} nats, correlation {NUMBER}\.": points,
        r"(\d+) runs on test; the status is the verdict on validation\.": lambda n: int(n) == len(results),
        r"n = (\d+) runs, one training seed each\.": lambda n: int(n) == len(results),
        r"n = (\d+) held-out prompts: (.*)\.": asked,
        r"None that fits was found in (.*)\.": (
            lambda told: set(named(told)) == set(first.final["domain"]) - set(first.completions["domain"])
        ),
        r"Prompt: (.*)": lambda text: text in list(first.completions.drop_duplicates("domain")["prompt"]),
        r"After: the checkpoint of step (\d+)\.": lambda step: int(step) in {one.step for one in results},
        r"For (\d+) of (\d+) the two texts differ\.": differ,
        r"(\d+) runs that left tuned weights are asked (\d+) prompts, one per domain\.": side_by_side,
        r"Runs whose mixture changes, (\d+) of (\d+): share over training steps, the same axes for all\.": moving,
        r"Runs with slopes: (\d+); n = (\d+) points \(.*\); (\d+) more were not read at both ends .*": counted,
    }


def feedback(result: FinetuneResult) -> dict[str, Callable[..., bool]]:
    """What each sentence about a run that feeds the mass back must say, from its updates."""
    lost = [update for update in result.slopes if update.conflicts]
    slopes = [update.slopes for update in result.slopes]
    without = [name for name in result.final["domain"] if all(each.loc[name].isna().all() for each in slopes)]
    return {
        r"At each of (\d+) updates every constraint was kept at that moment\.": (
            lambda n: not lost and int(n) == len(slopes)
        ),
        r"At (\d+) of (\d+) updates a constraint was broken at that moment \(“broken”\): "
        r"the share of the targets falls while one is, and rises while none is\.": (
            lambda k, n: (int(k), int(n)) == (len(lost), len(slopes))
        ),
        r"Without a row, as between evaluations only targets and constraints are read: (.*)\.": (
            lambda names: names.split(", ") == without
        ),
    }


def counts(results: Sequence[FinetuneResult]) -> dict[str, Callable[..., bool]]:
    """What each sentence with a number of sequences or records must say."""

    def has(split: str, column: str, told: str) -> bool:
        """Whether "8 of a, 5 of b" is what the table of data of one of the runs says."""
        parts = re.findall(r"(\d+) of (\w+)(?: \((\d+) groups?\))?(?:, |$)", told)
        pairs = {name: (int(n), int(groups or 0)) for n, name, groups in parts}
        tables = [one.data[one.data["split"] == split] for one in results if len(one.data)]
        groups = [one["read_groups"].fillna(0) * (column != "probe") for one in tables]
        expected = [
            dict(zip(table["domain"], zip(table[column], known, strict=True), strict=True))
            for table, known in zip(tables, groups, strict=True)
        ]
        return len(parts) == len(told.split(", ")) and pairs in expected

    def few(what: str, told: str) -> bool:
        """Constraints judged on fewer than 30 groups or records, and which of the two, from the table of data."""
        parts = re.findall(r"(\w+) (validation|test) \((\d+)(?: (group|record)s?)?\)", told)
        only = what.split("s")[0] if " or " not in what else ""
        pairs = {(name, split): (int(n), kind or only) for name, split, n, kind in parts}
        return any(pairs == _few_units(one) for one in results if len(one.data))

    def at_most(n: str) -> bool:
        return any(one.config["fit"]["eval_sequences"] == int(n) for one in results if not len(one.data))

    def at_most_probe(n: str) -> bool:
        return any(one.config["fit"]["probe_sequences"] == int(n) for one in results if not len(one.data))

    band = "the band is the 95 % interval of the paired change over their records, one seed"
    covers = "the probe's own choice of training batches may not be in it"
    errors = "Below a column's name: its share of the mixture\\. ± is the standard error over the records"
    return {
        r"The checkpoint of step (\d+) on test, in nats per token; every test sequence of each domain\.": (
            lambda step: int(step) in {one.step for one in results if not len(one.data)}
        ),
        r"The checkpoint of step (\d+) on test, in nats per token; n test sequences: (.*)\.": (
            lambda step, told: int(step) in {one.step for one in results} and has("test", "read", told)
        ),
        rf"Vertical line: the checkpoint kept\. n validation sequences: (.*) at each point; {band}\.": (
            lambda told: has("validation", "read", told)
        ),
        r"Vertical line: the checkpoint kept\. at most n = (\d+) validation sequences per domain at .*": at_most,
        rf"{errors} of n probe sequences: (.*); {covers}\.": lambda told: has("validation", "probe", told),
        rf"{errors} of at most n = (\d+) probe sequences per domain; {covers}\.": at_most_probe,
        r"Judged on fewer than 30 (.*?): (.*)\.": few,
        r"Where a domain has (groups), they are over its groups\.": (
            lambda _: any(one.data["read_groups"].notna().any() for one in results if len(one.data))
        ),
    }


def _few_units(result: FinetuneResult) -> dict[tuple[str, str], tuple[int, str]]:
    """Constraints judged on fewer than 30 groups, or records without groups, from the table of data."""
    constraints = list(result.final.loc[result.final["role"] == "constraint", "domain"])
    units = {}
    for row in result.data.itertuples():
        grouped = row.read_groups == row.read_groups
        units[row.domain, row.split] = (
            (int(row.read_groups), "group") if grouped else (int(row.read_records), "record")
        )
    return {key: one for key, one in units.items() if key[0] in constraints and one[0] < 30}


def _predictions(result: FinetuneResult, n: int, error: str, r: str) -> bool:
    """Realised against predicted changes over each interval between updates, by hand.

    An update starts from losses it read: its prediction less the change that it predicts; the grid's readings win.
    """
    made: dict[tuple[int, str], float] = {}
    read: dict[tuple[int, str], float] = {}
    for update in result.slopes:
        for name in update.slopes.index[update.slopes.notna().any(axis=1)]:
            used = [column for column in update.slopes if update.weights[column] > 0]
            moved = sum(update.slopes.loc[name, column] * update.weights[column] for column in used)
            made[update.step, name] = update.horizon * moved
            read[update.step, name] = update.predicted[name] - update.horizon * moved
    for row in result.losses.itertuples():
        read[row.step, row.domain] = row.loss_nats
    ends = {update.step: update.step + update.horizon for update in result.slopes}
    real = [read[ends[step], name] - read[step, name] for step, name in made]
    errors, correlation = (
        np.abs(np.array(list(made.values())) - real),
        np.corrcoef(list(made.values()), real)[0, 1],
    )
    return n == len(made) and close(error, float(np.median(errors))) and close(r, float(correlation))


@pytest.fixture
def results(result_of: MakeResult) -> list[FinetuneResult]:
    """Three that gained (one clearly most, one hardly more than another), one that was infeasible."""
    made = [
        with_data(with_records(result_of("Planned"), -0.140, 1), 5),
        with_records(
            result_of("Uniform", probes=False, pulls=(-0.3, -0.1, 0.031, 0.049, 0.027, 0.012)), -0.2, 2
        ),
        with_records(result_of("Near", pulls=(-0.3, -0.098, 0.02, 0.01, 0.0, 0.012)), -0.1995, 3),
        broken(
            with_data(
                with_records(result_of("Never", status="infeasible"), 0.0, 4),
                6,
                grouped=("python", "headers"),
            )
        ),
    ]
    domains = made[0].final["domain"].to_list()[:4]
    return [with_completions(one, domains, changed) for one, changed in zip(made, (5, 3, 8, 0), strict=True)]


@pytest.mark.parametrize("which", range(4))
def test_every_sentence_about_one_run(results: list[FinetuneResult], which: int) -> None:
    result = results[which]
    held = hold(
        FinetuneResult.page([result]), {**rules([result]), **counts([result])}, definitions=DEFINITIONS
    )
    assert sum(held.values()) >= 2


@pytest.mark.parametrize("broken_at", [(), (5, 160)])
def test_every_sentence_about_a_run_that_feeds_back(
    results: list[FinetuneResult], broken_at: Sequence[int]
) -> None:
    result = feeding_back(results[0], broken_at)
    every = {**rules([result]), **counts([result]), **feedback(result)}
    held = hold(FinetuneResult.page([result]), every, definitions=DEFINITIONS)
    told = "was kept at that moment" if not broken_at else "was broken at that moment"
    assert sum(n for rule, n in held.items() if told in rule) == 1
    assert sum(n for rule, n in held.items() if rule.startswith("Without a row")) == 1
    assert sum(n for rule, n in held.items() if "no mixture was predicted" in rule) == 0


def test_every_sentence_about_several_runs(results: list[FinetuneResult]) -> None:
    held = hold(FinetuneResult.page(results), {**rules(results), **counts(results)}, definitions=DEFINITIONS)
    assert sum(n > 0 for n in held.values()) >= 9


def test_differences_of_gains_are_paired_t_intervals(results: list[FinetuneResult]) -> None:
    planned, uniform, near, _ = results
    apart = gain_difference(uniform, planned)
    assert (apart.low, apart.high) == pytest.approx(paired(uniform, planned))
    assert apart.high < 0
    assert gain_difference(uniform, near).low < 0 < gain_difference(uniform, near).high
    other = replace(planned, target_records=planned.target_records.iloc[1:].reset_index(drop=True))
    assert math.isnan(gain_difference(uniform, other).high)


def test_runs_without_records_are_not_said_to_differ(result_of: MakeResult) -> None:
    html = FinetuneResult.page([result_of("A"), result_of("B", pulls=(-0.4, -0.1, 0.0, 0.0, 0.0, 0.0))])
    assert "its difference from A was not measured on the same test records" in html
