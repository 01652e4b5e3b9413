from __future__ import annotations

import pytest
import torch
from torch import nn

from behaviours import posed, sides
from tiny_models import build, tokenizer
from trimtab import LinEAS, load
from trimtab.errors import CheckpointError, ConfigProblems, DivergedError
from trimtab.steer.lineas.lineas import PRESETS

WEIGHT = torch.tensor([1.0, 0.5, 2.0, 1.5])
PLACE, SIZE = torch.tensor([0.0, 1.0, -5.0, 90.0]), torch.tensor([1.0, 2.0, 0.1, 30.0])
SHIFT = (1 - WEIGHT) * PLACE + SIZE * torch.tensor([0.0, 3.0, -1.0, 2.0])
EASY = [
    *("llama", "qwen3", "gemma3_text", "gpt2", "gpt_neox", "bert"),
    *("clip", "unet", "pixart"),
]
FEW = {
    "unet": "mid_block.resnets.*.norm1",
    "clip": ["text_model.*.*.*.mlp", "vision_model.*.*.*.mlp"],
    "bert": "residual",
}
FEW |= {"pixart": "transformer_blocks.*.norm[12]"}


def planted(n=24, m=24):
    """A network whose first site is its input, and a target that is the source under a known map, in another order."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Identity(), nn.Linear(4, 3))
        rows = PLACE + SIZE * torch.randn(n, 4)
        order = torch.randperm(n)[:m]
    return network, [{"input": rows}], [{"input": (WEIGHT * rows + SHIFT)[order]}]


# What it finds


def test_a_planted_map_is_recovered_where_units_differ_in_scale_and_offset():
    network, source, target = planted()
    steering = LinEAS("0", gamma=0.0, lr=0.1, steps=300).fit(network, source, target)
    weight, shift = steering.maps["0:out"]
    torch.testing.assert_close(weight, WEIGHT, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(shift, SHIFT, rtol=1e-2, atol=0.2)
    before, after = steering.made_by["cost"]["0:out"]
    assert after < 1e-5 < 1 < before
    assert len(steering.made_by["losses"]) == 300


def test_costs_fall_at_every_site_and_are_measured_where_that_is_asked_for():
    network, source, target = planted()
    both = LinEAS(["0", "1"], gamma=0.0, lr=0.1, steps=150).fit(network, source, target).made_by["cost"]
    alone = LinEAS("0", steps=5, loss_sites=["0", "1"]).fit(network, source, target).made_by["cost"]
    assert list(both) == list(alone) == ["0:out", "1:out"]
    assert all(after < before / 10 for before, after in both.values())
    assert alone["1:out"][0] == both["1:out"][0]


@pytest.mark.parametrize("name", EASY)
def test_a_few_steps_lower_the_loss_of_every_kind_of_model(name):
    model, source, target = posed(name)
    steering = LinEAS(FEW.get(name, "pre_mlp_norm"), steps=6, lr=0.05).fit(model, source, target)
    losses, costs = steering.made_by["losses"], steering.made_by["cost"].values()
    assert losses[-1] < 0.8 * losses[0]
    assert sum(after for _, after in costs) < 0.8 * sum(before for before, _ in costs)


@pytest.mark.parametrize("p", [1.0, 3.0])
def test_other_orders_find_the_planted_map_too(p):
    network, source, target = planted()
    made_by = LinEAS("0", gamma=0.0, lr=0.1, steps=150, p=p).fit(network, source, target).made_by
    before, after = made_by["cost"]["0:out"]
    assert after < before / 50
    assert made_by["losses"][-1] < made_by["losses"][0] / 20


def test_the_paper_s_settings_follow_its_equations():
    settled = LinEAS("0", preset="paper", steps=50).settled()
    chosen = (settled.gamma, settled.steps, settled.lr, settled.normalisation, settled.optimizer)
    assert chosen == (0.0, 50, 0.1, "paper", "sgd")
    assert PRESETS["paper"]["steps"] == 1000
    network = nn.Sequential(nn.Identity())
    source, target = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [7.0]])
    steering = LinEAS("0", preset="paper", steps=1).fit(network, [{"input": source}], [{"input": target}])
    weight, shift = steering.maps["0:out"]
    # d/dw mean (w z - y)^2 = 2 mean(z (z - y)) = -10 and d/db = -10, at a step of .1
    assert (weight.item(), shift.item()) == (pytest.approx(2.0), pytest.approx(1.0))
    assert steering.made_by["losses"] == [25.0]


def test_the_larger_gamma_the_fewer_units_are_touched_and_the_planted_ones_last():
    draw = torch.Generator().manual_seed(0)
    rows, others = torch.randn(2, 400, 20, generator=draw)
    moved = others + 3.0 * (torch.arange(20) < 4)
    network, left_alone = nn.Sequential(nn.Identity()), []
    for gamma in (0.0, 0.2, 1.0, 100.0):
        steering = LinEAS("0", gamma=gamma, lr=0.1, steps=100).fit(
            network, [{"input": rows}], [{"input": moved}]
        )
        weight, shift = steering.maps["0:out"]
        alone = (weight == 1) & (shift == 0)
        left_alone.append(int(alone.sum()))
        if gamma == 1.0:
            assert alone.tolist() == [False] * 4 + [True] * 16
    assert left_alone[0] == 0
    assert left_alone == sorted(left_alone)
    assert left_alone[-1] == 20


def test_stopped_gradients_fit_each_site_by_itself():
    network, source, target = planted()
    local = LinEAS(["0", "1"], gamma=0.0, stop_gradient=True, steps=40).fit(network, source, target)
    alone = LinEAS("0", gamma=0.0, steps=40).fit(network, source, target)
    for mine, expected in zip(local.maps["0:out"], alone.maps["0:out"], strict=True):
        torch.testing.assert_close(mine, expected)
    end_to_end = LinEAS(["0", "1"], gamma=0.0, steps=40).fit(network, source, target)
    assert not torch.allclose(end_to_end.maps["0:out"][0], local.maps["0:out"][0], rtol=1e-3)


def test_progress_is_told_of_every_step():
    told = []
    network, source, target = planted()
    LinEAS("0", steps=3).fit(network, source, target, progress=lambda *now: told.append(now))
    assert [(step, steps) for step, steps, _ in told] == [(1, 3), (2, 3), (3, 3)]
    assert all(isinstance(loss, float) for *_, loss in told)


# A kill


class Killed(BaseException):
    pass


def killed_at(last):
    def progress(step, _steps, _loss):
        if step == last:
            raise Killed

    return progress


@pytest.mark.parametrize("gamma", [0.0, 0.2])
def test_a_killed_fit_goes_on_to_the_same_maps_bit_by_bit(tmp_path, gamma):
    network, source, target = planted()
    estimator = LinEAS(["0", "1"], gamma=gamma, steps=60)
    whole = estimator.fit(network, source, target)
    for last in (57, 59):
        with pytest.raises(Killed):
            estimator.fit(network, source, target, out=tmp_path, progress=killed_at(last))
    told = []
    resumed = estimator.fit(
        network, source, target, out=tmp_path, progress=lambda step, *_: told.append(step)
    )
    assert told == list(range(51, 61))
    assert resumed.made_by == whole.made_by
    for site, maps in whole.maps.items():
        assert all(map(torch.equal, resumed.maps[site], maps))
    again = estimator.fit(network, source, target, out=tmp_path, progress=killed_at(60))
    assert torch.equal(again.maps["0:out"][0], whole.maps["0:out"][0])
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json"}


def test_a_folder_of_another_fit_is_refused(tmp_path):
    model, (source, target) = load(build("llama"), tokenizer=tokenizer()), sides()
    LinEAS("residual", steps=2).fit(model, source, target, out=tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    message = r"holds another fit: settings.lr \(was 0.\d+, now 0.2\); try another folder"
    with pytest.raises(CheckpointError, match=message):
        LinEAS("residual", steps=2, lr=0.2).fit(model, source, target, out=tmp_path)
    with pytest.raises(CheckpointError, match=r"another fit: source \(was"):
        LinEAS("residual", steps=2).fit(model, source[1:], target, out=tmp_path)
    other = load(build("llama", seed=1), tokenizer=tokenizer())
    with pytest.raises(CheckpointError, match=r"another fit: model \(was"):
        LinEAS("residual", steps=2).fit(other, source, target, out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


# Refusals


def test_a_loss_that_leaves_the_numbers_says_where_and_what_to_do():
    network, source, target = planted()
    message = (
        r"LinEAS: the loss of step \d+ or its gradient is not finite \(the last finite loss was .* at step \d+\); "
        r'try a lower lr than 1e\+06, or normalisation="scale-free"'
    )
    with pytest.raises(DivergedError, match=message):
        LinEAS("0", preset="paper", lr=1e6, steps=50).fit(network, source, target)
    with pytest.raises(DivergedError, match="the loss of step 1 or its gradient is not finite"):
        LinEAS("0", preset="paper", lr=1e38, steps=1).fit(network, source, target)


def test_a_fit_that_ends_worse_than_it_began_says_so():
    network, source, target = planted()
    message = r"LinEAS: the mean cost rose from [\d.]+ to [\d.e+]+ in 3 steps; try a lower lr than 30, or more steps"
    with pytest.warns(UserWarning, match=message):
        LinEAS("0", gamma=0.0, lr=30.0, steps=3).fit(network, source, target)
    LinEAS("0", gamma=0.0, lr=0.1, steps=3).fit(network, source, target)  # a warning would be an error


def test_a_gradient_that_leaves_the_numbers_is_told_too():
    class Root(nn.Module):
        def forward(self, x):
            return (x - x).abs().sqrt() + x

    network = nn.Sequential(nn.Identity(), Root())
    source, target = ([{"input": torch.randn(4, 3)}] for _ in range(2))
    with pytest.raises(
        DivergedError, match=r"the loss of step 0 or its gradient is not finite \(at the start\)"
    ):
        LinEAS("0", gamma=0.1, loss_sites="1").fit(network, source, target)


def test_settings_that_cannot_work_are_told_at_once():
    wrong = LinEAS(
        "0",
        gamma=-1.0,
        steps=0,
        lr=0.0,
        p=0.5,
        optimizer="adm",
        batch_size=0,
        stop_gradient=True,
        loss_sites="1",
    )
    with pytest.raises(ConfigProblems) as caught:
        wrong.fit(nn.Linear(2, 2), [], [])
    told = {problem.where for problem in caught.value.problems}
    assert told == {"gamma", "steps", "lr", "p", "optimizer", "batch_size", "loss_sites"}
    assert "optimizer: got 'adm', expected 'adam' or 'sgd'; try 'adam'" in str(caught.value)
