"""Training of a hypernetwork end to end through the frozen generator (arXiv 2605.08254, section 3).

Each step draws concepts. Of each, two independent draws of its prompts are taken: one is the condition, the other the
target. Source prompts run through the maps that the network gives for the condition, and the transport distance to the
target, summed over sites and units, is lowered.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.errors import CheckpointError, DataError, DivergedError, ModelError, explain
from trimtab.models import one_step, pipelines
from trimtab.models.families import Handle, unwrapped
from trimtab.models.one_step import OneStepGenerator
from trimtab.models.sites import network_of
from trimtab.runs.files import has_halves
from trimtab.runs.serialise import differences
from trimtab.seeds import derive
from trimtab.steer.hypertransport.conditions import unit_mean
from trimtab.steer.hypertransport.network import HyperNetwork
from trimtab.steer.lineas.end_to_end import EndToEnd
from trimtab.steer.samples import Examples, Samples, checked_records, running, samples
from trimtab.train.state import (
    Snapshot,
    checkpoints,
    copy_moments,
    copy_parameters,
    load_checkpoint,
    put_moments,
    put_parameters,
    save_checkpoint,
)

LEAST_CONCEPTS = LEAST_PROMPTS = 2
AVERAGING = 0.99
"""Share of the running average of weights that a step keeps; the averaged weights are used afterwards."""

LAST_RATE = 1e-3
"""Share of the learning rate that is left at the last step of the cosine."""

WEIGHT_DECAY = 0.01
"""Of AdamW, its usual one: the paper does not state any."""

KEPT_BYTES = 2 * 2**30
"""Bytes of target activations that are kept in memory; what exceeds them is computed anew when it is drawn."""

Progress = Callable[[int, int, float], None]
"""Called with the step, from 1, the number of steps, and the loss before that step."""


def writer_of(model: Any) -> Callable[..., Sequence[Mapping[str, Any]]] | None:
    """What writes prompts as batches of forward keywords, with noise: `write(prompts, seed=, batch_size=)`.

    A generator of pictures has one, and so may a handle of your own, as its `prompt_batches`; None for a model that
    reads prompts as texts.

    Raises:
        ModelError: a bare module, or a handle with neither a tokenizer nor a writer.
    """
    writes: Any = getattr(model, "prompt_batches", None)
    if callable(writes):
        own: Callable[..., Sequence[Mapping[str, Any]]] = writes
        return own
    if getattr(model, "pipeline", None) is not None:  # generators of pictures
        return partial(pipelines.prompt_batches, model)
    if isinstance(unwrapped(network_of(model)), OneStepGenerator):
        return partial(one_step.prompt_batches, model)
    if isinstance(model, torch.nn.Module) or getattr(model, "tokenizer", None) is None:
        got = f"a {type(model).__name__} that reads no prompts"
        raise ModelError(explain(got, "a language model or a generator of pictures", "load(folder)"))
    return None


def prompt_examples(
    model: Handle,
    what: str,
    prompts: Sequence[str],
    *,
    seed: int,
    batch_size: int,
    max_tokens: int | None = None,
) -> Examples:
    """Prompts as batches of forward keywords: those that `writer_of` gives, or else the prompts read as texts.

    Args:
        model: a handle.
        what: what the prompts are called in errors.
        prompts: texts.
        seed: of the noise.
        batch_size: prompts at a time.
        max_tokens: longer texts are cut; None refuses those beyond the model's limit.

    Raises:
        DataError, ModelError: as `trimtab.steer.samples.prepare`.
    """
    writes = writer_of(model)
    given: Any = checked_records(what, prompts)
    try:
        if writes is not None and not (given := writes(list(prompts), seed=seed, batch_size=batch_size)):
            raise ModelError(explain("no batch of prompts", "forward keywords of each", "prompt_batches"))
        return Examples.of(cast("Any", model), what, given, batch_size, max_tokens)
    except ModelError as error:
        raise error if str(error).startswith(what) else ModelError(f"{what}: {error}") from error


def called(name: str) -> str:
    """What a concept is called in errors.

    >>> called("red")
    "concept 'red'"
    """
    return f"concept {name!r:.60}"


@dataclass(frozen=True)
class Prompts:
    """Checked prompts of the training concepts, and the generic ones.

    Attributes:
        names: of the concepts.
        of: the prompts of each concept, in the order of the names.
        source: generic prompts.
    """

    names: tuple[str, ...]
    of: tuple[tuple[str, ...], ...]
    source: tuple[str, ...]

    @classmethod
    def checked(cls, concepts: Mapping[str, Sequence[str]], source: Sequence[str]) -> Prompts:
        """Prompts after all checks that need no model.

        Raises:
            DataError: no mapping, fewer than two concepts or generic prompts, a concept of fewer than two different
                prompts (two independent draws need them), a blank name or prompt, or two concepts of the same prompts.
        """
        given: Any = concepts
        if not isinstance(given, Mapping):
            got = f"a {type(given).__name__}"
            raise DataError(
                f"concepts: {explain(got, 'a mapping of names, each to prompts', '{name: [...]}')}"
            )
        if len(given) < LEAST_CONCEPTS:
            got = f"{len(given)} concept{'s' * (len(given) != 1)}"
            raise DataError(f"concepts: {explain(got, f'at least {LEAST_CONCEPTS}', 'LinEAS for one')}")
        seen: dict[frozenset[str], str] = {}
        for name, prompts in given.items():
            if not isinstance(name, str) or not name.strip():
                raise DataError(f"concepts: {explain(f'the name {name!r:.60}', 'words')}")
            if has_halves(name):
                got = f"half a character (a lone surrogate) in the name {name!r:.60}"
                raise DataError(f"concepts: {explain(got, 'whole ones')}")
            hint = "another prompt: two independent draws are taken of them"
            key = frozenset(_texts(called(name), prompts, hint))
            if key in seen:
                got = f"{seen[key]!r:.60} and {name!r:.60} with the same prompts"
                raise DataError(f"concepts: {explain(got, 'concepts that differ', 'leaving one out')}")
            seen[key] = name
        plain = _texts("source", source, "more generic prompts")
        return cls(tuple(given), tuple(map(tuple, given.values())), tuple(plain))

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change when a name or a prompt does."""
        return hashlib.sha256(repr((self.names, self.of, self.source)).encode()).hexdigest()[:16]


