"""What a fitted hypernetwork does to concepts that it never saw, a kill, and what is refused."""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny_generator as tiny
from behaviours import texts
from tiny_generator import SMALL, settings
from tiny_models import build, tokenizer
from trimtab import HyperTransport, load
from trimtab.errors import CheckpointError, ConfigProblems, DataError, DivergedError, ModelError
from trimtab.models.sites import resolve
from trimtab.steer.hypertransport.hypertransport import PRESETS
from trimtab.steer.hypertransport.network import HyperNetwork, Sizes
from trimtab.steer.hypertransport.training import prompt_examples
from trimtab.steer.maps import AffineMap
from trimtab.steer.samples import Scale, samples, unit_costs


def distances(steering, name):
    """Distance to the concept, of source prompts before and after, summed over units in source deviations."""
    model, sites = tiny.handle(), resolve(tiny.handle(), "norm")
    source = prompt_examples(model, "s", tiny.source(), seed=5, batch_size=64)
    target = prompt_examples(model, "t", tiny.prompts(*name.split(), 64), seed=6, batch_size=64)
    maps = {site: AffineMap(*pair) for site, pair in steering.maps.items()}
    before, after = samples(model, source, sites, "mean"), samples(model, source, sites, "mean", maps)
    wanted, scale = samples(model, target, sites, "mean"), Scale.of(*[before["norm:out"]] * 2, "scale-free")
    return [
        float(unit_costs(one["norm:out"], wanted["norm:out"], scale, 1.0).sum()) for one in (before, after)
    ]


@pytest.mark.parametrize("name", sorted(tiny.HELD_OUT))
def test_a_concept_never_seen_comes_nearer_than_by_the_maps_of_another(trained, name):
    other = next(one for one in sorted(tiny.HELD_OUT) if one != name)
    (before, after), (_, misled) = distances(trained(name), name), distances(trained(other), name)
    assert after < 0.6 * before
    assert misled > 1.3 * after


def test_the_loss_falls(trained):
    assert sum(trained.losses[-30:]) < 0.6 * sum(trained.losses[:30])
    assert len(trained.losses) == 200


def test_pictures_are_conditions_although_training_had_none(trained):
    """Without centres the gap between texts and pictures would make all pictures look alike."""
    right, uncentred, encoder = 0, 0, trained.conditions.encoder
    said = torch.cat([encoder.texts([name]) for name in trained.concepts])
    for place, name in enumerate(trained.concepts):
        pictures = tiny.handle().generate(tiny.prompts(*name.split()), seed=9)
        right += trained(pictures).made_by["nearest_concept"] == name
        uncentred += int((said @ encoder.pictures(pictures).mean(0)).argmax()) == place
    assert right > 2 * len(said) / 3
    assert uncentred < right


@pytest.mark.parametrize("alias", ["pre_mlp_norm", "residual"])
def test_a_language_model_is_steered_by_its_own_embeddings(alias):
    model = load(build("llama"), tokenizer=tokenizer())
    concepts = {letters: texts(letters, 12) for letters in ("abcd", "efgh", "ijkl")}
    hyper = HyperTransport(sites=alias, encoder="self", sizes=SMALL, steps=30, lr=0.01)
    fitted = hyper.fit(model, concepts, texts("abcdefghijkl", 12))
    assert sum(fitted.losses[-12:]) < 0.95 * sum(fitted.losses[:12])
    with fitted("abab").on(model, 0.5):
        steered = model.generate(["ab"], max_new_tokens=3)
    assert isinstance(steered[0], str)
    assert fitted.novelty(concepts["abcd"]) == pytest.approx(0, abs=1e-5)


def test_padding_changes_no_map():
    """One text at a time none is padded; all at once most are."""
    model, found = load(build("llama"), tokenizer=tokenizer()), []
    concepts = {letters: texts(letters, 8) for letters in ("abcd", "efgh")}
    for size in (1, 32):
        hyper = HyperTransport("residual", sizes=SMALL, steps=3, batch_size=size)
        found.append(hyper.fit(model, concepts, texts("abcdefgh", 8)))
    alone, together = found
    assert together.losses == pytest.approx(alone.losses, rel=1e-5)
    torch.testing.assert_close(together("ab").maps, alone("ab").maps, rtol=1e-3, atol=1e-4)


