from __future__ import annotations

import pytest
import torch
from torch import nn

from sites_of_models import doubled, sites
from tiny_models import DECODERS, NINE, build, inputs, tokenizer
from trimtab.errors import ModelError, ShapeError
from trimtab.models.hooks import intervene
from trimtab.models.load import load


def overflow(h):
    return h * torch.inf + torch.nan


def halve(h):
    return 0.5 * h + 0.1


def on(module, name, change, strength=1.0):
    patterns = sites(name)
    return intervene(
        module, dict.fromkeys([patterns] if isinstance(patterns, str) else patterns, change), strength
    )


@pytest.mark.parametrize("name", NINE)
@pytest.mark.parametrize("change", [overflow, halve])
def test_at_strength_zero_the_model_is_bit_identical(name, change):
    module, given = build(name), inputs(name, 3)
    with torch.no_grad():
        plain = module(**given)
        with on(module, name, change, 0.0):
            steered = module(**given)
    assert torch.equal(plain[0], steered[0])
    assert torch.isfinite(plain[0]).all()


@pytest.mark.parametrize("name", [name for name in NINE if name != "clip"])
def test_rows_at_strength_zero_are_bit_identical_also_where_the_map_overflows(name):
    module, given = build(name), inputs(name, 3)
    with torch.no_grad():
        plain = module(**given)[0]
        with on(module, name, overflow, torch.tensor([0.0, 0.7, 0.0])):
            steered = module(**given)[0]
    assert torch.equal(plain[::2], steered[::2])
    assert not torch.isfinite(steered[1]).all()


@pytest.mark.parametrize("name", NINE)
def test_strengths_per_row_are_those_of_each_row_alone(name):
    module, given = build(name).double(), inputs(name, 3)
    given = {
        k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in given.items()
    }
    strengths = torch.tensor([0.3, 0.0, 1.0])
    with torch.no_grad():
        with on(module, name, halve, strengths):
            together = _last(module(**given))
        for row, strength in enumerate(strengths.tolist()):
            with on(module, name, halve, strength):
                alone = _last(module(**given))
            torch.testing.assert_close(together[row], alone[row], rtol=1e-9, atol=1e-9)


def _last(out):
    """The main output; of CLIP both towers' embeddings, which do not mix rows."""
    return torch.cat([out.text_embeds, out.image_embeds], 1) if hasattr(out, "image_embeds") else out[0]


@pytest.mark.parametrize("name", NINE)
def test_nothing_of_the_model_changes_and_hooks_are_gone(name):
    module, given = build(name), inputs(name)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with torch.no_grad():
        plain = module(**given)
        with on(module, name, halve):
            assert list(module.state_dict()) == list(before)
            steered = module(**given)
        again = module(**given)
    assert list(module.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert torch.equal(plain[0], again[0])
    assert not torch.equal(plain[0], steered[0])
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


@pytest.mark.parametrize("name", DECODERS)
def test_hooks_are_gone_after_an_exception_inside_generate(name):
    model = load(build(name), tokenizer=tokenizer())
    plain = model.generate(["abc", "de"], max_new_tokens=5)
    calls = []

    def fails(h):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("boom")
        return h

    with pytest.raises(RuntimeError, match="boom"), intervene(model, {"residual.1": fails}):
        model.generate(["abc", "de"], max_new_tokens=5)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())
    assert model.generate(["abc", "de"], max_new_tokens=5) == plain


@pytest.mark.parametrize("name", DECODERS)
def test_cached_generation_equals_uncached(name):
    module = build(name)
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    keys = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False}
    with intervene(module, {"residual.0": halve, "mlp_out.1": halve}, 0.8):
        cached = module.generate(**keys, use_cache=True, pad_token_id=2)
        uncached = module.generate(**keys, use_cache=False, pad_token_id=2)
    assert torch.equal(cached, uncached)


@pytest.mark.parametrize("name", [*DECODERS, "bert"])
def test_padding_on_either_side_gives_the_same(name):
    module = doubled(build(name), name)
    draw = torch.Generator().manual_seed(5)
    rows = [torch.randint(3, 64, (n,), generator=draw) for n in (4, 7, 2)]
    with torch.no_grad(), on(module, name, halve, 0.6):
        left, right = (_valid(module, rows, side) for side in ("left", "right"))
    for one, two in zip(left, right, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)


