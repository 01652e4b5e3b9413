"""Rewards of captions from a listener, and a reward function for TRL's GRPOTrainer and RLOOTrainer.

A trainer with G completions a prompt has every picture G times in its batch. Negatives taken from that batch would hold
the true picture, so here they come from a bank, and copies of the true picture are never among them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from trimtab.errors import ConfigError, DataError, Problem, explain, nearest, not_among, refusal
from trimtab.models.pictures import read_picture
from trimtab.refer.captions.listener import TIE, Listener, Shown, pixel_key
from trimtab.seeds import derive, seed_problem

Reward = Literal["log-probability", "accuracy", "similarity", "margin"]
"""What a caption earns: `listener_rewards` has the formulas."""

KEPT = 4096
"""Embeddings of pictures outside the bank that are kept."""


def listener_rewards(
    target: Float[Tensor, " captions"],
    others: Float[Tensor, "captions pictures"],
    *,
    reward: Reward = "log-probability",
    tau: float = 1.0,
    masked: Bool[Tensor, "captions pictures"] | None = None,
) -> Float[Tensor, " captions"]:
    """Rewards of captions from the cosines of each with its own picture and with others.

    With t the cosine of the target and o those of the others:

    - "log-probability": tau t - log(exp(tau t) + sum exp(tau o)), in nats, at most 0;
    - "accuracy": 1 where t is the largest, 1/m where it shares that place with m - 1 others (to `TIE`), else 0;
    - "similarity": t, whatever the others;
    - "margin": t - max o, in [-2, 2].

    Args:
        target: in [-1, 1].
        others: cosines with the other pictures.
        reward: which.
        tau: factor of cosines in "log-probability".
        masked: True where an other is no negative, such as a copy of the target; None masks nothing.

    Raises:
        ConfigError: a reward that is none of these.
        DataError: all others of a caption are masked.

    Source: Dessi et al. 2023 (arXiv 2304.01662), section 3.2, for the log-probability.

    >>> cosines = torch.tensor([0.5]), torch.tensor([[0.5, 0.0]])
    >>> [round(float(listener_rewards(*cosines, reward=kind)), 3) for kind in get_args(Reward)]
    [-0.958, 0.5, 0.5, 0.0]
    """
    _check_reward(reward)
    if reward == "similarity":
        return target
    if masked is not None:
        if bool(masked.all(dim=-1).any()):
            raise DataError(explain("a caption all of whose negatives are masked", "at least one negative"))
        others = others.masked_fill(masked, -torch.inf)
    if reward == "log-probability":
        together = torch.cat([target[:, None], others], dim=1) * tau
        return together.log_softmax(dim=1)[:, 0]
    if reward == "margin":
        return target - others.amax(dim=1)
    gap = others - target[:, None]
    ties = (gap.abs() <= TIE).sum(dim=1) + 1
    return (gap <= TIE).all(dim=1) / ties.to(target.dtype)


def lowest_reward(reward: Reward, *, tau: float, negatives: int) -> float:
    """Infimum of a reward: target at cosine -1, all negatives at 1.

    >>> lowest_reward("log-probability", tau=1.0, negatives=1) == -math.log1p(math.exp(2.0))
    True
    """
    if reward == "log-probability":  # log(1 + n exp(2 tau)), where exp would overflow
        return -float(np.logaddexp(0.0, math.log(negatives) + 2.0 * tau))
    return {"accuracy": 0.0, "similarity": -1.0, "margin": -2.0}[reward]


class ListenerReward:
    """Reward of captions by a listener that looks for the picture, for `GRPOTrainer` and `RLOOTrainer` of TRL 1.16.

    `reward(prompts, completions, **columns)` gives one number a completion: see `listener_rewards`. The true picture
    of a completion is the cell of a data set's column, as a trainer hands it on. Its negatives are drawn from the bank
    by the seed and its pixels, never by what else is in the batch: they are the same in every step and process, and
    the true picture and its copies are never among them.

    Rewards are not centred or scaled. GRPO does both within the group of a picture (`scale_rewards="group"`), RLOO
    subtracts the mean of the others: whitening them here would do it twice. Both need `num_generations` of 2 or more.

    Args:
        listener: a `Listener`, or what `Listener.from_pretrained` takes.
        bank: pictures that negatives come from: what `read_pictures` takes, or a `Gallery` of the listener.
        reward: "log-probability", "accuracy", "similarity" or "margin".
        negatives: pictures beside the true one, different from it and from each other; 99 in the paper.
        column: of the true picture: an image, a path, a name in the bank, or a list of one of these.
        empty: what a completion without words earns; None for the infimum of the reward (`lowest_reward`).
        seed: of the draws.

    Raises:
        ConfigError: a reward or seed that cannot be used, or a bank of fewer than `negatives` + 1 different pictures.
        DataError: a picture of the bank that cannot be read. From a call: no such column, a picture that cannot be
            read, completions that are neither texts nor messages, or a reward that is not finite.
    """

    def __init__(
        self,
        listener: Listener | Any,
        bank: Shown,
        *,
        reward: Reward = "log-probability",
        negatives: int = 99,
        column: str = "image",
        empty: float | None = None,
        seed: int = 0,
    ) -> None:
        _check_reward(reward)
        if isinstance(negatives, bool) or not isinstance(negatives, int) or negatives < 1:
            raise ConfigError(explain(f"negatives={negatives!r}", "a whole number, at least 1", "99"))
        if empty is not None and not math.isfinite(empty):
            raise ConfigError(explain(f"empty={empty}", "a finite number", "empty=None"))
        if (problem := seed_problem("seed", seed)) is not None:
            raise ConfigError(str(problem))
        self.listener = listener if isinstance(listener, Listener) else Listener.from_pretrained(listener)
        self.bank = self.listener.gallery(bank)
        self.listener.similarity([], self.bank)  # refuses a bank that another encoder embedded
        self.first: Int[np.ndarray, " different"] = np.unique(np.array(self.bank.keys), return_index=True)[1]
        if len(self.first) < negatives + 1:
            got = f"negatives={negatives} of a bank of {len(self.first)} different pictures"
            hint = f"negatives={len(self.first) - 1}" if len(self.first) > 1 else "a larger bank"
            raise ConfigError(explain(got, "at least one picture more than negatives", hint))
        self.reward, self.negatives, self.column, self.seed = reward, negatives, column, seed
        self.empty = (
            lowest_reward(reward, tau=self.listener.tau, negatives=negatives) if empty is None else empty
        )
        self.__name__ = f"listener_{reward.replace('-', '_')}"
        self._rows = {name: row for row, name in enumerate(self.bank.names)}
        self._row_of_key = {key: row for row, key in reversed(list(enumerate(self.bank.keys)))}
        self._place = {self.bank.keys[row]: place for place, row in enumerate(self.first)}
        self._seen: dict[str, Tensor] = {}
        self._noted_empty = False

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,  # noqa: ARG002 (a trainer names it)
        completions: Sequence[Any] = (),
        *,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float]:
        """Rewards of completions, one each; `prompts` are not read.

        Args:
            prompts: as the trainer has them.
            completions: texts, or lists of messages of which the last one is the caption.
            log_metric: of the trainer: it logs the share of completions without words and of those that find the
                picture (at the highest cosine of its set).
            **columns: the data set's, one cell a completion; others than the picture's are not read.
        """
        texts = [_text_of(completion, row) for row, completion in enumerate(completions)]
        if not texts:
            return []
        keys, vectors = self._shown(self._cells(columns, len(texts)))
        worded = [bool(text.strip()) for text in texts]
        heard = torch.zeros(len(texts), vectors.shape[1], dtype=torch.float64)
        if any(worded):
            said = [text for text in texts if text.strip()]
            heard[torch.tensor(worded)] = self.listener.encoder.texts(said).double()
        target = (vectors.double() * heard).sum(dim=1)
        drawn = {key: self.bank.vectors[self._drawn(key)].double() for key in dict.fromkeys(keys)}
        others = torch.stack([drawn[key] @ word for key, word in zip(keys, heard, strict=True)])
        rewards = listener_rewards(target, others, reward=self.reward, tau=self.listener.tau).tolist()
        if log_metric is not None:
            hits = listener_rewards(target, others, reward="accuracy").tolist()
            log_metric("listener/found", sum(h * w for h, w in zip(hits, worded, strict=True)) / len(texts))
            log_metric("listener/empty", 1 - sum(worded) / len(texts))
        self._note_empty(worded)
        earned = [value if said else self.empty for value, said in zip(rewards, worded, strict=True)]
        for row, value in enumerate(earned):
            if not math.isfinite(value):
                got, hint = f"the reward {value} of {texts[row][:60]!r}", "the weights of the listener"
                raise refusal(f"completion {row}", got, "a finite number", hint)
        return earned

    def negatives_of(self, picture: Any) -> list[int]:
        """Rows of the bank that are the negatives of a picture: of an image, a path, or a name in the bank."""
        return self._drawn(self._shown([picture])[0][0])

    def _drawn(self, key: str) -> list[int]:
        draws = np.random.default_rng(derive(self.seed, "negatives", key))
        place = self._place.get(key)
        others = self.first if place is None else np.delete(self.first, place)
        return sorted(draws.choice(others, self.negatives, replace=False).tolist())

    def _cells(self, columns: Mapping[str, Any], rows: int) -> list[Any]:
        """Pictures of the completions, as the data set has them."""
        if self.column not in columns:
            names = sorted(name for name, cells in columns.items() if isinstance(cells, list))
            near = nearest(self.column, names) or "the name of the data set's column with pictures"
            got, expected = (
                f"columns {names}",
                f"a column {self.column!r} with the picture of each completion",
            )
            raise DataError(explain(got, expected, f"ListenerReward(..., column={near})"))
        cells = list(columns[self.column])
        if len(cells) != rows:
            got = f"{len(cells)} cells in column {self.column!r} of {rows} completions"
            raise DataError(explain(got, "one a completion"))
        for row, cell in enumerate(cells):
            if isinstance(cell, list | tuple):
                if len(cell) != 1:
                    got = f"{len(cell)} pictures"
                    raise refusal(
                        f"column {self.column!r}, row {row}", got, "the one that the caption is about"
                    )
                cells[row] = cell[0]
        return cells

    def _shown(self, cells: Sequence[Any]) -> tuple[list[str], Float[Tensor, "cells d"]]:
        """Key and embedding of each picture; every picture outside the bank is embedded once."""
        keys: list[str] = []
        fresh: dict[str, Image.Image] = {}
        read: dict[int, str] = {}  # a group shares one image
        for row, cell in enumerate(cells):
            if (place := self._in_bank(cell)) is not None:
                keys.append(self.bank.keys[place])
                continue
            if id(cell) not in read:
                image = self._read(cell, row)
                key = read[id(cell)] = pixel_key(image)
                if key not in self._row_of_key and key not in self._seen:
                    fresh[key] = image
            keys.append(read[id(cell)])
        if fresh:
            rows = self.listener.encoder.pictures(list(fresh.values()))
            self._seen |= dict(zip(fresh, rows, strict=True))
        vectors = [
            self.bank.vectors[self._row_of_key[key]] if key in self._row_of_key else self._seen[key]
            for key in keys
        ]
        while len(self._seen) > KEPT:
            del self._seen[next(iter(self._seen))]
        return keys, torch.stack(vectors)

    def _in_bank(self, cell: Any) -> int | None:
        """Row of the bank that a cell names, with or without the ending of its file; None for a picture of its own."""
        if not isinstance(cell, str) or cell in self._rows:
            return self._rows.get(cell) if isinstance(cell, str) else None
        stem = cell.rpartition(".")[0]
        return self._rows.get(stem) if stem in self._rows and not Path(cell).exists() else None

    def _read(self, cell: Any, row: int) -> Image.Image:
        where = f"column {self.column!r}, row {row}"
        if isinstance(cell, Mapping):
            got, hint = (
                "a picture that is not decoded",
                f"dataset.cast_column({self.column!r}, datasets.Image())",
            )
            raise refusal(where, got, "an image, a path, or a name in the bank", hint)
        try:
            return read_picture(cell, where)
        except DataError as error:
            if isinstance(cell, str) and (near := nearest(cell, self._rows)):
                raise DataError(f"{error}; or the picture {near} of the bank") from error
            raise

    def _note_empty(self, worded: Sequence[bool]) -> None:
        if all(worded) or self._noted_empty:
            return
        self._noted_empty = True
        count = len(worded) - sum(worded)
        note = (
            f"{count} of {len(worded)} completions have no words and earn {self.empty:.4g}; this is said once"
        )
        warnings.warn(note, UserWarning, stacklevel=3)


def _check_reward(reward: str) -> None:
    problem: Problem = not_among("reward", reward, get_args(Reward))
    if reward not in get_args(Reward):
        raise ConfigError(str(problem))


def _text_of(completion: Any, row: int) -> str:
    """Text of a completion: as it is, or that of the last of its messages."""
    if isinstance(completion, str):
        return completion
    messages = [completion] if isinstance(completion, Mapping) else completion
    if isinstance(messages, list) and messages and isinstance(messages[-1], Mapping):
        content = messages[-1].get("content")
        if content is None or isinstance(content, str):
            return content or ""
        if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
            return " ".join(str(part.get("text") or "") for part in content if part.get("type") == "text")
    got = f"a {type(completion).__name__}"
    raise refusal(f"completion {row}", got, "a text, or a list of messages with a role and a content")
