"""Fine-tuning from end to end: which weights come back, what is said of them, what is left alone, what is refused."""

from __future__ import annotations

import itertools
import math
import random
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import tiny_models
from trimtab import Domain, DynaMiCS, EarlyStoppedTarget, Fit, Fixed, Replay, Uniform, finetune, load
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.mixer import Mixer
from trimtab.data.tokens import tokenise
from trimtab.errors import CheckpointError, ConfigProblems, DataError, ModelError
from trimtab.models.load import Model
from trimtab.seeds import isolated
from trimtab.train.evaluation import evaluation_rows
from trimtab.train.loop import Loop
from trimtab.train.losses import change
from trimtab.train.settings import evaluation_steps
from worlds import EVALUATE, QUICK, TRAIN, domain, evaluated, model, texts, tokenizer, trainable

LOOSE = {"web": 5.0, "safety": 5.0}
FED_BACK = DynaMiCS(targets=["math"], constraints={"web": 0.3, "safety": 0.3})
KEPT = replace(FED_BACK, mass="planned")
PROBING = replace(FED_BACK, schedule=4)
WRITES_NOTHING = "No completions are shown: the model, a Letters, has no generate()."


class Letters(nn.Module):
    """A unigram model of letters, which may break when trained on some of them, or after some steps."""

    def __init__(self, *, breaks_on: str = "", breaks_at: int = 0) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(len(tokenizer())))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.poison = torch.tensor(tokenizer()(breaks_on)["input_ids"] or [-1])
        self.breaks_at, self.trained = breaks_at, 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        logits = self.theta.expand(*input_ids.shape, len(self.theta))
        if self.training:
            self.trained += 1
            if torch.isin(input_ids, self.poison).any() or self.trained == self.breaks_at:
                logits = logits * math.nan
        return SimpleNamespace(logits=logits)


def letters(**options: Any) -> Model:
    return load(Letters(**options), tokenizer=tokenizer())


def run(handle: Model, mixer: Mixer = PROBING, fit: Fit = QUICK, **options: Any) -> FinetuneResult:
    options = {"train": trainable(), "evaluate": evaluated(), **options}
    return finetune(handle, mixer=mixer, fit=fit, **options)


def weights(handle: Model) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in handle.module.state_dict().items()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def replay(handle: Model, result: FinetuneResult, fit: Fit, seed: int = 0) -> dict[str, Tensor]:
    """The weights after `result.step` steps of its mixtures on a bare loop: no probes, no folder, no run."""
    tokens = {name: tokenise(d, handle, seq_len=fit.seq_len) for name, d in trainable().items()}
    shares = result.mixtures.set_index("step")[list(TRAIN)]
    with isolated(99):
        loop = Loop(handle, tokens, fit, seed=seed)
        for step in range(result.step):
            loop.step([float(w) for w in shares[shares.index <= step].iloc[-1]])
    return weights(handle)


def best_by_table(result: FinetuneResult, tolerances: Mapping[str, float], targets: list[str]) -> int:
    """The step that the validation table says is best; 0 when none keeps all and gains."""
    rows = result.losses[result.losses["split"] == "validation"]
    table = rows.pivot_table(index="step", columns="domain", values="change").drop(index=0)
    kept = (table[list(tolerances)] <= pd.Series(tolerances, dtype=float)).all(axis=1)
    gains = table.loc[kept, targets].mean(axis=1)
    return int(gains.idxmin()) if len(gains) and gains.min() < 0 else 0


# What comes back


