"""Fidelities of a steered model's outputs: to the concept, and to what the prompt asked for.

By a judge of attributes they are exact: shares of pictures. Otherwise they are cosines of an encoder, as in the paper.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from trimtab.errors import ConfigError, DataError, ModelError, Problem, explain
from trimtab.steer.hypertransport.concept_file import ConceptRow
from trimtab.steer.hypertransport.conditions import Encoder
from trimtab.steer.hypertransport.training import called

Outputs = Sequence[Any]
"""Pictures, or texts: what `generate` gives, one a prompt."""
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
EXPECTED = "module:name of what makes a judge"


class Judge(Protocol):
    """Judge of attributes that is in no loss, with what it knows of prompts; `judge: module:name` gives one.

    Where a value is unknown, a list has "" at its place.
    """

    def see(self, outputs: Outputs) -> Mapping[str, Sequence[str]]:
        """Attribute -> the value that is seen in each output."""
        ...

    def asked(self, prompts: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Attribute -> the value that each prompt asks for."""
        ...

    def prompted(self, prompts: Sequence[str], values: Mapping[str, str]) -> list[str]:
        """Prompts that ask for a concept's values as well, and for all else as before."""
        ...

    def truth(self, prompts: Sequence[str], values: Mapping[str, str], seed: int) -> Outputs | None:
        """Outputs of a perfect steering, with the noise of `generate(prompts, seed=seed)`; None where unknown."""
        ...


def judge_problem(reference: str, where: str = "judge") -> Problem | None:
    """Problem of the name of a judge; imports nothing but the package that it is in.

    >>> judge_problem("no-module:judge").expected
    'module:name of what makes a judge'
    """
    module = reference.partition(":")[0]
    if not _REFERENCE.fullmatch(reference):
        return Problem(where, repr(reference)[:80], EXPECTED, "lab:scene-judge")
    try:
        found = find_spec(module)
    except Exception as error:  # whatever a user's package raises when it is imported
        return Problem(where, f"{reference!r} ({type(error).__name__}: {error})", EXPECTED)
    hint = f"a file {module}.py on PYTHONPATH"
    return None if found else Problem(where, f"{reference!r}, but no module {module!r}", EXPECTED, hint)


def judge_of(reference: str) -> Judge:
    """Judge that a reference "module:name" makes when it is called without arguments; what it says is checked.

    Raises:
        ConfigError: no such module or name, one that cannot be called so, or what is made has not the methods of a
            `Judge`.
    """
    module, _, name = reference.partition(":")
    try:
        makes: Any = getattr(importlib.import_module(module), name)
        if callable(makes):
            with suppress(ValueError):  # builtins without a signature
                inspect.signature(makes).bind()
    except Exception as error:  # whatever a user's module raises when it is imported
        got = f"{reference!r} ({type(error).__name__}: {error})"
        raise ConfigError(f"judge: {explain(got, EXPECTED)}") from error
    judge: Any = makes() if callable(makes) else makes
    if lacks := [
        one for one in ("see", "asked", "prompted", "truth") if not callable(getattr(judge, one, None))
    ]:
        got = f"{reference!r}, which makes a {type(judge).__name__} without {lacks[0]}()"
        raise ConfigError(
            f"judge: {explain(got, 'the methods of trimtab.steer.hypertransport.judging.Judge')}"
        )
    return CheckedJudge(judge)


