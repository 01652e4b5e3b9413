"""Readings: what a model computes at the answer position of every prompt, mapped from files on the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from trimtab.errors import CheckpointError, explain, refusal
from trimtab.read.leaks.encodings import TopTokens
from trimtab.read.leaks.levels import Trajectory
from trimtab.runs.brief import one_line
from trimtab.runs.files import read_json

FACTS = "readings.json"
FORMAT = 1
_CHUNK = 256


@dataclass(frozen=True)
class Plan:
    """Plan of a pass: what is kept of every prompt.

    Attributes:
        rows: n prompts.
        width: d, of a hidden state.
        states: numbers of the hidden states that are kept, from 0, rising.
        depth: L + 1 states of the model.
        vocabulary: V logits.
        top: most likely tokens that are kept, at most V.
        chosen: tokens of the fixed and of the random set, at most V.
        every: whether all logits are kept.
        trajectories: key -> number of tokens.
        temperatures: at which the distribution is normalised, 1 first.
        tokens: further tokens whose logits are kept.
    """

    rows: int
    width: int
    states: tuple[int, ...]
    depth: int
    vocabulary: int
    top: int
    chosen: int
    every: bool
    trajectories: Mapping[str, int]
    temperatures: tuple[float, ...]
    tokens: tuple[int, ...]

    def columns(self) -> dict[str, tuple[str, int]]:
        """File -> type and number of columns of its array."""
        kept = {f"hidden_{state}": ("<f4", self.width) for state in self.states}
        kept |= {f"trajectory_{key}": ("<f4", top * self.depth) for key, top in self.trajectories.items()}
        kept |= {"top_ids": ("<i4", self.top), "top_logprobs": ("<f4", self.top)}
        kept |= {"normalisers": ("<f8", len(self.temperatures))}
        some = {"fixed": self.chosen, "random": self.chosen, "tokens": len(self.tokens)}
        kept |= {name: ("<f4", count) for name, count in some.items() if count and not self.every}
        return kept | ({"logits": ("<f4", self.vocabulary)} if self.every else {})

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.rows * np.dtype(kind).itemsize * width for kind, width in self.columns().values())


@dataclass(frozen=True, eq=False)
class Readings:
    """What a model computes at the answer positions of n prompts, mapped from the files of a folder.

    Attributes:
        folder: where `read_model` put them.
        plan: what is kept.
        fixed_ids: tokens with the highest mean log-probability over the first 256 prompts, highest first.
        random_ids: tokens drawn without replacement: random rows of the unembedding.
    """

    folder: Path
    plan: Plan
    fixed_ids: Int[np.ndarray, " k"] = field(repr=False)
    random_ids: Int[np.ndarray, " k"] = field(repr=False)

    def __repr__(self) -> str:
        states = f"{len(self.plan.states)} of {self.plan.depth} states"
        return one_line(
            "Readings", f"{self.n} prompts", states, f"top {self.plan.top} of {self.vocabulary} tokens"
        )

    @property
    def n(self) -> int:
        """Number of prompts."""
        return self.plan.rows

    @property
    def states(self) -> tuple[int, ...]:
        """Numbers of the hidden states that were kept, rising; 0 is the input of the first block."""
        return self.plan.states

    @property
    def vocabulary(self) -> int:
        """V, the number of logits."""
        return self.plan.vocabulary

    def hidden(self, state: int) -> Float[np.ndarray, "n d"]:
        """Hidden states at a depth, raw, in single precision; negative from the last of the model.

        Raises:
            DataError: it was not kept.
        """
        number = state + self.plan.depth if state < 0 else state
        if number not in self.states:
            raise refusal("hidden states", f"state {state}", f"one of {list(self.states)}", "Hidden((...,))")
        return self._file(f"hidden_{number}")

    def trajectory(self, key: str | Trajectory) -> Float[np.ndarray, "n f"]:
        """Trajectory: log-probabilities of the most likely final tokens at all L + 1 states.

        Args:
            key: a level, or its `key`, such as "logit-2".

        Returns:
            (n, top * (L + 1)), for the most likely token at states 0 to L, then for the second.

        Raises:
            DataError: it was not kept.
        """
        name = key.key if isinstance(key, Trajectory) else key
        if name not in self.plan.trajectories:
            raise refusal(
                "trajectories", repr(name), f"one of {list(self.plan.trajectories)}", "Trajectory(...)"
            )
        return self._file(f"trajectory_{name}")

    def top(self, k: int) -> TopTokens:
        """The k most likely tokens (all V where k is larger) with their log-probabilities over the whole vocabulary.

        Raises:
            DataError: fewer were kept.
        """
        k = min(k, self.vocabulary)
        if not 1 <= k <= self.plan.top:
            raise refusal(
                "top tokens", k, f"a number from 1 to {self.plan.top}, which were kept", "TopLogprobs(k)"
            )
        ids = np.asarray(self._file("top_ids")[:, :k], dtype=np.int64)
        return TopTokens(ids, np.asarray(self._file("top_logprobs")[:, :k]))

    def top_logits(self, k: int) -> TopTokens:
        """The same tokens with their logits."""
        top = self.top(k)
        return TopTokens(top.ids, (top.values + self.logsumexp[:, None]).astype(np.float32))

    def serve(self, k: int, *, decimals: int | None = None, temperature: float = 1.0) -> TopTokens:
        """What a server sends: the k most likely tokens with their log-probabilities.

        Logits are divided by the temperature, normalised over the whole vocabulary, and the result is rounded.

        Args:
            k: tokens; all V where it is larger.
            decimals: places after the decimal point; None rounds nothing.
            temperature: one that `read_model` was told of.

        Raises:
            DataError: fewer tokens were kept, or another temperature.
        """
        top = self.top(k)
        values = top.values.astype(np.float64)
        if temperature != 1.0:
            if not self.every and temperature not in self.plan.temperatures:
                got, known = f"temperature {temperature:g}", list(self.plan.temperatures)
                raise refusal(
                    "served log-probabilities", got, f"one of {known}", "temperatures=[...] when reading"
                )
            values = (values + self.logsumexp[:, None]) / temperature - self.normaliser(temperature)[:, None]
        values = values if decimals is None else np.round(values, decimals) + 0.0
        return TopTokens(top.ids, values.astype(np.float32))

    @property
    def every(self) -> bool:
        """Whether all logits were kept."""
        return self.plan.every

    def normaliser(self, temperature: float) -> Float[np.ndarray, " n"]:
        """log sum exp(logits / temperature) over the whole vocabulary, in double precision."""
        if temperature in self.plan.temperatures:
            place = self.plan.temperatures.index(temperature)
            return np.asarray(self._file("normalisers")[:, place])
        logits, parts = self.all_logits(), []
        for start in range(0, self.n, _CHUNK):
            part = torch.from_numpy(np.array(logits[start : start + _CHUNK], dtype=np.float64))
            parts.append((part / temperature).logsumexp(-1).numpy())
        return np.concatenate(parts)

    @cached_property
    def logsumexp(self) -> Float[np.ndarray, " n"]:
        """log sum exp(logits): what turns log-probabilities into logits."""
        return self.normaliser(1.0)

    @property
    def answers(self) -> Int[np.ndarray, " n"]:
        """The most likely next token of each prompt: the first of the greedy answer."""
        return np.asarray(self._file("top_ids")[:, 0], dtype=np.int64)

    def tokens(self, ids: Sequence[int] | Int[np.ndarray, " k"]) -> Float[np.ndarray, "n k"]:
        """Logits of given tokens: of the fixed set, the random set, or those that `read_model` was told of.

        Raises:
            DataError: the logits of a token were not kept.
        """
        wanted = [int(one) for one in ids]
        if self.every:
            return np.asarray(self._file("logits")[:, wanted])
        sets = {
            "fixed": self.fixed_ids.tolist(),
            "random": self.random_ids.tolist(),
            "tokens": self.plan.tokens,
        }
        for name, there in sets.items():  # from one file where one has them all
            if wanted and list(there[: len(wanted)]) == wanted:
                return np.asarray(self._file(name)[:, : len(wanted)])
        places = {token: (name, at) for name, there in sets.items() for at, token in enumerate(there)}
        if absent := [token for token in wanted if token not in places]:
            got = f"token {absent[0]}"
            raise refusal("logits", got, "tokens whose logits were kept", "tokens=[...] when reading")
        columns = [self._file(places[token][0])[:, places[token][1]] for token in wanted]
        return np.stack(columns, 1) if columns else np.zeros((self.n, 0), np.float32)

    def all_logits(self) -> Float[np.ndarray, "n V"]:
        """All logits.

        Raises:
            DataError: they were not kept.
        """
        if not self.every:
            raise refusal(
                "all logits", "readings without them", "a level that needs them", "TopLogits(k=None)"
            )
        return self._file("logits")

    def _file(self, name: str) -> np.ndarray:
        mapped: np.ndarray = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return mapped


def open_readings(folder: str | Path) -> Readings:
    """Readings that `read_model` finished in a folder.

    Raises:
        CheckpointError: there are none, or they are not finished.
    """
    facts = facts_of(Path(folder))
    if not facts.get("finished"):
        got = f"readings that are not finished in {folder}" if facts else f"no readings in {folder}"
        raise CheckpointError(explain(got, "the folder of a finished pass", "read_model"))
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["plan"].items()}
    plan = Plan(**given)
    return Readings(
        Path(folder), plan, np.array(facts["fixed"], np.int64), np.array(facts["random"], np.int64)
    )


def facts_of(folder: Path) -> dict[str, Any]:
    """What a folder says of its readings: their plan, fingerprint and token sets; {} where there are none."""
    path = folder / FACTS
    facts = read_json(path, "readings of a model", error=CheckpointError) if path.is_file() else {}
    return facts if isinstance(facts, dict) and facts.get("format") == FORMAT else {}