def test_without_training_every_map_is_the_identity(trained):
    fresh = HyperNetwork(trained.network.widths, trained.network.embedding, SMALL)
    weight, shift = replace(trained, network=fresh)("red cross").maps["norm:out"]
    assert torch.equal(weight, torch.ones_like(weight))
    assert torch.equal(shift, torch.zeros_like(shift))


def test_at_strength_0_pictures_are_bit_identical_and_at_1_they_are_not(trained):
    generator, prompts = tiny.handle(), tiny.source()[:6]
    batch = generator.prompt_batches(prompts, seed=0, batch_size=8)[0]
    untouched = generator.module(**batch)
    for strength, same in ((0.0, True), (1.0, False)):
        with trained("red disc").on(generator, strength):
            assert torch.equal(generator.module(**batch), untouched) is same
    rows = torch.tensor([0.0, 1.0] * 3)
    with trained("red disc").on(generator, rows):
        mixed = generator.module(**batch)
    assert torch.equal(mixed[::2], untouched[::2])
    assert not torch.allclose(mixed[1::2], untouched[1::2])


def test_the_generator_is_untouched():
    generator = tiny.handle()
    generator.module.train()
    before = copy.deepcopy(generator.module.state_dict())
    state = torch.random.get_rng_state()
    settings().fit(generator, tiny.concepts(), tiny.source())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in generator.module.state_dict().items())
    assert all(one.requires_grad and one.grad is None for one in generator.module.parameters())
    assert all(part.training for part in generator.module.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in generator.module.modules())


def test_progress_is_told_of_every_step():
    told = []
    settings().fit(tiny.handle(), tiny.concepts(), tiny.source(), progress=lambda *now: told.append(now))
    assert [(step, steps) for step, steps, _ in told] == [(k, 4) for k in range(1, 5)]


