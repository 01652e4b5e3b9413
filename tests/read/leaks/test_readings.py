"""Readings of a model: what is in the files, how they are filled, and what they cost."""

from __future__ import annotations

import errno
import json
import pickle
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pictured
import tiny_models
from trimtab.errors import CheckpointError, ConfigProblems, DataError, ModelError
from trimtab.models.answers import AnswerStates, answer_states
from trimtab.models.load import Model, load
from trimtab.read.leaks import model_pass
from trimtab.read.leaks.encodings import encode
from trimtab.read.leaks.levels import Answer, Hidden, TopLogits, TopLogprobs, Trajectory
from trimtab.read.leaks.model_pass import read_model, scratch_bytes
from trimtab.read.leaks.questions import Questions, read_questions
from trimtab.read.leaks.readings import FACTS, Readings, open_readings
from trimtab.read.lenses.lens import LogitLens

LEVELS = (Hidden(), Trajectory(), TopLogits((2, 5)), TopLogprobs((1, 7), temperature=0.5), Answer())


def tiny(name: str = "llama", seed: int = 0) -> Model:
    return load(tiny_models.build(name, seed), tokenizer=tiny_models.tokenizer())


def questions(n: int = 40, **columns: Any) -> Questions:
    letters = "abcdefghij"
    rows = {
        "prompt": [f"box {letters[row % 10] * (1 + row % 3)}{letters[row // 10 % 10]}?" for row in range(n)],
        "colour": [("red", "blue")[row % 2] for row in range(n)],
        "scene": [row // 2 for row in range(n)],
    }
    return read_questions(pd.DataFrame(rows | columns), ["colour"], group="scene")


def plain(model: Model, asked: Questions) -> AnswerStates:
    (read,) = answer_states(model, asked.prompts, asked.images, batch_size=1000)
    return read


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny()


@pytest.fixture(scope="module")
def kept(model, tmp_path_factory) -> Readings:
    folder = tmp_path_factory.mktemp("kept") / "readings"
    return read_model(model, questions(), LEVELS, folder, tokens=(60, 3), temperatures=[2.0], batch_size=7)


def test_hidden_states_are_those_of_the_model(model, kept):
    expected = plain(model, questions()).hidden
    assert expected is not None
    assert kept.states == (0, 1, 2)
    for state in (0, 1, 2, -1):
        assert isinstance(kept.hidden(state), np.memmap)
        np.testing.assert_allclose(kept.hidden(state), expected[:, state].numpy(), atol=1e-5, rtol=1e-5)
    assert np.array_equal(kept.hidden(-1), kept.hidden(2))


def test_top_tokens_are_those_of_a_full_sort(model, kept):
    logits = plain(model, questions()).logits.double()
    logp = logits.log_softmax(-1)
    order = logp.argsort(-1, descending=True)[:, :7]
    top = kept.top(7)
    assert top.ids.tolist() == order.tolist()
    np.testing.assert_allclose(top.values, logp.gather(-1, order).numpy(), atol=1e-5)
    np.testing.assert_allclose(kept.top_logits(5).values, logits.gather(-1, order[:, :5]).numpy(), atol=1e-4)
    np.testing.assert_allclose(kept.logsumexp, logits.logsumexp(-1).numpy(), atol=1e-5)
    assert kept.answers.tolist() == order[:, 0].tolist()
    assert encode(top, "sorted").shape == (40, 7)


@pytest.mark.parametrize(("temperature", "decimals"), [(1.0, None), (1.0, 1), (0.5, None), (2.0, 2)])
def test_what_a_server_sends_is_normalised_over_the_whole_vocabulary(model, kept, temperature, decimals):
    logp = (plain(model, questions()).logits.double() / temperature).log_softmax(-1)
    served = kept.serve(3, decimals=decimals, temperature=temperature)
    expected = logp.sort(-1, descending=True).values[:, :3].numpy()
    atol = 1e-5 if decimals is None else 0.5 * 10.0**-decimals + 1e-5
    np.testing.assert_allclose(served.values, expected, atol=atol)
    if decimals is not None:
        assert np.array_equal(served.values, np.round(served.values.astype(float), decimals).astype("f4"))


def test_fixed_tokens_are_the_likely_ones_and_random_ones_are_drawn(model, kept):
    logits = plain(model, questions()).logits
    mean = logits.double().log_softmax(-1).mean(0)
    assert kept.fixed_ids.tolist() == mean.argsort(descending=True)[:7].tolist()
    assert len(set(kept.random_ids.tolist())) == 7
    for ids in (
        kept.fixed_ids,
        kept.fixed_ids[:2],
        kept.random_ids[:5],
        [3],
        [60, 3],
        [3, int(kept.fixed_ids[4])],
    ):
        np.testing.assert_allclose(kept.tokens(ids), logits[:, np.array(ids)].numpy(), atol=1e-5)
    assert kept.tokens([]).shape == (40, 0)


def test_a_trajectory_is_the_lens_at_every_state(model, kept):
    read, lens = plain(model, questions()), LogitLens(model)
    assert read.hidden is not None
    top = read.logits.topk(2).indices
    values = kept.trajectory(Trajectory())
    assert values.shape == (40, 6)
    for rank in range(2):
        for state in range(3):
            said = lens.log_probabilities(read.hidden[:, state], state).gather(-1, top[:, rank : rank + 1])
            np.testing.assert_allclose(values[:, rank * 3 + state], said[:, 0].detach().numpy(), atol=1e-4)
    # At the last state every lens says what the model says.
    np.testing.assert_allclose(values[:, [2, 5]], kept.top(2).values, atol=1e-4)


def test_another_lens_is_asked_at_its_states(model, tmp_path):
    class Flat:
        name, states = "flat", 3

        def log_probabilities(self, hidden: torch.Tensor, state: int) -> torch.Tensor:
            return torch.full((len(hidden), 64), -float(state))

    level = Trajectory(Flat(), top=1)
    read = read_model(model, questions(), [level], tmp_path / "r")
    assert read.trajectory("flat-1").tolist() == [[0.0, -1.0, -2.0]] * 40
    Flat.states = 4
    with pytest.raises(
        ModelError, match="trajectory: got a lens for 4 states, expected one for the 3 of this model"
    ):
        read_model(model, questions(), [level], tmp_path / "r")


def test_a_lens_of_another_model_is_refused(model, tmp_path):
    other = tiny("llama")
    with torch.no_grad():
        other.module.get_output_embeddings().weight.mul_(2)
    with pytest.raises(
        ModelError, match="trajectory: got a lens of a model with another final norm or unembedding"
    ):
        read_model(model, questions(), [Trajectory(LogitLens(other))], tmp_path / "r")


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_all_logits_where_a_level_asks_for_them(name, tmp_path):
    model, asked = tiny(name), questions()
    read = read_model(model, asked, [TopLogits(None), TopLogprobs(100)], tmp_path / "r")
    logits = plain(model, asked).logits
    np.testing.assert_allclose(read.all_logits(), logits.numpy(), atol=1e-5)
    assert read.top(100).k == read.vocabulary == 64  # no more than there are
    np.testing.assert_allclose(read.tokens([5, 63]), logits[:, [5, 63]].numpy(), atol=1e-5)
    served = read.serve(4, temperature=3.0)  # any temperature, from all logits
    expected = (logits.double() / 3.0).log_softmax(-1).sort(-1, descending=True).values[:, :4]
    np.testing.assert_allclose(served.values, expected.numpy(), atol=1e-5)
    assert read.plan.depth == 0  # no state was asked for
    assert read.states == ()


def test_states_that_are_asked_for_and_no_others(model, tmp_path):
    read = read_model(model, questions(), [Hidden((-1,)), Hidden((0, -1)), Answer()], tmp_path / "r")
    assert read.states == (0, 2)
    with pytest.raises(DataError, match=r"hidden states: got state 1, expected one of \[0, 2\]"):
        read.hidden(1)
    with pytest.raises(ModelError, match="hidden: got state 3, expected a state from -3 to 2; try Hidden"):
        read_model(model, questions(), [Hidden((3,))], tmp_path / "s")


def test_pictures_are_read_with_their_prompts(tmp_path):
    model = load(pictured.llava(), tokenizer=pictured.words(), processor=pictured.clip_processor())
    for number, image in enumerate(pictured.random_pictures(10)):
        image.save(tmp_path / f"{number}.png")
    asked = questions(image=[str(tmp_path / f"{row % 10}.png") for row in range(40)])
    read = read_model(model, asked, [Hidden((1,)), TopLogprobs(3)], tmp_path / "r")
    expected = plain(model, asked)
    assert expected.hidden is not None
    np.testing.assert_allclose(read.hidden(1), expected.hidden[:, 1].numpy(), atol=1e-4)
    assert read.answers.tolist() == expected.logits.argmax(-1).tolist()


def test_readings_are_the_same_whatever_the_batch_size(model, kept, tmp_path):
    again = read_model(
        model, questions(), LEVELS, tmp_path / "r", tokens=(60, 3), temperatures=[2.0], batch_size=40
    )
    for name in kept.plan.columns():
        one, other = (np.load(read.folder / f"{name}.npy") for read in (kept, again))
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert again.random_ids.tolist() == kept.random_ids.tolist()
    assert again.fixed_ids.tolist() == kept.fixed_ids.tolist()


def test_what_it_costs_is_what_the_files_have(model, kept):
    sizes = [path.stat().st_size for path in kept.folder.glob("*.npy")]
    cost = scratch_bytes(model, questions(), LEVELS, tokens=(60, 3), temperatures=[2.0])
    assert cost == kept.plan.bytes == sum(sizes) - 128 * len(sizes)


def counting(monkeypatch: pytest.MonkeyPatch, kill_after: int = 10**9) -> list[int]:
    """Rows that the model was asked for; a kill after so many batches."""
    asked: list[int] = []

    def watched(model: Any, prompts: Any, images: Any = None, **how: Any) -> Any:
        for number, states in enumerate(answer_states(model, prompts, images, **how)):
            if number >= kill_after:
                raise KeyboardInterrupt
            asked.append(len(states.logits))
            yield states

    monkeypatch.setattr(model_pass, "answer_states", watched)
    return asked


def test_a_finished_folder_is_not_read_again(model, tmp_path, monkeypatch):
    first = read_model(model, questions(), LEVELS, tmp_path / "r")
    asked = counting(monkeypatch)
    again = read_model(model, questions(), LEVELS, tmp_path / "r", batch_size=3)
    assert asked == []
    assert np.array_equal(again.hidden(1), first.hidden(1))
    assert repr(again) == "Readings(40 prompts, 3 of 3 states, top 7 of 64 tokens)"


@pytest.mark.parametrize("change", ["weights", "prompts", "levels", "seed", "lens"])
def test_another_pass_replaces_the_files(model, tmp_path, monkeypatch, change):
    read_model(model, questions(), [Hidden((1,)), TopLogprobs(3), Trajectory()], tmp_path / "r")
    asked = counting(monkeypatch)
    how: dict[str, Any] = {"model": model, "questions": questions(), "seed": 0}
    levels: list[Any] = [Hidden((1,)), TopLogprobs(3), Trajectory()]
    if change == "weights":
        how["model"] = tiny(seed=1)
    elif change == "prompts":
        how["questions"] = questions(38)
    elif change == "levels":
        levels[0] = Hidden((2,))
    elif change == "seed":
        how["seed"] = 1
    else:

        class Fitted(LogitLens):
            def log_probabilities(self, hidden: Any, state: int) -> Any:
                return super().log_probabilities(hidden * 2, state)

        levels[2] = Trajectory(Fitted(model))
    read = read_model(how.pop("model"), levels=levels, folder=tmp_path / "r", **how)
    assert sum(asked) == read.n
    assert {path.stem for path in (tmp_path / "r").glob("*.npy")} == set(read.plan.columns())


@pytest.mark.parametrize(("first", "read_before"), [(256, 0), (5, 15)])
def test_a_killed_pass_goes_on_to_the_same_files(model, tmp_path, monkeypatch, first, read_before):
    monkeypatch.setattr(model_pass, "FIRST", first)
    whole = read_model(model, questions(), LEVELS, tmp_path / "whole", batch_size=5)
    with monkeypatch.context() as killing:
        counting(killing, kill_after=3)
        with pytest.raises(KeyboardInterrupt):
            read_model(model, questions(), LEVELS, tmp_path / "r", batch_size=5)
    with pytest.raises(
        CheckpointError, match=r"got readings that are not finished in .*, expected the folder of a"
    ):
        open_readings(tmp_path / "r")
    with (tmp_path / "r" / "top_ids.npy").open("ab") as file:
        file.write(b"half")  # of a row
    asked, told = counting(monkeypatch), list[tuple[int, int]]()
    read = read_model(
        model, questions(), LEVELS, tmp_path / "r", batch_size=5, progress=lambda *done: told.append(done)
    )
    assert sum(asked) == 40 - read_before
    assert told[-1] == (40, 40)
    for name in whole.plan.columns():
        assert (tmp_path / "r" / f"{name}.npy").read_bytes() == (
            tmp_path / "whole" / f"{name}.npy"
        ).read_bytes()
    assert read.fixed_ids.tolist() == whole.fixed_ids.tolist()


def test_fixed_tokens_are_chosen_by_the_first_prompts_alone(model, tmp_path, monkeypatch):
    monkeypatch.setattr(model_pass, "FIRST", 6)
    read = read_model(model, questions(), [TopLogits(4)], tmp_path / "r", batch_size=4)
    mean = plain(model, questions()).logits[:6].double().log_softmax(-1).mean(0)
    assert read.fixed_ids.tolist() == mean.argsort(descending=True)[:4].tolist()


def test_no_more_is_held_than_the_first_prompts_and_a_batch(model, tmp_path, monkeypatch):
    monkeypatch.setattr(model_pass, "FIRST", 16)
    given, most = list[weakref.ref[AnswerStates]](), [0]

    def watched(*args: Any, **how: Any) -> Any:
        for states in answer_states(*args, **how):
            given.append(weakref.ref(states))
            most[0] = max(most[0], sum(one() is not None for one in given))
            yield states

    monkeypatch.setattr(model_pass, "answer_states", watched)
    read = read_model(model, questions(120), [Hidden(), TopLogits(None)], tmp_path / "r", batch_size=4)
    assert len(given) == 30
    assert most[0] <= 16 // 4 + 2
    assert isinstance(read.all_logits(), np.memmap)


def test_readings_travel_as_the_folder_that_they_are(kept):
    again = pickle.loads(pickle.dumps(kept))
    assert len(pickle.dumps(kept)) < 5000
    assert np.array_equal(again.hidden(1), kept.hidden(1))


def test_what_was_not_kept_is_refused_by_name(kept):
    with pytest.raises(DataError, match=r"top tokens: got 8, expected a number from 1 to 7, which were kept"):
        kept.top(8)
    with pytest.raises(DataError, match=r"temperature 0.7, expected one of \[1.0, 0.5, 2.0\]"):
        kept.serve(2, temperature=0.7)
    with pytest.raises(DataError, match=r"trajectories: got 'tuned-2', expected one of \['logit-2'\]"):
        kept.trajectory("tuned-2")
    with pytest.raises(
        DataError, match="all logits: got readings without them, expected a level that needs them"
    ):
        kept.all_logits()
    absent = next(n for n in range(64) if n not in {60, 3, *kept.fixed_ids, *kept.random_ids})
    with pytest.raises(
        DataError, match=f"logits: got token {absent}, expected tokens whose logits were kept"
    ):
        kept.tokens([absent])


def test_what_cannot_be_read_is_refused_before_work(model, tmp_path):
    with pytest.raises(ConfigProblems, match=r"levels\[0\].k\[0\]: got 0"):
        read_model(model, questions(), [TopLogprobs(0)], tmp_path / "r")
    with pytest.raises(DataError, match="tokens: got 64, expected tokens from 0 to 63"):
        read_model(model, questions(), [Answer()], tmp_path / "r", tokens=[64])
    with pytest.raises(DataError, match="temperatures: got 0, expected numbers above 0"):
        read_model(model, questions(), [Answer()], tmp_path / "r", temperatures=[0])
    with pytest.raises(
        ModelError, match=r"trajectory: got the lens 'tuned', which is not read yet, .* TunedLens.fit"
    ):
        read_model(model, questions(), [Trajectory("tuned")], tmp_path / "r")
    asked = questions()
    none = Questions([], asked.attributes, asked.roles, asked.groups, asked.accounting)
    with pytest.raises(DataError, match="questions: got no prompts, expected prompts that the model reads"):
        read_model(model, none, [Answer()], tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_folder_of_other_files_is_left_alone(model, tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(
        CheckpointError, match=r"with 'thesis.txt' in it, expected a folder of readings, or an empty"
    ):
        read_model(model, questions(), [Answer()], tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "all of it"
    with pytest.raises(CheckpointError, match="got no readings in"):
        open_readings(tmp_path)


def test_a_disk_that_is_full_is_said_before_work_and_when_it_fills(model, tmp_path, monkeypatch):
    with monkeypatch.context() as small:
        small.setattr(model_pass.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
        with pytest.raises(
            CheckpointError, match=r"MiB free for .*, expected .* MiB of readings; try another folder"
        ):
            read_model(model, questions(), LEVELS, tmp_path / "r")
    real = Path.open

    def full(self: Path, mode: str = "r", *rest: Any, **how: Any) -> Any:
        if mode == "ab":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, mode, *rest, **how)

    with monkeypatch.context() as filling:
        filling.setattr(Path, "open", full)
        with pytest.raises(CheckpointError, match="'No space left on device' while writing"):
            read_model(model, questions(), LEVELS, tmp_path / "r")
    assert json.loads((tmp_path / "r" / FACTS).read_text())["finished"] is False
    assert read_model(model, questions(), LEVELS, tmp_path / "r").n == 40