def _valid(module, rows, side):
    width = max(map(len, rows))
    ids, mask = torch.ones(3, width, dtype=torch.long), torch.zeros(3, width, dtype=torch.long)
    for k, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[k, where], mask[k, where] = row, 1
    out = module(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))[0]
    return [out[k][mask[k] == 1] for k in range(3)]


def test_it_is_the_change_made_by_hand():
    """Steering the residual after block 0 is block 1 run on changed inputs."""
    module, given = build("gpt2"), inputs("gpt2")
    with torch.no_grad():
        with intervene(module, {"residual.0": halve}, 0.4):
            out = module(**given).logits
        with intervene(module, {"h.1:in": lambda h: h + 0.4 * (halve(h) - h)}):
            by_hand = module(**given).logits
    torch.testing.assert_close(out, by_hand, rtol=1e-5, atol=1e-6)


def test_the_outer_block_acts_first():
    module, given = build("llama"), inputs("llama")
    with torch.no_grad():
        with (
            intervene(module, {"residual.0": lambda h: 2 * h}),
            intervene(module, {"residual.0": lambda h: h + 1}),
        ):
            nested = module(**given).logits
        with intervene(module, {"residual.0": lambda h: 2 * h + 1}):
            composed = module(**given).logits
    torch.testing.assert_close(nested, composed, rtol=1e-6, atol=1e-6)


def test_gradients_flow_through_and_into_interventions():
    module, given = build("llama").requires_grad_(False), inputs("llama")
    scale = nn.Parameter(torch.ones(16))
    with intervene(module, {"residual.0": lambda h: h * scale}):
        module(**given).logits.square().mean().backward()
    assert scale.grad.abs().min() > 0


def test_an_adapter_takes_the_same_names():
    plain, given = build("llama"), inputs("llama")
    tuned = load(build("llama"), tokenizer=tokenizer(), adapter={"r": 2})
    change = {"model.layers.1.mlp.down_proj:out": halve}
    with torch.no_grad():
        with intervene(plain, change):
            expected = plain(**given).logits
        with intervene(tuned, change):
            seen = tuned.module(**given).logits
    torch.testing.assert_close(seen, expected, rtol=1e-6, atol=1e-6)


def test_half_precision_stays_half_precision():
    module, given = build("llama").to(torch.bfloat16), inputs("llama")
    wide = torch.ones(16, dtype=torch.float32)
    with torch.no_grad(), intervene(module, {"residual.0": lambda h: h * wide}, torch.tensor([0.5, 1.0])):
        assert module(**given).logits.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "strength", "error", "message"),
    [
        (halve, 1.5, ModelError, r"strength: got 1.5, expected numbers in \[0, 1\]"),
        (halve, -0.1, ModelError, r"strength: got -0.1"),
        (halve, float("nan"), ModelError, "strength: got nan"),
        (halve, torch.tensor([0.0, 2.0]), ModelError, "strength: got values from 0 to 2"),
        (halve, torch.zeros(2, 2), ModelError, r"strength: got shape \(2, 2\)"),
        (halve, torch.ones(3), ShapeError, "site model.layers.0:out: got 3 strengths for a batch of 2 rows"),
        (lambda h: h[:, :1], 1.0, ShapeError, "got shape .* from an intervention"),
    ],
)
def test_what_does_not_fit_is_refused(change, strength, error, message):
    module = build("llama")
    with pytest.raises(error, match=message), intervene(module, {"residual.0": change}, strength):
        module(**inputs("llama"))
    assert not any(part._forward_hooks for part in module.modules())


def test_an_intervention_that_never_fired_raises():
    module = build("llama")
    with (
        pytest.raises(
            ModelError, match=r"an intervention that never ran at model.layers.0:out, model.layers.1:out"
        ),
        intervene(module, {"residual": halve}),
    ):
        pass
    with (
        pytest.raises(ModelError, match=r"never ran at model.layers:out"),
        intervene(module, {"layers": halve}),
    ):
        module(**inputs("llama"))


def test_two_interventions_for_one_site_are_refused():
    both = intervene(build("llama"), {"residual": halve, "layers.0": halve})
    with pytest.raises(ModelError, match="got two interventions, expected one"), both:
        pass


def test_a_compiled_model_is_refused():
    module = build("llama")
    module.compile()
    with pytest.raises(ModelError, match="would ignore hooks"), intervene(module, {"layers.0": halve}):
        pass