def _texts(what: str, given: Any, hint: str) -> list[str]:
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise DataError(f"{what}: {explain(f'a {type(given).__name__}', 'a list of prompts', '[...]')}")
    for place, one in enumerate(given):
        if not isinstance(one, str) or not one.strip():
            got = f"the blank prompt {one!r}" if isinstance(one, str) else f"a {type(one).__name__}"
            raise DataError(f"{what}: {explain(f'{got} at place {place}', 'a text', 'leaving it out')}")
        if has_halves(one):
            raise DataError(f"{what}: {explain(f'half a character at place {place}', 'whole ones')}")
    if len(set(given)) < LEAST_PROMPTS:
        got = f"{len(set(given))} different prompt{'s' * (len(set(given)) != 1)}"
        raise DataError(f"{what}: {explain(got, f'at least {LEAST_PROMPTS}', hint)}")
    return list(given)


Draw = Literal["any", "all"]


@dataclass(frozen=True)
class Drawn:
    """What one step takes of one concept, as places in its lists.

    Attributes:
        concept: place of the concept.
        condition: rows of its embeddings.
        target: its prompts.
        source: generic prompts.
    """

    concept: int
    condition: Int[np.ndarray, " c"]
    target: Int[np.ndarray, " t"]
    source: Int[np.ndarray, " s"]