@pytest.mark.parametrize(
    ("mixer", "best"),
    [
        (FED_BACK, 12),
        (KEPT, 12),
        (PROBING, 7),
        (replace(PROBING, preset="paper"), 12),
        (Fixed(weights={"math": 3, "code": 1}, targets=["math"], constraints={"web": 0.2}), 4),
        (EarlyStoppedTarget(targets=["math"], constraints={"web": 0.2, "facts": 0.2}, patience=1), 4),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_the_model_holds_the_best_checkpoint_that_kept_every_constraint(mixer: Mixer, best: int) -> None:
    fit = replace(QUICK, eval_points=6)
    handle = model(dropout=0.1)
    result = run(handle, mixer, fit)
    assert (result.status, result.step) == ("feasible", best)
    assert best == best_by_table(result, mixer.constraints, ["math"])
    assert same(weights(handle), replay(model(dropout=0.1), result, fit))


@pytest.mark.parametrize(("margin", "best"), [(0.0, 4), (1.0, 3), (2.0, 3), (5.0, 2)])
def test_a_checkpoint_that_keeps_a_constraint_but_not_by_the_margin_is_not_chosen(
    margin: float, best: int
) -> None:
    """Every later checkpoint gains more on math, so the last one that is allowed comes back."""
    mixer = Fixed(weights={"math": 3, "code": 1}, targets=["math"], constraints={"web": 0.1})
    result = run(model(dropout=0.1), mixer, replace(QUICK, eval_points=6, margin=margin))
    rows = result.losses[(result.losses["split"] == "validation") & (result.losses["domain"] == "web")]
    split = tokenise(trainable()["web"], tokenizer(), seq_len=QUICK.seq_len).splits["validation"]
    units = len(set(split.records[evaluation_rows("web", len(split), QUICK.eval_sequences)]))
    error = (rows["change_high"] - rows["change"]) / stats.t.ppf(0.975, units - 1)
    allowed = rows[(rows["change"] + margin * error <= 0.1) & (rows["step"] > 0)]
    assert (result.status, result.step) == ("feasible", best)
    assert best == allowed["step"].max()


def test_where_no_checkpoint_keeps_a_constraint_by_the_margin_the_base_weights_come_back() -> None:
    mixer = Fixed(weights={"math": 3, "code": 1}, targets=["math"], constraints={"web": 0.1})
    result = run(model(dropout=0.1), mixer, replace(QUICK, eval_points=6, margin=50.0))
    assert (result.status, result.step) == ("infeasible", 0)


def test_what_is_reported_is_read_from_test_sequences_with_the_weights_that_come_back() -> None:
    handle, base = model(), model()
    result = run(handle)
    splits = {
        name: tokenise(d, base, seq_len=16).splits["test"] for name, d in (trainable() | evaluated()).items()
    }
    after, before = (
        Loop(each, {"math": tokenise(domain("math"), each, seq_len=16)}, QUICK, seed=0).evaluate(splits, 8)
        for each in (handle, base)
    )
    table = result.final.set_index("domain")
    assert list(table.index) == [*TRAIN, *EVALUATE]
    assert list(table["role"]) == ["target", "monitored", "constraint", "constraint", "monitored"]
    for name in table.index:
        moved = change(after[name], before[name])
        assert table.loc[name, "loss"] == after[name].loss
        assert table.loc[name, "reference"] == before[name].loss
        assert table.loc[name, "change"] == moved.value
        assert (table.loc[name, "change_low"], table.loc[name, "change_high"]) == (moved.low, moved.high)
    assert table["tolerance"].tolist() == pytest.approx([math.nan, math.nan, 0.3, 0.3, math.nan], nan_ok=True)
    assert [table.loc[name, "kept"] for name in table.index] == [None, None, True, True, None]
    validation = result.losses[
        (result.losses["step"] == result.step) & (result.losses["split"] == "validation")
    ]
    assert validation.set_index("domain").loc["math", "change"] != table.loc["math", "change"]


@pytest.mark.filterwarnings("ignore:Data. .* evaluation records of")
def test_what_was_kept_on_validation_may_be_lost_on_test() -> None:
    """The same tolerance is held against test sequences; the table says so instead of choosing again."""
    odd = Domain("odd", validation=texts("math", "validation", 8), test=["ijkl" * n for n in range(8, 16)])
    result = run(
        letters(),
        Fixed(weights={"math": 1}, targets=["math"], constraints={"odd": 0.0}),
        replace(QUICK, steps=4, lr=0.1),
        evaluate={"odd": odd},
    )
    assert (result.status, result.step) == ("feasible", 4)
    verdict = result.final.set_index("domain").loc["odd"]
    assert verdict["change"] > 0
    assert verdict["kept"] is False


def test_base_weights_come_back_when_nothing_kept_the_constraints() -> None:
    handle = model()
    base = weights(handle)
    result = run(
        handle, Fixed(weights={"math": 1}, targets=["math"], constraints={"web": 0.0, "safety": 0.0})
    )
    assert (result.status, result.step) == ("infeasible", 0)
    assert same(weights(handle), base)
    assert (result.final["change"] == 0).all()
    assert best_by_table(result, {"web": 0.0, "safety": 0.0}, ["math"]) == 0


def test_base_weights_come_back_when_nothing_was_gained() -> None:
    handle = model()
    base = weights(handle)
    result = run(handle, Fixed(weights={"math": 1}, targets=["web"], constraints={"safety": 9.0}))
    assert (result.status, result.step) == ("no gain", 0)
    assert same(weights(handle), base)


def test_a_run_that_diverges_keeps_the_last_good_checkpoint() -> None:
    """Six steps are taken; the grid has read steps 1, 2 and 5."""
    handle, mixer = letters(breaks_at=7), Fixed(weights={"math": 1}, targets=["math"], constraints=LOOSE)
    result = run(handle, mixer)
    assert (result.status, result.step) == ("diverged", 5)
    assert evaluation_steps(12, 4) == (0, 1, 2, 5, 12)
    assert same(weights(handle), replay(letters(), result, QUICK))
    assert result.cost.training_steps == 6
    assert result.notes[0].startswith("Stopped at step 6 of 12: diverged: the loss or the gradient of step 6")
    assert result.mixtures.to_dict("records") == [{"step": 0, "math": 1.0, "code": 0.0, "web": 0.0}]


@pytest.mark.parametrize("constraints", [{}, LOOSE], ids=["free", "constrained"])
def test_steps_too_large_for_the_numbers_leave_the_base_weights(
    constraints: Mapping[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.train.settings.MOST_LR", math.inf)
    handle = model()
    base = weights(handle)
    mixer = Uniform(targets=["math"], constraints=constraints)
    result = run(handle, mixer, replace(QUICK, lr=1e30, clip_norm=None))
    assert (result.status, result.step) == ("diverged", 0)
    assert same(weights(handle), base)
    assert result.notes[0].startswith(
        "Stopped at step 1 of 12: diverged: the loss or the gradient of step 1 is"
    )


@pytest.mark.parametrize("constraints", [{}, LOOSE], ids=["free", "constrained"])
def test_divergence_that_only_the_last_reading_shows_is_called_so(
    constraints: Mapping[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.train.settings.MOST_LR", math.inf)
    handle = letters()
    base = weights(handle)
    mixer = Uniform(targets=["math"], constraints=constraints)
    result = run(handle, mixer, replace(QUICK, steps=1, lr=3e38, clip_norm=None))
    assert (result.status, result.step) == ("diverged", 0)
    assert same(weights(handle), base)
    assert "at step 1 is not finite" in result.notes[0]
    assert result.losses["loss_nats"].isna().any()


def test_a_run_that_diverges_at_its_first_step_says_with_which_mixture() -> None:
    result = run(letters(breaks_at=1), Uniform(targets=["math"]))
    assert (result.status, result.step) == ("diverged", 0)
    assert len(result.mixtures) == 1
    assert result.cost.training_steps == 0


# Probes that diverge


def test_a_domain_whose_probe_diverges_gets_no_weight_and_is_named() -> None:
    result = run(letters(breaks_on="e"), replace(PROBING, constraints=LOOSE))
    assert result.status == "feasible"
    assert (result.mixtures["code"] == 0).all()
    assert [update.slopes["code"].isna().all() for update in result.slopes] == [True] * 3
    assert [update.slopes["math"].notna().all() for update in result.slopes] == [True] * 3
    assert "Probes diverged at 3 updates, and got no weight there: code (3)." in result.notes


def test_when_every_probe_diverges_the_run_stops_with_the_base_weights() -> None:
    handle = letters(breaks_on="abcdefghijkl")
    base = weights(handle)
    result = run(handle)
    assert (result.status, result.step) == ("diverged", 0)
    assert same(weights(handle), base)
    assert result.notes == (
        "Stopped at step 0 of 12: diverged: every probe of step 0 diverged; try a lower lr.",
        WRITES_NOTHING,
    )
    assert result.cost.probe_steps > 0


# What is left alone


def test_the_callers_random_states_are_unchanged() -> None:
    handle = model(dropout=0.2)
    torch.manual_seed(7)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    run(handle)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]


@pytest.mark.parametrize("training", [True, False])
def test_every_part_of_the_model_keeps_its_mode(training: bool) -> None:
    handle = model()
    handle.module.train(training)
    handle.module.model.norm.train(not training)
    before = {name: part.training for name, part in handle.module.named_modules()}
    run(handle, Uniform(targets=["math"]), replace(QUICK, steps=2))
    assert {name: part.training for name, part in handle.module.named_modules()} == before


def test_the_mode_is_kept_also_when_the_run_fails() -> None:
    handle = model()
    handle.module.eval()
    handle.module.register_forward_hook(lambda module, *_: 1 / 0 if module.training else None)
    with pytest.raises(ZeroDivisionError):
        run(handle, Uniform(targets=["math"]))
    assert not handle.module.training


def test_frozen_parameters_are_not_touched() -> None:
    handle = letters()
    result = run(handle, Uniform(targets=["math"]))
    assert result.status == "feasible"
    assert handle.module.frozen.tolist() == [1, 1, 1]
    assert not handle.module.frozen.requires_grad
    assert handle.module.theta.grad is None


def test_a_lora_changes_the_adapter_alone() -> None:
    handle = model(adapter={"r": 2})
    base = weights(handle)
    result = run(handle, replace(PROBING, constraints=LOOSE), replace(QUICK, lr=3e-2))
    assert result.status == "feasible"
    after = weights(handle)
    changed = {name for name in base if not torch.equal(base[name], after[name])}
    assert changed
    assert all(".lora_" in name for name in changed)


def test_an_adapter_that_did_not_help_is_where_it_started() -> None:
    handle = model(adapter={"r": 2})
    base = weights(handle)
    tight = {"web": 0.0, "safety": 0.0, "facts": 0.0, "code": 0.0}
    result = run(
        handle, Fixed(weights={"math": 1}, targets=["math"], constraints=tight), replace(QUICK, lr=0.1)
    )
    assert result.status == "infeasible"
    assert same(weights(handle), base)


def test_without_a_folder_nothing_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run(letters(), Uniform(targets=["math"]))
    assert list(tmp_path.iterdir()) == []


# Seeds, labels, folders, progress


def test_the_seed_decides_everything_else() -> None:
    results = [run(model(dropout=0.1), seed=seed) for seed in (0, 0, 1)]
    first, again, other = (result.losses["loss_nats"].tolist() for result in results)
    assert first == again
    assert first != other
    np.testing.assert_array_equal(results[0].slopes[1].slopes, results[1].slopes[1].slopes)


def test_a_result_knows_its_config_and_its_name(tmp_path: Path) -> None:
    result = run(letters(), label="mine", seed=3, out=tmp_path / "run")
    assert result.label == "mine"
    assert result.config["seed"] == 3
    assert result.config["fit"]["lr"] == QUICK.lr
    assert result.config["mixer"]["constraints"] == {"web": 0.3, "safety": 0.3}
    assert result.config["train"] == list(TRAIN)
    assert run(letters(), Uniform(targets=["math"]), replace(QUICK, steps=1)).label == "uniform"


def test_a_config_of_the_callers_is_kept_instead(tmp_path: Path) -> None:
    result = run(letters(), Uniform(targets=["math"]), config={"mine": 1}, out=tmp_path / "run")
    assert result.config == {"mine": 1}


def test_a_run_folder_holds_what_a_run_folder_holds(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    run(letters(), out=out)
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {"config.yaml", "run.json", "metrics.jsonl", "timings.jsonl", "artifacts/result.json"} <= found
    assert {Path(name).suffix for name in found} <= {
        ".yaml",
        ".json",
        ".jsonl",
        ".safetensors",
        ".sha256",
        ".lock",
        "",
    }
    kept = sorted(path.name for path in (out / "artifacts").glob("weights-*"))
    assert len(kept) == 2
    assert kept[0] == "weights-00000000"


def test_progress_counts_real_and_trial_steps() -> None:
    seen: list[tuple[int, int]] = []
    result = run(letters(), progress=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {12 + result.cost.probe_steps}
    assert all(a <= b for (a, _), (b, _) in itertools.pairwise(seen))
    assert seen[-1][0] == seen[-1][1]


# Costs


def test_what_a_probing_run_books() -> None:
    """Updates at 0, 4 and 8, of which only 0 is on the grid (0, 1, 2, 5, 12); the cap of a run of 12 is 1 step."""
    result = run(letters())
    readings, domains, updates = 5, 5, 3
    grid = readings * domains * 8
    probes = updates * len(TRAIN) * domains * 4 + 2 * domains * 8
    assert (result.cost.training_steps, result.cost.probe_steps) == (12, 9)
    assert result.cost.evaluation_batches == (grid + probes) / 4
    assert result.cost.training_multiple == 21 / 12
    assert result.cost.all_in_multiple == pytest.approx(
        (21 + (grid + probes) / 12) / (12 + grid / 12), abs=1e-12
    )
    assert result.cost.solver_seconds == result.cost.seconds["solver"] > 0


def test_a_fixed_mixture_costs_one() -> None:
    cost = run(letters(), Replay(targets=["math"])).cost
    assert (cost.training_multiple, cost.all_in_multiple, cost.probe_steps) == (1.0, 1.0, 0)


def test_an_early_stop_costs_less_than_one() -> None:
    mixer = EarlyStoppedTarget(targets=["math"], constraints={"safety": 0.0}, patience=1)
    result = run(model(), mixer)
    assert result.cost.training_steps < 12
    assert result.cost.training_multiple < 1
    assert result.cost.all_in_multiple < 1
    assert result.notes == (
        f"Stopped at step {result.cost.training_steps} of 12: lost safety at 1 reading in a row.",
    )


# Shares that round to nothing


def test_a_weight_that_rounds_to_no_sequence_is_reported() -> None:
    mixer = Fixed(weights={"math": 1, "web": 0.005}, targets=["math"])
    result = run(letters(), mixer)
    assert result.notes == (
        "From step 0 to 12 the weight of web rounds to no sequence of 48.",
        WRITES_NOTHING,
    )


@pytest.mark.filterwarnings("ignore:Data. .* evaluation records of")
def test_data_stands_for_a_domain_wherever_one_is_expected(tmp_path: Path) -> None:
    short, texts_of_web = replace(QUICK, steps=1), texts("web", "train", 200)
    (tmp_path / "web.csv").write_text("text\n" + "\n".join(texts_of_web))
    frame = pd.DataFrame({"text": texts_of_web})
    expected = run(
        letters(),
        Uniform(targets=["math"]),
        short,
        train={"math": domain("math"), "web": Domain.from_dataset("web", texts_of_web)},
        evaluate={"held": Domain.from_dataset("held", texts_of_web, fractions=(0.0, 0.5, 0.5))},
    )
    for given in (frame, tmp_path / "web.csv"):
        data = {"math": domain("math"), "web": given}
        found = run(letters(), Uniform(targets=["math"]), short, train=data, evaluate={"held": given})
        assert found.losses.equals(expected.losses)


# Refusals: before any work, all at once, and nothing changed


def overlapping() -> Domain:
    some = texts("web", "train", 40)
    return Domain(
        "web", train=some, validation=texts("web", "validation", 8), test=[*texts("web", "test", 8), some[3]]
    )


SHORT = {"validation": texts("web", "validation", 8), "test": texts("web", "test", 8)}
REFUSED: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "unknown target": (
        ConfigProblems,
        r"targets: got 'mth', expected one of the domains 'math', .*; try 'math'",
        {"mixer": Uniform(targets=["mth"])},
    ),
    "no target": (ConfigProblems, r"targets: got no target", {"mixer": Uniform()}),
    "a text of targets": (
        ConfigProblems,
        r"targets: got the text 'math', expected a list of domains; try \['math'\]",
        {"mixer": Uniform(targets="math")},
    ),
    "target and constraint": (
        ConfigProblems,
        r"constraints\.math: got a target, expected a domain that is not a target",
        {"mixer": Uniform(targets=["math"], constraints={"math": 0.1})},
    ),
    "unknown constraint": (
        ConfigProblems,
        r"constraints\.safty: got 'safty', .*; try 'safety'",
        {"mixer": Uniform(targets=["math"], constraints={"safty": 0.1})},
    ),
    "negative tolerance": (
        ConfigProblems,
        r"constraints\.web: got -0\.1, expected a tolerance of zero or more, in nats per token",
        {"mixer": Uniform(targets=["math"], constraints={"web": -0.1})},
    ),
    "tolerance that is no number": (
        ConfigProblems,
        r"constraints\.web: got '5%', expected a tolerance of zero or more, .*; try a number",
        {"mixer": Uniform(targets=["math"], constraints={"web": "5%"})},  # type: ignore[dict-item]
    ),
    "a list of domains": (
        ConfigProblems,
        r"train: got a list, expected a mapping of names to domains",
        {"train": [domain("math")]},
    ),
    "a file that is not there": (
        DataError,
        r"domain 'web': got 'no such file\.csv', expected a file that exists",
        {"train": {**trainable(), "web": "no such file.csv"}},
    ),
    "zero steps": (
        ConfigProblems,
        r"fit\.steps: got 0, expected at least 1",
        {"fit": replace(QUICK, steps=0)},
    ),
    "misspelled schedule": (
        ConfigProblems,
        r"mixer\.schedule: got 'lite', .*; try 'light'",
        {"mixer": DynaMiCS(targets=["math"], schedule="lite")},  # type: ignore[arg-type]
    ),
    "unknown mixer weights": (
        ConfigProblems,
        r"mixer\.weights\.cod: got 'cod', expected one of the training domains .*; try 'code'",
        {"mixer": Fixed(weights={"cod": 1}, targets=["math"])},
    ),
    "one name twice": (
        ConfigProblems,
        r"evaluate\.web: got a domain of the same name in `train`, expected a new name; try leaving it out",
        {"evaluate": {"web": domain("web")}},
    ),
    "nothing to train on": (ConfigProblems, r"train: got no domain", {"train": {}}),
    "empty domain": (
        DataError,
        r"domain 'web', split 'train': got no record in .*, expected at least one",
        {"train": {**trainable(), "web": Domain("web", train=[], **SHORT)}},
    ),
    "domain shorter than a sequence": (
        DataError,
        r"domain 'web', split 'train': got .*, expected enough for one sequence of seq_len=16",
        {"train": {**trainable(), "web": Domain("web", train=["ij"], **SHORT)}},
    ),
    "domain shorter than a batch": (
        ConfigProblems,
        r"web, split train: got 3 sequences of 16 tokens, expected at least 4, one batch; try more data",
        {"train": {**trainable(), "web": Domain("web", train=["ijkl" * 14], **SHORT)}},
    ),
    "short texts that packing joins to less than a batch": (
        ConfigProblems,
        r"web, split train: got 1 sequences of 16 tokens, .* try packing: padded, more data, or a smaller seq",
        {"train": {**trainable(), "web": Domain("web", train=[f"ij{'kl' * n}" for n in range(4)], **SHORT)}},
    ),
    "domain without test split": (
        ConfigProblems,
        r"safety, split test: got 0 sequences of 16 tokens, expected at least 2",
        {"evaluate": {"safety": Domain("safety", validation=texts("safety", "validation", 8))}},
    ),
    "domain to train on without train split": (
        ConfigProblems,
        r"web, split train: got 0 sequences",
        {"train": {**trainable(), "web": domain("web", trainable=False)}},
    ),
    "train and test overlap": (
        DataError,
        r"domain 'web': got 1 records in both train and test .*, expected splits without a common record",
        {"train": {**trainable(), "web": overlapping()}},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_and_nothing_has_changed(case: str, tmp_path: Path) -> None:
    error, message, options = REFUSED[case]
    handle = letters()
    base, state = weights(handle), torch.get_rng_state()
    with pytest.raises(error, match=message):
        run(handle, **{"mixer": Uniform(targets=["math"]), "out": tmp_path / "run", **options})
    assert not (tmp_path / "run").exists()
    assert same(weights(handle), base)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("handle", "message"),
    [
        (
            lambda: load(tiny_models.build("bert"), tokenizer=tokenizer()),
            "got a BertModel, expected a causal language model",
        ),
        (
            lambda: load(tiny_models.build("llama")),
            "got a LlamaForCausalLM without tokenizer, expected tokenizer=",
        ),
    ],
    ids=["an encoder", "no tokenizer"],
)
def test_what_is_no_language_model_is_refused_first(
    handle: Callable[[], Model], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        run(handle(), Uniform(targets=["no domain either"]), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_mistake_is_told_at_once() -> None:
    mixer = Fixed(targets=["mth"], constraints={"web": -1.0}, target_mass=2.0)
    with pytest.raises(ConfigProblems) as caught:
        run(letters(), mixer, replace(QUICK, steps=0, lr=-1.0), evaluate={"web": domain("web")})
    found = {problem.where for problem in caught.value.problems}
    assert {"evaluate.web", "targets", "constraints.web", "mixer.target_mass", "fit.steps", "fit.lr"} <= found


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    run(letters(), Uniform(targets=["math"]), out=tmp_path / "run")
    handle = letters()
    base = weights(handle)
    with pytest.raises(CheckpointError, match=r"fit\.lr \(was 0\.003, now 0\.1\)"):
        run(handle, Uniform(targets=["math"]), replace(QUICK, lr=0.1), out=tmp_path / "run")
    assert same(weights(handle), base)
