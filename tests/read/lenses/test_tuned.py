"""The tuned lens: its start against least squares, its steps against autograd and torch's optimisers, its files."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lens_worlds import decoder, texts
from trimtab.errors import DivergedError, ModelError
from trimtab.models.batches import TokenRow
from trimtab.models.language import kl
from trimtab.models.load import load
from trimtab.models.readout import readout_of
from trimtab.numerics.bootstrap import Resampling
from trimtab.read.lenses.lens import LogitLens, Reading, lens_kl, text_states
from trimtab.read.lenses.tuned import PRESETS, Recipe, TunedLens, _Moments, _Stream


def stream(model: Any, given: list[str]) -> _Stream:
    rows = [model.need_tokenizer()(text)["input_ids"] for text in given]
    return _Stream(model, readout_of(model), given, rows, Reading(), 0)


def all_states(model: Any, given: list[str]) -> list[torch.Tensor]:
    parts = list(text_states(model, readout_of(model), given, Reading()))
    return [torch.cat(each) for each in zip(*(one.hidden for one in parts), strict=True)]


@pytest.mark.parametrize("name", ["gemma3_text", "gpt2"])
def test_it_is_closer_to_the_model_than_the_logit_lens_on_held_out_texts(name):
    model = decoder(name)
    lens = TunedLens.fit(model, texts(60), recipe=Recipe(steps=10, tokens=256))
    table = lens_kl(lens, model, texts(40, seed=1), resampling=Resampling(n_boot=200))
    assert (table.gain_low[:2] > 0).all()
    assert (table.kl_nats[:2] < 0.7 * table.logit_kl_nats[:2]).all()


def test_the_start_is_least_squares():
    model, given = decoder("gpt2"), texts(60)
    hidden = [one.double().numpy() for one in all_states(model, given)]
    lens = TunedLens.fit(model, given, recipe=Recipe(steps=0))
    for state in (0, 1):
        known = np.column_stack([hidden[state], np.ones(len(hidden[state]))])
        best = np.linalg.lstsq(known, hidden[-1], rcond=None)[0]
        mapped = hidden[state] + hidden[state] @ lens.weight[state].double().numpy().T
        mapped += lens.bias[state].double().numpy()
        error, least = (((one - hidden[-1]) ** 2).sum() for one in (mapped, known @ best))
        assert least <= error <= 1.001 * least


def test_no_step_from_zero_is_the_logit_lens():
    model, given = decoder(), texts(4)
    lens = TunedLens.fit(model, given, recipe=Recipe("zero", steps=0))
    hidden = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    for state in range(3):
        assert torch.equal(
            lens.log_probabilities(hidden, state), LogitLens(model).log_probabilities(hidden, state)
        )


def test_plain_steps_are_those_of_torch():
    """Full batches, so that the order of texts and tokens changes nothing."""
    model, given = decoder("qwen2"), texts(5)
    hidden, readout = all_states(model, given), readout_of(model)
    tokens = len(hidden[0])
    how = Recipe("zero", "sgd", whiten=False, steps=4, tokens=tokens, lr=0.1, weight_decay=1e-3, clip=0.5)
    lens = TunedLens.fit(model, given, recipe=how)
    maps = torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(2))
    for parameter in maps.parameters():
        torch.nn.init.zeros_(parameter)
    optimiser = torch.optim.SGD(maps.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / 4)
    target = readout.log_probabilities(hidden[-1]).detach()
    for _ in range(4):
        optimiser.zero_grad()
        for state, layer in enumerate(maps):
            said = readout.log_probabilities(hidden[state] + layer(hidden[state]))
            (target.exp() * (target - said)).sum(-1).mean().backward()
        torch.nn.utils.clip_grad_norm_(maps.parameters(), 0.5)
        optimiser.step()
        falling.step()
    for state, layer in enumerate(maps):
        torch.testing.assert_close(lens.weight[state], layer.weight.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(lens.bias[state], layer.bias.detach(), atol=1e-5, rtol=1e-4)


def test_white_coordinates_are_white_and_their_gradients_those_of_autograd():
    model, given = decoder("gpt2"), texts(60)
    moments, hidden = _Moments.of(stream(model, given), 10**6), all_states(model, given)
    frame, (start, shift) = moments.frame(), moments.ridge()
    errors = torch.stack([hidden[-1] - h - h @ start[n].T - shift[n] for n, h in enumerate(hidden[:2])])
    torch.testing.assert_close(frame.scale, errors.pow(2).mean(1).sqrt(), atol=1e-4, rtol=1e-2)
    white = (hidden[1] - frame.mean[1]) @ frame.whiten[1]
    torch.testing.assert_close(white.T @ white / len(white), torch.eye(16), atol=0.05, rtol=0)
    draw = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(2, 16, 16, generator=draw), torch.randn(2, 16, generator=draw)
    inner = [one.requires_grad_() for one in frame.inside(weight, bias)]
    outer = frame.outside(*inner)
    torch.testing.assert_close(outer[0], weight, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(outer[1], bias, atol=1e-3, rtol=1e-3)
    readout = readout_of(model)

    def loss(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        said = (readout.log_probabilities(h + h @ weight[n].T + bias[n]) for n, h in enumerate(hidden[:2]))
        target = readout.log_probabilities(hidden[-1]).detach()
        return sum(kl(target, one).mean() for one in said)

    expected = torch.autograd.grad(loss(*outer), inner)
    plain = [one.detach().requires_grad_() for one in outer]
    pulled = frame.pulled(*torch.autograd.grad(loss(*plain), plain))
    for ours, theirs in zip(pulled, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_the_same_seed_gives_the_same_lens_and_nothing_else_moves():
    model, given = decoder(), texts(20)
    state = torch.get_rng_state()
    seen: list[tuple[int, int]] = []
    how = Recipe(steps=3, tokens=40)
    lenses = [
        TunedLens.fit(model, given, recipe=how, seed=seed, progress=lambda *it: seen.append(it))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(lenses[0].weight, lenses[1].weight)
    assert not torch.equal(lenses[0].weight, lenses[2].weight)
    assert seen[:3] == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert not lenses[0].weight.requires_grad


def test_texts_are_cut():
    model, given = decoder(), [text + "x" * 80 for text in texts(4)]
    lens = TunedLens.fit(model, given, recipe=Recipe(steps=1, tokens=8), max_tokens=6)
    assert lens.weight.isfinite().all()
    with pytest.raises(ModelError, match="expected at most 64, the model's limit"):
        TunedLens.fit(model, given)


def test_the_published_recipe():
    assert PRESETS["paper"] == Recipe("zero", "sgd", False, 250, 262_144, 0.1, 1e-3, 1.0)


def test_it_is_saved_and_read(tmp_path):
    model = decoder("gemma2")
    lens = TunedLens.fit(model, texts(10), recipe=Recipe(steps=1, tokens=16))
    folder = lens.save_pretrained(tmp_path / "lens")
    read = TunedLens.from_pretrained(folder, model)
    assert torch.equal(read.weight, lens.weight)
    assert torch.equal(read.bias, lens.bias)
    assert read.made_by == json.loads(json.dumps(dict(lens.made_by)))
    again = lens.save_pretrained(folder)  # in the place of the old one
    assert sorted(path.name for path in again.iterdir()) == ["lens.safetensors", "lens_config.json"]
    half = load(decoder("gemma2").module.bfloat16(), tokenizer=model.tokenizer)
    assert torch.equal(TunedLens.from_pretrained(folder, half).weight, lens.weight)


@pytest.fixture
def saved(tmp_path):
    lens = TunedLens.fit(decoder(), texts(10), recipe=Recipe(steps=0))
    return lens.save_pretrained(tmp_path / "lens")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: decoder(num_hidden_layers=1), "got a lens of 3 states of width 16, expected 2 of width 16"),
        (lambda: decoder("gpt2"), "got a lens fitted to a model with another final norm or unembedding"),
        (lambda: decoder(hidden_size=32), "got a lens of 3 states of width 16, expected 3 of width 32"),
    ],
)
def test_another_model_is_refused(saved, model, message):
    with pytest.raises(ModelError, match=message):
        TunedLens.from_pretrained(saved, model())


def spoil(folder, what):
    config = json.loads((folder / "lens_config.json").read_text())
    if what == "bytes":
        with (folder / "lens.safetensors").open("r+b") as file:
            file.seek(-4, 2)
            file.write(b"\0\0\x80\x7f")
        return
    changes = {"schema": {"schema": 9}, "kind": {"lens": "jacobian"}, "sha": {"sha256": 3}}
    config |= changes.get(what, {})
    (folder / "lens_config.json").write_text("{" if what == "json" else json.dumps(config))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "bytes",
            "cut short or changed after it was saved, expected the one whose SHA-256 is in lens_config.json",
        ),
        ("schema", "got schema 9 by trimtab .*, expected schema 1; try another version of trimtab"),
        ("kind", "got a jacobian lens, expected a tuned lens; try JacobianLens.from_pretrained"),
        ("sha", "got sha256 3, expected a str"),
        ("json", "damaged text in .*lens_config.json"),
    ],
)
def test_damaged_files_are_refused(saved, what, message):
    spoil(saved, what)
    with pytest.raises(ModelError, match=message):
        TunedLens.from_pretrained(saved, decoder())


def test_values_that_are_not_finite_are_neither_written_nor_read(tmp_path, saved):
    lens = TunedLens.from_pretrained(saved, decoder())
    lens.weight[1, 2, 3] = torch.nan
    with pytest.raises(
        ModelError, match="tuned lens: got values that are not finite, at state 1, expected numbers"
    ):
        lens.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    import hashlib

    save_file({"weight": lens.weight, "bias": lens.bias}, saved / "lens.safetensors")
    config = json.loads((saved / "lens_config.json").read_text())
    config["sha256"] = hashlib.sha256((saved / "lens.safetensors").read_bytes()).hexdigest()
    (saved / "lens_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="got values that are not finite, at state 1"):
        TunedLens.from_pretrained(saved, decoder())


def test_a_folder_with_other_things_is_not_written_over(tmp_path, saved):
    lens = TunedLens.from_pretrained(saved, decoder())
    (tmp_path / "params.pt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"with '.*' in it, which would be lost, expected a new folder"):
        lens.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"params\.pt is a pickle, which can run any code"):
        TunedLens.from_pretrained(tmp_path, decoder())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TunedLens.fit(decoder(), ["abc"]), "got 1 text to fit a lens to, expected at least two"),
        (lambda: TunedLens.fit(decoder(), "abc"), "got one string, expected a list of texts"),
        (lambda: TunedLens.fit(decoder(), ["abc", ""]), "which has no token, expected at least one token"),
        (lambda: TunedLens.fit(decoder(), texts(2), preset="papre"), "preset: got 'papre', .*; try 'paper'"),
        (lambda: Recipe("rigde"), "start: got 'rigde', expected one of .*; try 'ridge'"),
        (lambda: Recipe(optimiser="adamw"), "optimiser: got 'adamw', expected one of .*; try 'adam'"),
        (lambda: Recipe(tokens=0), "tokens: got 0, expected a number of at least 1"),
        (lambda: Recipe(lr=float("nan")), "lr: got nan, expected a number of at least 0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ModelError, match=message):
        call()


def test_a_fit_that_diverges_says_so():
    how = Recipe("zero", "sgd", whiten=False, steps=3, tokens=16, lr=1e38)
    with pytest.raises(DivergedError, match=r"gradients that are not finite in step \d, .* below 1e\+38"):
        TunedLens.fit(decoder("gpt2"), texts(4), recipe=how)


def test_rows_of_tokens_are_read_as_they_are():
    model = decoder()
    (states,) = text_states(model, readout_of(model), [TokenRow([5, 6, 7])], Reading())
    assert len(states) == 3