@dataclass(frozen=True)
class Draws:
    """Draws of each step: a function of the seed and the step alone, so that a killed training goes on with the same.

    Concepts come in passes, each in an order of its own. A draw takes at most half of a concept's prompts, so that
    condition and target seldom share many.

    Attributes:
        conditions: embeddings that each concept has.
        prompts: prompts that each has, which are the first of those.
        generic: number of generic prompts.
        examples: most prompts in a draw.
        how: "all" takes as many conditions as targets; "any" from one to as many.
        seed: of all draws.
    """

    conditions: tuple[int, ...]
    prompts: tuple[int, ...]
    generic: int
    examples: int
    how: Draw
    seed: int

    def at(self, turn: int) -> Drawn:
        """The draw of a turn, from 0; a step has as many turns as it has concepts."""
        passed, place = divmod(turn, len(self.prompts))
        order = np.random.default_rng(derive(self.seed, "pass", passed)).permutation(len(self.prompts))
        concept, draw = int(order[place]), np.random.default_rng(derive(self.seed, "turn", turn))
        most = min(self.examples, max(1, self.prompts[concept] // 2))
        conditions = most if self.how == "all" else int(draw.integers(1, most + 1))
        return Drawn(
            concept,
            draw.choice(self.conditions[concept], conditions, replace=False),
            draw.choice(self.prompts[concept], max(LEAST_PROMPTS, most), replace=False),
            draw.choice(self.generic, min(self.examples, self.generic), replace=False),
        )


@dataclass(frozen=True, eq=False)
class Targets:
    """Target activations of the untouched generator, computed when a concept is first drawn and kept then.

    They do not depend on the hypernetwork. Deviation from the paper: the noise of a concept's prompts is drawn once.

    Attributes:
        problem: says where and how activations are read.
        prompts: of the concepts.
        batch_size: prompts at a time.
        max_tokens: see `prompt_examples`.
        seed: of the noise.
        kept: activations by place of the concept.
        limit: most bytes kept.
    """

    problem: EndToEnd
    prompts: Prompts
    batch_size: int
    max_tokens: int | None
    seed: int
    kept: dict[int, Samples] = field(default_factory=dict)
    limit: int = KEPT_BYTES

    def of(self, concept: int, rows: Int[np.ndarray, " t"]) -> dict[str, Float[Tensor, "t d"]]:
        """Activations of some prompts of a concept, by site, where they were read."""
        places = torch.from_numpy(rows)
        found = self.kept[concept] if concept in self.kept else self._read(concept)
        return {site: values[places].to(self.problem.scales[site].spread) for site, values in found.items()}

    def _read(self, concept: int) -> Samples:
        model, name, given = self.problem.model, self.prompts.names[concept], self.prompts.of[concept]
        limits: Any = {"batch_size": self.batch_size, "max_tokens": self.max_tokens}
        seed = derive(self.seed, "target", name)
        examples = prompt_examples(cast("Any", model), called(name), given, seed=seed, **limits)
        values = samples(model, examples, self.problem.loss_sites, self.problem.pool)
        found = {site: one.cpu() for site, one in values.items()}
        size = sum(one.numel() * one.element_size() for one in found.values())
        if size * (len(self.kept) + 1) <= self.limit:
            self.kept[concept] = found
        return found


@dataclass(frozen=True, eq=False)
class Training:
    """Training of a hypernetwork: AdamW under a cosine, and a running average of its weights.

    Attributes:
        problem: the end-to-end loss; its source and target are replaced at each turn.
        prompts: of the concepts.
        embeddings: of each concept (c, e): its prompts, perhaps followed by its name.
        centre: of embeddings.
        draws: of each turn.
        targets: of each concept.
        steps: in all.
        lr: first step size.
        concepts_per_step: whose gradients are averaged.
    """

    problem: EndToEnd
    prompts: Prompts
    embeddings: tuple[Float[Tensor, "c e"], ...]
    centre: Float[Tensor, " e"]
    draws: Draws
    targets: Targets
    steps: int
    lr: float
    concepts_per_step: int

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0: half a cosine from `lr` to `LAST_RATE` of it."""
        falls = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.lr * (LAST_RATE + (1 - LAST_RATE) * falls)

    def run(self, network: HyperNetwork, kept: KeptTraining, progress: Progress | None) -> list[float]:
        """Train a network in place, from its last checkpoint on, and leave the averaged weights in it.

        Returns:
            The loss of each step, before it.

        Raises:
            DivergedError: the loss or its gradient left the finite numbers.
            CheckpointError: the folder holds another training.
        """
        learned = dict(network.named_parameters())
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.lr, weight_decay=WEIGHT_DECAY)
        average = copy_parameters(learned)
        losses = kept.last(learned, optimizer, average)
        with running(self.problem.model, grad=True):
            for step in range(len(losses), self.steps):
                optimizer.zero_grad()
                losses.append(self._slope(network, step, losses))
                for group in optimizer.param_groups:
                    group["lr"] = self.rate(step)
                optimizer.step()
                with torch.no_grad():
                    for name, parameter in learned.items():
                        average[name].lerp_(parameter, 1 - AVERAGING)
                kept.save(learned, optimizer, average, losses, final=step + 1 == self.steps)
                if progress is not None:
                    progress(step + 1, self.steps, losses[-1])
        put_parameters(learned, average)
        if not all(one.isfinite().all() for one in average.values()):
            raise _diverged(self.steps, losses, self.lr)
        return losses

    def _slope(self, network: HyperNetwork, step: int, losses: Sequence[float]) -> float:
        """The loss of a step, whose gradient is left at the parameters."""
        total, share = 0.0, 1 / self.concepts_per_step
        for turn in range(step * self.concepts_per_step, (step + 1) * self.concepts_per_step):
            drawn = self.draws.at(turn)
            target = self.targets.of(drawn.concept, drawn.target)
            problem = replace(self.problem, source=self._source(drawn, turn), target=target)
            rows = torch.from_numpy(drawn.condition)
            condition = unit_mean(self.embeddings[drawn.concept][rows], self.centre)
            found = network(condition[None].to(network.places.device))
            point = {site: values[0] for site, values in found.items()}
            with problem.in_place():
                loss, gradient = problem.gradient(point)
            if not math.isfinite(loss) or not all(one.isfinite().all() for one in gradient.values()):
                raise _diverged(step, losses, self.lr)
            pulls = [share * gradient[site].to(values) for site, values in point.items()]
            torch.autograd.backward(list(point.values()), pulls)
            total += share * loss
        return total

    def _source(self, drawn: Drawn, turn: int) -> Examples:
        given = [self.prompts.source[place] for place in drawn.source]
        limits: Any = {"batch_size": self.targets.batch_size, "max_tokens": self.targets.max_tokens}
        seed = derive(self.targets.seed, "source", turn)
        return prompt_examples(cast("Any", self.problem.model), "source", given, seed=seed, **limits)


def _diverged(step: int, losses: Sequence[float], lr: float) -> DivergedError:
    last = f"the last finite loss was {losses[-1]:.4g} at step {step - 1}" if losses else "at the start"
    at = f"HyperTransport: the loss of step {step} or its gradient is not finite ({last})"
    return DivergedError(f"{at}; try a lower lr than {lr:g}")


@dataclass(frozen=True)
class KeptTraining:
    """Checkpoints of one training.

    Attributes:
        folder: where they are; None keeps nothing.
        identity: settings, sites and fingerprints of prompts, models and encoder, JSON values.
        every: steps between checkpoints.
    """

    folder: Path | None
    identity: Mapping[str, Any]
    every: int = 100

    def last(
        self, learned: Mapping[str, Any], optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor]
    ) -> list[float]:
        """Losses up to the newest checkpoint, whose state is put in place; none where there is no checkpoint.

        Raises:
            CheckpointError: the folder holds another training (what differs is named), or is damaged.
        """
        finished = checkpoints(self.folder) if self.folder is not None else []
        if not finished:
            return []
        snapshot, extra = load_checkpoint(finished[-1])
        pairs = differences(extra["identity"], dict(self.identity))
        if changes := "; ".join(f"{key} (was {was!r}, now {now!r})" for key, was, now in pairs):
            hint = "try another folder, or the same settings"
            raise CheckpointError(f"{self.folder} holds another fit: {changes}; {hint}")
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "average": {}}
        for key, value in snapshot.parameters.items():
            part, _, name = key.partition("|")
            parts.setdefault(part, {})[name] = value
        put_parameters(learned, parts["weights"])
        put_parameters(cast("Any", average), parts["average"])
        put_moments(learned, optimizer, snapshot.moments)
        return [float(one) for one in extra["losses"]]

    def save(
        self,
        learned: Mapping[str, Any],
        optimizer: torch.optim.Optimizer,
        average: Mapping[str, Tensor],
        losses: Sequence[float],
        *,
        final: bool = False,
    ) -> None:
        """Write a checkpoint, every so many steps and at the end.

        Raises:
            CheckpointError: the disk is full; what was kept before is intact.
        """
        if self.folder is None or (len(losses) % self.every and not final):
            return
        weights = {f"weights|{name}": value.detach() for name, value in learned.items()}
        weights |= {f"average|{name}": value for name, value in average.items()}
        moments = copy_moments(learned, optimizer)
        snapshot = Snapshot(len(losses), weights, moments, stream={}, rng={})
        save_checkpoint(self.folder, snapshot, {"identity": dict(self.identity), "losses": list(losses)})