def test_the_paper_s_settings_are_those_it_states():
    settled = HyperTransport(preset="paper", encoder="x").settled(610)
    assert (settled.lr, settled.examples, settled.concepts_per_step) == (1e-4, 32, 8)
    assert settled.steps == -(-300 * 610 // 8)
    assert (settled.normalisation, settled.conditions, settled.with_names) == ("paper", "all", False)
    assert set(PRESETS["paper"]) == set(PRESETS["default"])
    assert HyperTransport(preset="paper", steps=7).settled(610).steps == 7


# A kill


class Killed(BaseException):
    pass


def killed_at(last):
    def progress(step, _steps, _loss):
        if step == last:
            raise Killed

    return progress


def same(one, other):
    pairs = zip(one.network.state_dict().values(), other.network.state_dict().values(), strict=True)
    return one.losses == other.losses and all(torch.equal(*pair) for pair in pairs)


def test_a_killed_fit_goes_on_to_the_same_network_bit_by_bit(tmp_path):
    hyper, given = settings(steps=120), (tiny.handle(), tiny.concepts(), tiny.source())
    whole = hyper.fit(*given)
    with pytest.raises(Killed):
        hyper.fit(*given, out=tmp_path, progress=killed_at(110))
    told = []
    resumed = hyper.fit(*given, out=tmp_path, progress=lambda step, *_: told.append(step))
    assert told == list(range(101, 121))
    assert same(resumed, whole)
    again = hyper.fit(*given, out=tmp_path, progress=killed_at(1))
    assert same(again, whole)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json"}


PROGRAM = """
import os, signal, sys
import tiny_generator as tiny
hyper = tiny.settings(steps=120)
kill = lambda step, *_: step == int(sys.argv[2]) and os.kill(os.getpid(), signal.SIGKILL)
hyper.fit(tiny.handle(), tiny.concepts(), tiny.source(), out=sys.argv[1], progress=kill)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_a_fit_that_goes_on(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(Path(tiny.__file__).parent)!r})\n{PROGRAM}"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), "105"], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    hyper, given = settings(steps=120), (tiny.handle(), tiny.concepts(), tiny.source())
    assert same(hyper.fit(*given, out=tmp_path), hyper.fit(*given))


def test_a_folder_of_another_fit_is_refused(tmp_path):
    given = (tiny.handle(), tiny.concepts(), tiny.source())
    settings().fit(*given, out=tmp_path)
    with pytest.raises(
        CheckpointError, match=r"holds another fit: settings.lr \(was 0.001, now 0.2\); try another"
    ):
        settings(lr=0.2).fit(*given, out=tmp_path)
    with pytest.raises(CheckpointError, match=r"another fit: prompts \(was"):
        settings().fit(given[0], given[1], given[2][1:], out=tmp_path)
    with torch.no_grad():
        given[0].module.words.bias += 1
    with pytest.raises(CheckpointError, match=r"another fit: model \(was"):
        settings().fit(*given, out=tmp_path)


# Refusals


def test_settings_that_cannot_work_are_told_at_once():
    wrong = settings(
        p=3,
        steps=0,
        lr=0.0,
        examples=0,
        concepts_per_step=0,
        batch_size=0,
        seed=-1,
        sizes=Sizes(key=0),
        pool="men",
    )
    with pytest.raises(ConfigProblems) as caught:
        wrong.fit(None, {}, [])
    told = {problem.where for problem in caught.value.problems}
    expected = {
        "p",
        "steps",
        "lr",
        "examples",
        "concepts_per_step",
        "batch_size",
        "seed",
        "sizes.key",
        "pool",
    }
    assert told == expected
    assert "p: got 3, expected 1 or 2" in str(caught.value)


def test_settings_of_another_type_are_told():
    with pytest.raises(
        ConfigProblems, match="encoder: got a int, expected a folder, a hub name, a loaded model"
    ):
        settings(encoder=3).fit(None, {}, [])
    with pytest.raises(ConfigProblems, match=r"sizes: got a dict, expected Sizes\(...\)"):
        settings(sizes={"key": 3}).fit(None, {}, [])
    with pytest.raises(ConfigProblems, match=r"p: got 1.5, expected a whole number"):
        settings(p=1.5).fit(None, {}, [])


def test_what_is_wrong_is_told_before_work_starts():
    generator, concepts, source = tiny.handle(), tiny.concepts(), tiny.source()

    def told(*_):
        raise AssertionError("a step was taken")

    with pytest.raises(ModelError, match=r"site 'nrm': got a pattern that matches no module, .*'norm'"):
        settings(sites="nrm").fit(generator, concepts, source, progress=told)
    with pytest.raises(
        ModelError, match="got encoder 'self' for tiny-generator, expected a causal language model"
    ):
        settings(encoder="self").fit(generator, concepts, source, progress=told)
    with pytest.raises(DataError, match="concept 'red sun': got 1 different prompt"):
        settings().fit(generator, concepts | {"red sun": ["red"]}, source, progress=told)
    with pytest.raises(ModelError, match=r"the folder './none', which does not exist"):
        settings(encoder="./none").fit(generator, concepts, source, progress=told)
    same = {"red": ["red cross", "left red"], "left": ["cross red", "red left"]}
    with pytest.raises(ModelError, match="got a concept at the centre of all embeddings"):
        settings().fit(generator, same, source, progress=told)


def test_a_loss_that_leaves_the_numbers_says_where_and_what_to_do():
    message = (
        r"HyperTransport: the loss of step \d+ or its gradient is not finite .*; try a lower lr than 1e\+30"
    )
    with pytest.raises(DivergedError, match=message):
        settings(lr=1e30, steps=60).fit(tiny.handle(), tiny.concepts(), tiny.source())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_maps_of_the_cpu(tmp_path):
    concepts = {letters: texts(letters, 6) for letters in ("abcd", "efgh", "ijkl")}
    hyper, found = HyperTransport(sites="pre_mlp_norm", sizes=SMALL, steps=3), []
    for device in ("cpu", "cuda"):
        model = load(build("llama").to(device), tokenizer=tokenizer())
        fitted = hyper.fit(model, concepts, texts("abcdefghijkl", 12), out=tmp_path / device)
        fitted.save_pretrained(tmp_path / f"{device}-hyper")
        again = HyperTransport.from_pretrained(tmp_path / f"{device}-hyper", model)
        found.append(again("abab").maps)
        with again("abab").on(model, 0.5):
            model.generate(["ab"], max_new_tokens=3)
    for site, pair in found[0].items():
        for one, other in zip(pair, found[1][site], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)