@dataclass(frozen=True)
class CheckedJudge:
    """Judge whose answers are checked: one for each output or prompt, of the kinds that `Judge` has.

    Each method raises DataError where the answer is none of these.

    Attributes:
        judge: a user's.
    """

    judge: Judge

    def see(self, outputs: Outputs) -> Mapping[str, Sequence[str]]:
        """Attribute -> the value that is seen in each output."""
        return _values("see", self.judge.see(outputs), len(outputs))

    def asked(self, prompts: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Attribute -> the value that each prompt asks for."""
        return _values("asked", self.judge.asked(prompts), len(prompts))

    def prompted(self, prompts: Sequence[str], values: Mapping[str, str]) -> list[str]:
        """Prompts that ask for a concept's values as well."""
        return _texts("prompted", self.judge.prompted(prompts, values), len(prompts))

    def truth(self, prompts: Sequence[str], values: Mapping[str, str], seed: int) -> Outputs | None:
        """Outputs of a perfect steering; None where unknown."""
        given: Any = self.judge.truth(prompts, values, seed)
        if given is None:
            return None
        made = _one_each("truth", given, len(prompts), "outputs")
        if others := [one for one in made if not isinstance(one, str | Image.Image | np.ndarray)]:
            raise _unanswered("truth", f"a {type(others[0]).__name__}", "pictures or texts, or None for all")
        return made


def _values(method: str, given: Any, n: int) -> dict[str, list[str]]:
    if not isinstance(given, Mapping):
        raise _unanswered(
            method, f"a {type(given).__name__}", "a mapping of attributes, each to a list of texts"
        )
    return {name: _texts(method, values, n, f" of {name!r:.40}") for name, values in given.items()}


def _texts(method: str, given: Any, n: int, of: str = "") -> list[str]:
    found = _one_each(method, given, n, f"texts{of}")
    if others := [one for one in found if not isinstance(one, str)]:
        raise _unanswered(method, f"a {type(others[0]).__name__}{of}", "texts, '' where a value is unknown")
    return list(map(str, found))


def _one_each(method: str, given: Any, n: int, what: str) -> list[Any]:
    if isinstance(given, str | Mapping) or not hasattr(given, "__len__") or len(given) != n:
        got = f"{len(given)} {what}" if isinstance(given, list | tuple) else f"a {type(given).__name__}"
        raise _unanswered(method, got, f"a list of {n} {what}, one each")
    return list(given)


def _unanswered(method: str, got: str, expected: str) -> DataError:
    return DataError(f"judge, {method}(): {explain(got, expected)}")


@dataclass(frozen=True)
class Marks:
    """Marks of each output.

    Attributes:
        concept: (n,) to the concept; nan where it is not known.
        others: (n,) to what else the prompt asked for.
    """

    concept: Float[np.ndarray, " n"]
    others: Float[np.ndarray, " n"]


class Fidelity(Protocol):
    """Fidelity of outputs."""

    @property
    def shares(self) -> bool:
        """Whether each mark of a concept is 0 or 1."""
        ...

    def marks(self, outputs: Outputs, prompts: Sequence[str], concept: ConceptRow) -> Marks:
        """Marks of outputs of prompts, in whatever way they were made."""
        ...


@dataclass(frozen=True)
class ByJudge:
    """Fidelity by a judge: 1 for an output in which every value of the concept is seen; the share of all other
    attributes in which what is seen is what the prompt asks for.

    Attributes:
        judge: of attributes.
    """

    judge: Judge
    shares: bool = True

    def marks(self, outputs: Outputs, prompts: Sequence[str], concept: ConceptRow) -> Marks:
        """Marks of outputs.

        Raises:
            DataError: a value of an attribute that the judge does not see, or a concept without values.
        """
        seen, asked = self.judge.see(outputs), self.judge.asked(prompts)
        if unknown := next((name for name in concept.values if name not in seen), None):
            raise DataError(
                f"{called(concept.name)}: {explain(f'the attribute {unknown!r:.40}', f'one of {(*seen,)}')}"
            )
        if not concept.values:
            raise DataError(f"{called(concept.name)}: {explain('no values', 'values that the judge sees')}")
        wanted = [np.array(seen[name]) == value for name, value in concept.values.items()]
        kept = [
            np.where(np.array(asked[name]) == "", np.nan, np.array(seen[name]) == np.array(asked[name]))
            for name in seen
            if name in asked and name not in concept.values
        ]
        others = _mean(np.array(kept)) if kept else np.full(len(prompts), np.nan)
        return Marks(np.all(wanted, axis=0).astype(float), others)


def _mean(rows: Float[np.ndarray, "k n"]) -> Float[np.ndarray, " n"]:
    """Mean over rows without those that are nan; nan where all are."""
    known = ~np.isnan(rows)
    count = known.sum(0)
    return np.where(count > 0, np.where(known, rows, 0.0).sum(0) / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class ByEncoder:
    """Fidelity by an encoder: the cosine of each output to the words of the concept, and to its prompt.

    A text without a word has 0 to both.

    Attributes:
        encoder: of words and of the outputs.
    """

    encoder: Encoder
    shares: bool = False

    @cached_property
    def _words(self) -> dict[tuple[str, ...], Tensor]:
        return {}

    def marks(self, outputs: Outputs, prompts: Sequence[str], concept: ConceptRow) -> Marks:
        """Marks of outputs.

        Raises:
            ModelError: pictures for an encoder of texts alone.
        """
        texts = all(isinstance(one, str) for one in outputs)
        if not texts and self.encoder.pictures is None:
            got = f"pictures for the encoder {self.encoder.name!r}, which reads texts alone"
            raise ModelError(
                explain(got, "an encoder of two towers, such as CLIP", "judge_encoder: its folder")
            )
        name, asked = self._of((concept.name,))[0], self._of(tuple(prompts))
        if texts:  # one that says nothing has a cosine of 0 to anything
            seen, said = torch.zeros_like(asked), [place for place, one in enumerate(outputs) if one.strip()]
            if said:
                seen[said] = self.encoder.texts([outputs[place] for place in said])
        else:
            seen = self._pictures(outputs)
        return Marks((seen @ name).double().numpy(), (seen * asked).sum(1).double().numpy())

    def _pictures(self, outputs: Outputs) -> Tensor:
        assert self.encoder.pictures is not None
        return self.encoder.pictures(list(outputs))

    def _of(self, texts: tuple[str, ...]) -> Tensor:
        if texts not in self._words:
            self._words[texts] = self.encoder.texts(list(texts))
        return self._words[texts]
