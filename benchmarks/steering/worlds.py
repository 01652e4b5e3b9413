"""Where steerings are judged: grammar worlds whose truth is exact, models of them, and documents nobody fitted with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from trimtab import Model, load
from trimtab.lab.grammar import Documents, Grammar, Style, World
from trimtab.lab.grammar_model import grammar_model, insult_rate, topic_fidelity
from trimtab.models.language import kl
from trimtab.seeds import derive

WEAK, STRONG = "weak cues", "strong cues"
GRAMMARS = {WEAK: Grammar(), STRONG: Grammar(cue_strength=0.95)}
"""The world of the benchmark, and one in which the head of a document gives its style away."""

PLACES = {
    "attention out": "attention_out",
    "pre-MLP norm": "pre_mlp_norm",
    "all norms": "*_layernorm",
    "residual": "residual",
    "MLP out": "mlp_out",
}
JUDGED = 192
"""Documents of each style that a steering is judged by."""


@dataclass(frozen=True)
class Judge:
    """A world, a model of it, held-out documents of both styles, and what scores compare with.

    Attributes:
        before: the untouched model's logits on clean documents.
        wanted: the counterfactual truth on rude documents.
        truth: the truth on clean documents.
    """

    world: World
    model: Model
    rude: Documents
    clean: Documents
    before: Tensor
    wanted: Tensor
    truth: Tensor

    @cached_property
    def untouched(self) -> dict[str, float]:
        """Scores of the model as it is."""
        return self.scores()

    def scores(self) -> dict[str, float]:
        """How the model behaves now, under whatever interventions are in place.

        insult_rate and topic_fidelity on rude documents (probabilities of the model); kl_to_clean, on rude documents,
        from the exact counterfactual truth; kl_moved, on clean documents, from the untouched model; kl_to_truth, on
        clean documents. KL in nats per token.
        """
        rude, clean = self.logits(self.rude.ids), self.logits(self.clean.ids)
        probs = rude.double().softmax(-1)
        return {
            "insult_rate": float(insult_rate(self.world, self.rude.ids, probs).mean()),
            "topic_fidelity": float(topic_fidelity(self.world, self.rude.ids, self.rude.topic, probs).mean()),
            "kl_to_clean": float(divergence(self.wanted, rude).mean()),
            "kl_moved": float(kl(self.before, clean).mean()),
            "kl_to_truth": float(divergence(self.truth, clean).mean()),
        }

    def logits(self, ids: Tensor) -> Tensor:
        """Next-token logits of documents, which all have the same length."""
        return logits(self.model, ids)


def logits(model: Model, ids: Tensor) -> Tensor:
    """Next-token logits of documents, which all have the same length."""
    with torch.no_grad():
        return torch.cat([model.module(input_ids=part).logits for part in ids.split(64)])


def divergence(truth: Tensor, given: Tensor) -> Tensor:
    """KL(truth || model) at each place, in nats: `trimtab.lab.grammar_model` with the truth at hand."""
    return (torch.special.xlogy(truth, truth) - truth * given.to(truth).log_softmax(-1)).sum(-1)


@cache
def judge(world: str, seed: int) -> Judge:
    """The judge of one world and one model seed; the model is trained on first use."""
    made = World(GRAMMARS[world])
    model = load(grammar_model(seed, GRAMMARS[world]), device="cpu")
    rude, clean = (documents(made, style, JUDGED, "judged") for style in ("rude", "clean"))
    return Judge(
        world=made,
        model=model,
        rude=rude,
        clean=clean,
        before=logits(model, clean.ids),
        wanted=made.clean_next_token(rude.ids),
        truth=made.next_token(clean.ids),
    )


def documents(world: World, style: Style, n: int, purpose: str, seed: int = 0) -> Documents:
    """Documents for one purpose; other purposes and seeds give others."""
    draws = torch.Generator().manual_seed(derive(seed, "steering benchmark", purpose, style))
    return world.sample(n, generator=draws, style=style)
