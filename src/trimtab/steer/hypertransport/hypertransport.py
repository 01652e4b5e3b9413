"""HyperTransport: settings of a hypernetwork of steerings, and its fit (arXiv 2605.08254)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from trimtab.errors import Problem
from trimtab.models.batches import Pool
from trimtab.models.devices import device_of
from trimtab.models.encoders import TwoTower
from trimtab.models.inspection import check_model
from trimtab.models.load import Model
from trimtab.models.sites import network_of, resolve
from trimtab.runs.brief import brief
from trimtab.runs.serialise import plain
from trimtab.seeds import derive, seed_problem
from trimtab.steer.estimators import refuse, setting_problems
from trimtab.steer.hypertransport.conditions import SELF, Conditions, Encoder, encoder_of, unit_mean
from trimtab.steer.hypertransport.fitted import FittedHyperTransport, base_of
from trimtab.steer.hypertransport.network import HyperNetwork, Sizes
from trimtab.steer.hypertransport.training import (
    Draw,
    Draws,
    KeptTraining,
    Progress,
    Prompts,
    Targets,
    Training,
    called,
    prompt_examples,
    writer_of,
)
from trimtab.steer.lineas.end_to_end import EndToEnd
from trimtab.steer.samples import Normalisation, Scale, samples

Preset = Literal["default", "paper"]

PASSES = 300
"""Passes over the training concepts, in the paper."""

PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "default": {
        "steps": 2000,
        "lr": 1e-3,
        "normalisation": "scale-free",
        "conditions": "any",
        "with_names": True,
        "concepts_per_step": 1,
    },
    "paper": {
        "steps": None,  # 300 passes
        "lr": 1e-4,
        "normalisation": "paper",
        "conditions": "all",
        "with_names": False,
        "concepts_per_step": 8,
    },
}
"""What a setting that is None stands for."""

MOST_PICTURES = 64
"""Training concepts of which a picture is made, for the centre of pictures."""


@dataclass(frozen=True)
class HyperTransport:
    """HyperTransport: a hypernetwork that maps the embedding of a concept to a steering (arXiv 2605.08254).

    Fitted once on many concepts, it gives a steering for any other in one forward pass. Settings that are None are the
    preset's; `preset="paper"` gives the published ones.

    Attributes:
        sites: where maps are, see `trimtab.models.sites.resolve`. The paper has all norms of a U-Net; of a diffusion
            transformer `transformer_blocks.*.norm[12]`.
        encoder: of conditions: "self" for the mean hidden state of the steered language model; a folder, hub name or
            loaded model of two towers, of sentences, or of language; see `trimtab.steer.hypertransport.conditions`.
        preset: "default" or "paper".
        p: order of the transport distance, 1 or 2. In the paper 1 gives more of the concept and 2 keeps more of the
            input.
        steps: of AdamW; the paper has 300 passes over its concepts.
        lr: first step size of a cosine schedule.
        normalisation: "scale-free" counts distances in standard deviations of generic prompts, and shifts likewise
            around their mean, unit by unit; "paper" takes activations as they are.
        conditions: "all" averages the condition over as many prompts as are drawn, as in the paper; "any" over 1 to as
            many, so that one is enough afterwards.
        with_names: whether a concept's name may be drawn as a condition beside its prompts.
        concepts_per_step: concepts whose gradients are averaged; the paper has one on each of 8 processes.
        examples: most prompts in a draw; 32 in the paper, from larger pools than ours: a draw takes at most half.
        pool: one vector per example: the mean over its tokens or positions, the largest, or the last token.
        sizes: widths of the hypernetwork.
        batch_size: prompts held in the graph at a time; the loss is of all that are drawn, whatever this is.
        max_tokens: longer texts are cut; None refuses those beyond the model's limit.
        seed: of the network's start, of all draws and of noise.
    """

    sites: str | Sequence[str] = "*norm*"
    encoder: str | Path | Encoder | TwoTower | Model = SELF
    preset: Preset = "default"
    p: int = 1
    steps: int | None = None
    lr: float | None = None
    normalisation: Normalisation | None = None
    conditions: Draw | None = None
    with_names: bool | None = None
    concepts_per_step: int | None = None
    examples: int = 32
    pool: Pool = "mean"
    sizes: Sizes = field(default_factory=Sizes)
    batch_size: int = 32
    max_tokens: int | None = None
    seed: int = 0
    kind: Literal["hypertransport"] = "hypertransport"

    __repr__ = brief

    def fit(
        self,
        generator: Model,
        concepts: Mapping[str, Sequence[str]],
        source: Sequence[str],
        *,
        out: str | Path | None = None,
        progress: Progress | None = None,
    ) -> FittedHyperTransport:
        """Hypernetwork trained on concepts.

        The generator is untouched: weights, gradients, modes, hooks and the caller's random generators.

        Args:
            generator: a handle: a causal language model, or a one-step generator of pictures.
            concepts: names, each to example prompts; two at least, of two different prompts at least.
            source: generic prompts, which the maps act on.
            out: a folder for checkpoints. A fit that was killed goes on from there, to the same network bit by bit; a
                finished one is read.
            progress: called after each step.

        Returns:
            The fitted hypernetwork: call it with words or a picture for a steering.

        Raises:
            ConfigError: a setting is wrong; all are named at once.
            DataError: prompts that are missing, blank or too few, or two concepts of the same prompts.
            ModelError: no handle that reads prompts, a site or an encoder that is not there, activations that are not
                finite, or embeddings that do not tell the concepts apart.
            DivergedError: the loss left the finite numbers.
            CheckpointError: `out` holds another fit.
        """
        refuse(self.problems())
        _ = writer_of(generator)
        prompts = Prompts.checked(concepts, source)
        settled = self.settled(len(prompts.names))
        check_model(generator, "gradients")
        _refuse_unreadable(generator, prompts, settled)
        _ = resolve(generator, settled.sites)
        encoder = encoder_of(settled.encoder, generator)
        embeddings = _embedded(encoder, prompts, with_names=bool(settled.with_names))
        conditions = _conditions(encoder, prompts, embeddings, generator, settled.seed)
        training = settled._training(generator, prompts, embeddings, conditions.text_centre)
        widths = {site: len(scale.centre) for site, scale in training.problem.scales.items()}
        network = HyperNetwork(widths, len(conditions.text_centre), settled.sizes, settled.seed)
        network = network.to(device_of(network_of(generator)))
        pipeline = getattr(generator, "pipeline", None)
        identity: dict[str, Any] = {
            "settings": settled.plain_settings(encoder.name),
            "sites": list(widths),
            "prompts": prompts.fingerprint,
            "model": Model(network_of(generator), None, "").fingerprint(),
            "encoder": encoder.model.fingerprint(),
        }
        if pipeline is not None:
            identity["settings"]["timestep"] = pipeline.timestep
        kept = KeptTraining(None if out is None else Path(out), identity)
        losses = training.run(network, kept, progress)
        return FittedHyperTransport(
            network,
            training.problem.scales,
            conditions,
            prompts.names,
            _centred(prompts, embeddings, conditions.text_centre),
            base_of(generator, list(widths)),
            identity["settings"],
            tuple(losses),
        )

    @staticmethod
    def from_pretrained(folder: str | Path, generator: Model, encoder: Any = None) -> FittedHyperTransport:
        """Fitted hypernetwork of a folder; see `FittedHyperTransport.from_pretrained`."""
        return FittedHyperTransport.from_pretrained(folder, generator, encoder)

    def problems(self) -> Iterator[Problem]:
        """Settings that cannot work."""
        if not isinstance(cast("Any", self.encoder), str | Path | Encoder | TwoTower | Model):
            got = f"a {type(self.encoder).__name__}"
            yield Problem("encoder", got, "a folder, a hub name, a loaded model or 'self'")
        plain_encoder = replace(self, encoder=SELF)
        yield from setting_problems(plain_encoder)
        if type(self.p) is int and self.p not in (1, 2):
            yield Problem("p", str(self.p), "1 or 2")
        for name in ("concepts_per_step", "examples"):
            if type(value := getattr(self, name)) is int and value < 1:
                yield Problem(name, str(value), "at least 1")
        if not isinstance(cast("Any", self.sizes), Sizes):
            yield Problem("sizes", f"a {type(self.sizes).__name__}", "Sizes(...)")
        else:
            yield from self.sizes.problems()
        if type(self.seed) is int and (problem := seed_problem("seed", self.seed)) is not None:
            yield problem

    def settled(self, concepts: int) -> HyperTransport:
        """Resolved settings for so many concepts: the preset's value for every one that is None."""
        chosen = {name: value for name, value in PRESETS[self.preset].items() if getattr(self, name) is None}
        found = replace(self, **chosen)
        if found.steps is None:
            found = replace(found, steps=-(-PASSES * concepts // (found.concepts_per_step or 1)))
        return found

    def plain_settings(self, encoder: str) -> dict[str, Any]:
        """Settings as plain values, with the name of the encoder."""
        given = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "encoder"}
        settings: dict[str, Any] = plain({"encoder": encoder, **given})
        return settings

    def _training(
        self, generator: Model, prompts: Prompts, embeddings: tuple[Tensor, ...], centre: Tensor
    ) -> Training:
        sites = resolve(generator, self.sites)
        limits: Any = {"batch_size": self.batch_size, "max_tokens": self.max_tokens}
        seed = derive(self.seed, "generic")
        generic = prompt_examples(generator, "source", prompts.source, seed=seed, **limits)
        before = samples(generator, generic, sites, self.pool)
        scales = {
            site: Scale.of(values, values, self.normalisation or "scale-free")
            for site, values in before.items()
        }
        problem = EndToEnd(
            generator,
            sites,
            sites,
            generic,
            before,
            before,
            scales,
            self.pool,
            self.p,
            root=True,
            seed=self.seed,
        )
        draws = Draws(
            tuple(map(len, embeddings)),
            tuple(map(len, prompts.of)),
            len(prompts.source),
            self.examples,
            self.conditions or "any",
            self.seed,
        )
        targets = Targets(problem, prompts, self.batch_size, self.max_tokens, self.seed)
        steps, lr, several = self.steps or 1, self.lr or 0.0, self.concepts_per_step or 1
        return Training(problem, prompts, embeddings, centre, draws, targets, steps, lr, several)


def _refuse_unreadable(generator: Model, prompts: Prompts, settings: HyperTransport) -> None:
    """Refuse prompts that the generator cannot read before anything is trained; a pipeline cuts what is long."""
    if getattr(generator, "pipeline", None) is not None:
        return
    limits: Any = {"batch_size": settings.batch_size, "max_tokens": settings.max_tokens}
    for name, given in zip(prompts.names, prompts.of, strict=True):
        _ = prompt_examples(generator, called(name), given, seed=0, **limits)


def _embedded(encoder: Encoder, prompts: Prompts, *, with_names: bool) -> tuple[Tensor, ...]:
    """Embeddings of each concept: of its prompts, then perhaps of its name if the encoder knows a word of it."""
    for given in prompts.of:
        encoder.refuse_unheard(given)
    rows = encoder.texts([one for of in prompts.of for one in of])
    parts: Sequence[Tensor] = torch.split(rows, [len(of) for of in prompts.of])
    if with_names:
        names = encoder.texts(list(prompts.names))
        told = [not encoder.unheard([name]).issuperset(name.split()) for name in prompts.names]
        parts = [
            torch.cat([part, name[None]]) if heard else part
            for part, name, heard in zip(parts, names, told, strict=True)
        ]
    return tuple(parts)


def _centred(prompts: Prompts, embeddings: tuple[Tensor, ...], centre: Tensor) -> Tensor:
    """Unit embeddings (n, e) of the concepts, each averaged over its prompts."""
    pairs = zip(embeddings, prompts.of, strict=True)
    return torch.stack([unit_mean(own[: len(of)], centre) for own, of in pairs])


def _conditions(
    encoder: Encoder, prompts: Prompts, embeddings: tuple[Tensor, ...], generator: Any, seed: int
) -> Conditions:
    """Centres of texts and, where the generator draws pictures that the encoder sees, of pictures."""
    centre = torch.stack(
        [own[: len(of)].mean(0) for own, of in zip(embeddings, prompts.of, strict=True)]
    ).mean(0)
    _ = _centred(
        prompts, embeddings, centre
    )  # what cannot be told apart is refused before anything is trained
    draws = writer_of(generator) is not None and callable(getattr(generator, "generate", None))
    if encoder.pictures is None or not draws:
        return Conditions(encoder, centre)
    shown = [of[0] for of in prompts.of[:: -(-len(prompts.of) // MOST_PICTURES)]]
    pictures = generator.generate(shown, seed=derive(seed, "pictures"))
    return Conditions(encoder, centre, encoder.pictures(pictures).mean(0))
