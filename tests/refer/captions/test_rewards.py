"""Rewards of captions: formulas by hand and against transformers, bounds, negatives, copies, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tiny_listener import clip, listener, look, noise, words
from trimtab import Listener, ListenerReward
from trimtab.errors import ConfigError, DataError, ShapeError
from trimtab.refer.captions.listener import Gallery
from trimtab.refer.captions.rewards import Reward, listener_rewards, lowest_reward

REWARDS = get_args(Reward)
BANK = {f"n{seed}": noise(seed) for seed in range(8)}
CAPTIONS = ["red dot left", "green", "blue square on grey", "dot dot dot right"]
COSINES = st.floats(-1, 1, width=32)


def messages(*texts: str) -> list[list[dict[str, Any]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


def by_hand(reward: str, target: float, others: list[float], tau: float) -> float:
    if reward == "similarity":
        return target
    if reward == "margin":
        return target - max(others)
    if reward == "accuracy":
        return 0.0 if max(others) > target else 1 / (1 + others.count(target))
    top = max([target, *others])
    return tau * (target - top) - math.log(sum(math.exp(tau * (each - top)) for each in [target, *others]))


# Formulas


@given(st.sampled_from(REWARDS), st.lists(st.integers(-4, 4), min_size=2, max_size=6), st.floats(0.1, 100))
def test_formulas_by_hand(reward: Reward, quarters: list[int], tau: float) -> None:
    target, *others = [quarter / 4 for quarter in quarters]
    got = listener_rewards(
        torch.tensor([target], dtype=torch.float64),
        torch.tensor([others], dtype=torch.float64),
        reward=reward,
        tau=tau,
    )
    assert float(got[0]) == pytest.approx(by_hand(reward, target, others, tau), abs=1e-9)


@pytest.mark.parametrize("reward", REWARDS)
def test_masked_others_are_not_there(reward: Reward) -> None:
    target, others = torch.tensor([0.2, 0.1]), torch.tensor([[0.2, 0.5, -0.3], [0.4, 0.1, 0.0]])
    masked = torch.tensor([[False, True, False], [True, False, False]])
    got = listener_rewards(target, others, reward=reward, tau=3.0, masked=masked)
    for row in range(2):
        kept = others[row][~masked[row]][None]
        alone = listener_rewards(target[row : row + 1], kept, reward=reward, tau=3.0)
        torch.testing.assert_close(got[row : row + 1], alone)
    if reward != "similarity":
        with pytest.raises(DataError, match="all of whose negatives are masked"):
            listener_rewards(target, others, reward=reward, masked=torch.ones(2, 3, dtype=torch.bool))


@given(st.sampled_from(REWARDS), COSINES, st.lists(COSINES, min_size=3, max_size=3), st.floats(0.1, 100))
def test_no_reward_is_below_the_lowest(
    reward: Reward, target: float, others: list[float], tau: float
) -> None:
    got = listener_rewards(
        torch.tensor([target], dtype=torch.float64),
        torch.tensor([others], dtype=torch.float64),
        reward=reward,
        tau=tau,
    )
    assert float(got) >= lowest_reward(reward, tau=tau, negatives=3) - 1e-9


@pytest.mark.parametrize("reward", REWARDS)
def test_the_lowest_reward_is_reached(reward: Reward) -> None:
    worst = torch.tensor([-1.0], dtype=torch.float64), torch.ones(1, 5, dtype=torch.float64)
    got = listener_rewards(*worst, reward=reward, tau=100.0)
    assert float(got) == pytest.approx(lowest_reward(reward, tau=100.0, negatives=5))


# Negatives from the batch punish the true picture. G completions of each picture are compared with each other.


def in_batch(cosines: torch.Tensor, copies: list[int], reward: Reward, tau: float) -> torch.Tensor:
    """Rewards of captions of picture 0 where every picture of the batch, itself too, is a negative `copies` times."""
    own = cosines[:, 0]
    others = cosines.repeat_interleave(torch.tensor(copies), dim=1)[:, 1:]  # one of its own is the target
    return listener_rewards(own, others, reward=reward, tau=tau)


def test_copies_in_the_batch_take_an_accuracy_reward_and_a_margin_away() -> None:
    """A perfect caption earns 1/G instead of 1, and a margin that cannot be above 0."""
    perfect = torch.tensor([[1.0, -1.0, -1.0]])
    for group in (2, 4, 8):
        assert float(in_batch(perfect, [group] * 3, "accuracy", 1.0)) == pytest.approx(1 / group)
        assert float(in_batch(perfect, [group] * 3, "margin", 1.0)) == 0.0
    assert float(listener_rewards(perfect[:, 0], perfect[:, 1:], reward="accuracy")) == 1.0
    assert float(listener_rewards(perfect[:, 0], perfect[:, 1:], reward="margin")) == 2.0


def test_equal_copies_only_shift_the_log_probability() -> None:
    """By -log G, which every baseline of the group takes out: this alone is why nobody notices."""
    cosines = torch.tensor([[0.9, 0.1, 0.3], [0.2, 0.4, -0.5]], dtype=torch.float64)
    alone = listener_rewards(cosines[:, 0], cosines[:, 1:], tau=5.0)
    for group in (2, 8):
        torch.testing.assert_close(
            in_batch(cosines, [group] * 3, "log-probability", 5.0), alone - math.log(group)
        )


def test_unequal_copies_turn_the_advantage_round() -> None:
    """Weights c in log(sum c exp(tau o)): the better of two captions becomes the worse one."""
    first = [0.0, 0.0, math.log(0.1)]  # exp: 1, 1, .1
    second = [0.0, math.log(0.1), math.log(0.5)]  # exp: 1, .1, .5
    cosines = torch.tensor([first, second], dtype=torch.float64)  # of any scale: tau is 1
    alone = listener_rewards(cosines[:, 0], cosines[:, 1:])
    torch.testing.assert_close(alone.exp(), torch.tensor([1 / 2.1, 1 / 1.6], dtype=torch.float64))
    batch = in_batch(cosines, [1, 1, 6], "log-probability", 1.0)
    torch.testing.assert_close(batch.exp(), torch.tensor([1 / 2.6, 1 / 4.1], dtype=torch.float64))
    assert (alone - alone.mean()).sign().tolist() == [-1, 1]
    assert (batch - batch.mean()).sign().tolist() == [1, -1]


def test_copies_of_the_true_picture_shrink_the_advantage() -> None:
    """With a copies, log(a + x): a caption that halves what is wrong earns less and less."""
    cosines = torch.log(torch.tensor([[1.0, 0.5], [1.0, 0.25]], dtype=torch.float64))
    for a in (1, 3, 9):
        gap = in_batch(cosines, [a, 1], "log-probability", 1.0).diff()
        assert float(gap) == pytest.approx(math.log((a + 0.5) / (a + 0.25)))


# The reward function


@pytest.mark.parametrize("reward", REWARDS)
def test_rewards_are_those_of_transformers_logits(reward: Reward) -> None:
    earns = ListenerReward(listener(), BANK, negatives=4, reward=reward, seed=3)
    shown = [BANK["n0"], noise(100), BANK["n2"], noise(101)]  # two are not in the bank
    got = earns(prompts=["describe"] * 4, completions=messages(*CAPTIONS), image=shown, trainer_state=None)
    images = list(BANK.values())
    for row, picture in enumerate(shown):
        rivals = earns.negatives_of(picture)
        pixels = look()([picture, *(images[place] for place in rivals)], return_tensors="pt")
        texts = words()(CAPTIONS[row], return_tensors="pt")
        with torch.no_grad():
            logits = clip()(**texts, **pixels).logits_per_text[0]
        tau = float(clip().logit_scale.detach().exp())
        cosines = (logits / tau).tolist()
        if reward == "log-probability":
            assert got[row] == pytest.approx(float(logits.log_softmax(0)[0]), abs=1e-3)
        else:
            assert got[row] == pytest.approx(by_hand(reward, cosines[0], cosines[1:], tau), abs=1e-4)


def test_texts_and_messages_and_pictures_of_every_kind_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    BANK["n3"].save(path)
    earns = ListenerReward(listener(), BANK, negatives=5)
    (plain,) = earns(completions=["red dot"], image=["n3"])
    parts = [[{"role": "assistant", "content": [{"type": "text", "text": "red dot"}]}]]
    turns = [[{"role": "assistant", "content": "green"}, {"role": "assistant", "content": "red dot"}]]
    for completions in (messages("red dot"), parts, turns):
        assert earns(completions=completions, image=["n3"]) == [plain]
    for cell in (BANK["n3"], path, str(path), [BANK["n3"]], BANK["n3"].convert("RGBA"), "n3.png", ["n3.png"]):
        assert earns(completions=["red dot"], image=[cell]) == [plain]
    other = ListenerReward(listener(), BANK, negatives=5, column="images")
    assert other(completions=["red dot"], images=[[BANK["n3"]]], image=["nobody"]) == [plain]
    assert earns.__name__ == "listener_log_probability"
    assert earns() == []


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 11), st.sampled_from(CAPTIONS)), min_size=1, max_size=9))
def test_what_else_is_in_the_batch_changes_nothing(rows: list[tuple[int, str]]) -> None:
    got = EARNS(completions=[text for _, text in rows], image=[noise(seed) for seed, _ in rows])
    alone = [EARNS(completions=[text], image=[noise(seed)])[0] for seed, text in rows]
    np.testing.assert_allclose(got, alone, atol=2e-4)


EARNS = ListenerReward(listener(), BANK, negatives=4)


def test_a_bank_that_another_encoder_embedded_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"with 7 numbers each, expected 8, as .* has of captions"):
        ListenerReward(listener(), torch.eye(7), negatives=2)


def test_a_file_with_the_name_of_a_picture_of_the_bank_is_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    BANK["n1"].save("n3.png")
    earns = ListenerReward(listener(), BANK, negatives=5)
    assert earns.negatives_of("n3.png") == earns.negatives_of("n1") != earns.negatives_of("n3")


# Negatives


def test_negatives_are_a_matter_of_seed_and_picture() -> None:
    again = ListenerReward(listener(), dict(reversed(BANK.items())), negatives=4)
    names = list(BANK)
    for seed in range(12):
        rows = EARNS.negatives_of(noise(seed))
        assert len(set(rows)) == 4
        turned = [names[::-1][row] for row in again.negatives_of(noise(seed))]
        assert sorted(turned) == sorted(names[row] for row in rows)
    draws = {
        tuple(ListenerReward(listener(), BANK, negatives=4, seed=s).negatives_of("n1")) for s in range(9)
    }
    assert len(draws) > 1
    assert EARNS.negatives_of("n1") == EARNS.negatives_of(BANK["n1"])


def test_every_picture_but_the_true_one_and_its_copies_can_be_drawn() -> None:
    bank = {**BANK, "copy": BANK["n0"].copy(), "n2 again": BANK["n2"].copy()}
    drawn = {row for seed in range(60) for row in ListenerReward(
        LISTENS, bank, negatives=3, seed=seed).negatives_of("n0")}  # fmt: skip
    names = list(bank)
    assert {names[row] for row in drawn} == {f"n{seed}" for seed in range(1, 8)}
    whole = ListenerReward(listener(), bank, negatives=7)
    assert [names[row] for row in whole.negatives_of("copy")] == [f"n{seed}" for seed in range(1, 8)]


LISTENS = listener()


def test_the_planted_false_negative() -> None:
    """A bank with a copy of the true picture: masked here, and worth log 2 where it is not."""
    bank = {"mine": BANK["n0"], "copy": BANK["n0"], "other": BANK["n1"], "third": BANK["n2"]}
    earns = ListenerReward(listener(), bank, negatives=2)
    plain = ListenerReward(listener(), {name: bank[name] for name in ("mine", "other", "third")}, negatives=2)
    said = {"completions": CAPTIONS, "image": ["mine"] * 4}
    assert earns(**said) == pytest.approx(plain(**said))
    blind = earns.bank
    unmasked = Gallery(blind.names, blind.vectors, blind.names)  # every picture its own
    naive = listener().score(CAPTIONS, unmasked)[:, 0]
    assert (naive < torch.tensor(plain(**said)) - 1e-3).all()
    expected = -torch.log(torch.tensor(plain(**said)).neg().exp() + 1)  # p / (1 + p)
    torch.testing.assert_close(naive, expected, atol=1e-4, rtol=1e-4, check_dtype=False)


# Empty completions


@pytest.mark.parametrize("reward", REWARDS)
def test_a_completion_without_words_earns_the_lowest_reward(reward: Reward) -> None:
    earns = ListenerReward(listener(), BANK, negatives=4, reward=reward)
    lowest = lowest_reward(reward, tau=listener().tau, negatives=4)
    with pytest.warns(UserWarning, match=r"2 of 3 completions have no words and earn .* said once"):
        got = earns(completions=["", "red dot", " \n"], image=["n0", "n1", "n2"])
    assert got[0] == got[2] == pytest.approx(lowest)
    assert got[1] == earns(completions=["red dot"], image=["n1"])[0] > lowest - 1e-9
    assert earns(completions=messages(""), image=["n0"]) == [got[0]]  # and no second note
    assert earns(completions=[[{"role": "assistant", "content": None}]], image=["n0"]) == [got[0]]


def test_what_empty_completions_earn_can_be_said() -> None:
    earns = ListenerReward(listener(), BANK, negatives=4, empty=-9.0)
    logged: dict[str, float] = {}
    with pytest.warns(UserWarning, match="1 of 2 completions"):
        got = earns(completions=["", "red"], image=["n0", "n0"], log_metric=logged.__setitem__)
    assert got[0] == -9.0
    found = ListenerReward(listener(), BANK, negatives=4, reward="accuracy")(
        completions=["red"], image=["n0"]
    )
    assert logged == {"listener/empty": 0.5, "listener/found": found[0] / 2}


# What is refused


def test_settings_that_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"reward: got 'accuracies', expected .* try 'accuracy'"):
        ListenerReward(listener(), BANK, reward="accuracies")
    with pytest.raises(
        ConfigError, match=r"got negatives=99 of a bank of 8 different pictures, .* try negatives=7"
    ):
        ListenerReward(listener(), BANK)
    with pytest.raises(
        ConfigError, match=r"got negatives=1 of a bank of 1 different pictures, .* a larger bank"
    ):
        ListenerReward(listener(), [noise(0), noise(0)], negatives=1)
    for wrong in (0, True, 2.0):
        with pytest.raises(ConfigError, match=r"got negatives=.*, expected a whole number, at least 1"):
            ListenerReward(listener(), BANK, negatives=wrong)
    with pytest.raises(ConfigError, match="seed: got -1"):
        ListenerReward(listener(), BANK, negatives=2, seed=-1)
    with pytest.raises(ConfigError, match="got empty=nan"):
        ListenerReward(listener(), BANK, negatives=2, empty=math.nan)
    with pytest.raises(ConfigError, match="reward: got 'x'"):
        listener_rewards(torch.zeros(1), torch.zeros(1, 1), reward="x")


def test_columns_that_are_refused() -> None:
    earns = ListenerReward(listener(), BANK, negatives=2)
    with pytest.raises(
        DataError, match=r"got columns \['images', 'text'\], expected a column 'image' .* column='images'"
    ):
        earns(completions=["red"], images=[[BANK["n0"]]], text=["a"], trainer_state=SimpleNamespace())
    with pytest.raises(DataError, match=r"column 'image', row 1: got 2 pictures, expected the one"):
        earns(completions=["red", "red"], image=["n0", ["n1", "n2"]])
    with pytest.raises(DataError, match="got 1 cells in column 'image' of 2 completions"):
        earns(completions=["red", "red"], image=["n0"])
    with pytest.raises(DataError, match=r"column 'image', row 0: got a NoneType"):
        earns(completions=["red"], image=[None])
    with pytest.raises(
        DataError, match=r"not decoded, .* try dataset.cast_column\('image', datasets.Image\(\)\)"
    ):
        earns(completions=["red"], image=[{"bytes": b"", "path": None}])


def test_pictures_that_cannot_be_read_are_named_by_row(tmp_path: Path) -> None:
    earns = ListenerReward(listener(), BANK, negatives=2)
    with pytest.raises(
        DataError, match=r"column 'image', row 1.*no such file.*or the picture 'n1' of the bank"
    ):
        earns(completions=["red", "red"], image=["n0", "n11"])
    (tmp_path / "cut.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"row 0.*0 bytes"):
        earns(completions=["red"], image=[tmp_path / "cut.png"])
    with pytest.raises(DataError, match="million"):
        earns(completions=["red"], image=[Image.new("1", (6000, 5000))])


@pytest.mark.parametrize("completion", [7, None, [], ["red"], [{"role": "assistant", "content": 3}]])
def test_completions_that_are_refused(completion: Any) -> None:
    with pytest.raises(DataError, match=r"completion 1: got a .*, expected a text, or a list of messages"):
        EARNS(completions=["red", completion], image=["n0", "n0"])


def test_a_reward_that_is_no_number_stops() -> None:
    """Towers that give nan are refused by the encoder; whatever else goes wrong must not reach a trainer."""
    bank = EARNS.bank
    broken = Gallery(bank.names, bank.vectors.clone(), bank.keys)
    broken.vectors[3] = torch.nan
    with pytest.raises(
        DataError, match=r"completion 0: got the reward nan of 'red', expected a finite number"
    ):
        ListenerReward(listener(), broken, negatives=7)(completions=["red"], image=["n0"])


def test_pictures_outside_the_bank_are_embedded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    earns = ListenerReward(listener(), BANK, negatives=2)
    tower = type(earns.listener.encoder)
    plain = tower.pictures

    def counted(self: Any, images: Any, batch_size: int = 64) -> torch.Tensor:
        seen.append(len(images))
        return plain(self, images, batch_size)

    monkeypatch.setattr(tower, "pictures", counted)
    for _ in range(2):
        earns(completions=["red", "green", "dot"], image=[noise(50), noise(50), noise(51)])
    assert seen == [2]
    monkeypatch.setattr("trimtab.refer.captions.rewards.KEPT", 1)
    first = earns(completions=["red", "red"], image=[noise(60), noise(61)])
    assert earns(completions=["red", "red"], image=[noise(60), noise(61)]) == pytest.approx(first)
    assert len(earns._seen) == 1


def test_a_folder_is_a_listener_too(tmp_path: Path) -> None:
    for part in (clip(), words(), look()):
        part.save_pretrained(tmp_path)
    earns = ListenerReward(tmp_path, BANK, negatives=3)
    assert isinstance(earns.listener, Listener)
    assert earns(completions=["red"], image=["n0"]) == pytest.approx(
        ListenerReward(listener(), BANK, negatives=3)(completions=["red"], image=["n0"])
    )
