"""Readout of a decoder: from the state after its last block to the distribution of the next token.

The only place that knows the final norm, the unembedding, and how a family scales or caps its logits.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.models.batches import evaluating
from trimtab.models.devices import device_of
from trimtab.models.families import Handle, refusal, text_config, towers, unwrapped
from trimtab.models.hooks import VISION, capture, intervene
from trimtab.models.inspection import check_model, module_of
from trimtab.models.sites import Site, canonical, modules_of, network_of, site_fingerprints
from trimtab.models.tokenizer import embeddings, first_line, longest

ROWS, TOKENS = 2, 8
TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-2
"""Allowed gap of the logits to the model's own, over the largest, in single precision and in half."""
_MULTIPLIERS, _DIVISORS = ("logit_scale", "lm_head_multiplier"), ("logits_scaling",)
"""Entries of configurations by which families multiply or divide their logits: Cohere, Falcon-H1; Granite."""
_PICTURES = tuple(
    f"{what}_token_{end}"
    for what in ("image", "video", "audio", "vision_start", "vision_end", "boi", "eoi", "boa", "eoa")
    for end in ("id", "index")
)
"""Entries of configurations that name tokens of pictures, films and sounds, and the marks around them."""


@dataclass(frozen=True, eq=False)
class Readout:
    """Readout of a decoder: `logits = cap(scale * U norm(h))` of the state h after the last block.

    Attributes:
        sites: L + 1 sites of the residual stream: the input of the first block (state 0), the output of each block
            (state l of block l - 1). They are raw: no final norm has been applied to them.
        width: d, of a state.
        vocabulary: V, columns of the logits.
        fingerprint: 16 hex digits that change with the final norm, the unembedding, and what is done to logits.
        scale: what logits are multiplied by.
        cap: c of `c tanh(logits / c)` (Gemma 2 and 3), or None.
    """

    sites: tuple[str, ...]
    width: int
    vocabulary: int
    fingerprint: str
    scale: float = 1.0
    cap: float | None = None
    norm: nn.Module = field(default_factory=nn.Identity, repr=False)
    head: nn.Module = field(default_factory=nn.Identity, repr=False)
    dtype: torch.dtype = torch.float32

    @property
    def device(self) -> torch.device:
        """Device of the final norm, to which states are moved."""
        return device_of(self.norm if next(self.norm.parameters(), None) is not None else self.head)

    def normed(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """States after the final norm, in the model's precision; as `hidden_states[-1]` of transformers 5."""
        normed: Tensor = self.norm(hidden.to(self.device, self.dtype))
        return normed

    def logits(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n V"]:
        """Logits that the model gives for a state after its last block, in single precision at least.

        Differentiable in the state. Gradients also reach the model's parameters where these ask for them.
        """
        logits: Tensor = self.head(self.normed(hidden))
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits = logits * self.scale if self.scale != 1.0 else logits
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def log_probabilities(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n V"]:
        """Log-probabilities of the next token, in nats, that the model gives for a state after its last block."""
        return self.logits(hidden).log_softmax(-1)

    def unembedding(self) -> Float[Tensor, "V d"]:
        """Matrix of the linear map from normed states to logits, before scale and cap; without a bias, detached.

        Of a quantised map, or one with an adapter, the matrix that it acts as.
        """
        with torch.no_grad():
            if type(self.head) is nn.Linear and not self.head.weight.is_meta:
                return self.head.weight.detach()
            unit = torch.eye(self.width, device=self.device, dtype=self.dtype)
            matrix: Tensor = self.head(unit) - self.head(torch.zeros_like(unit[:1]))
            return matrix.T


def readout_of(model: Handle | nn.Module) -> Readout:
    """Readout of a causal language model, or of the language model inside one that also sees.

    Found by the table of families, else as the list of blocks of the configured length beside a norm. In either case it
    is checked by numbers: on random tokens its logits must be the model's own, to 1e-4 of the largest (half precision:
    0.02).

    Args:
        model: a handle or a network, with or without an adapter; nothing about it changes.

    Raises:
        ModelError: no unembedding, no list of blocks, weights that are not loaded, a compiled model, or logits that
            are not finite, or not the unembedding of the normed state after the last block.
    """
    network = network_of(model)
    check_model(network)
    bare: Any = unwrapped(network)
    head = bare.get_output_embeddings() if hasattr(bare, "get_output_embeddings") else None
    name = type(bare).__name__
    if not isinstance(head, nn.Module):
        got, expected = f"a {name} without an unembedding", "a model that predicts the next token"
        raise refusal(got, expected, "its ...ForCausalLM class")
    inputs = _dummy(network)
    gap = torch.inf
    for blocks, norm in _candidates(bare):
        readout, states, expected_logits = _tried(network, bare, head, (blocks, norm), inputs)
        with torch.no_grad():
            logits = readout.logits(states[-1]).to(expected_logits.device)
        if not expected_logits.isfinite().all():
            raise refusal(
                f"a {name} whose logits are not finite", "finite weights", "the checkpoint it came from"
            )
        if logits.shape != expected_logits.shape:
            continue
        gap = min(gap, float((logits - expected_logits).abs().max() / expected_logits.abs().max()))
        if gap <= (TOLERANCE if readout.dtype in (torch.float32, torch.float64) else HALF_TOLERANCE):
            return readout
    got = f"a {name} whose logits are no unembedding of its last block's output after one norm"
    far = "" if gap == torch.inf else f" (off by {gap:.2g} of the largest)"
    raise refusal(got + far, "a decoder: blocks, a final norm, an unembedding", "another model")


def residual_states(
    model: Handle | nn.Module, readout: Readout, keywords: Mapping[str, Any], *, grad: bool = False
) -> list[Float[Tensor, "B T d"]]:
    """States of the residual stream at every depth, L + 1 of them, of one forward pass in evaluation mode.

    Args:
        model: what `readout` was found in.
        readout: names the sites.
        keywords: of the forward pass.
        grad: keep the graph from state 0 on, also where all parameters are frozen.
    """
    network = module_of(model)
    keywords = {**_without_logits(network), **keywords}
    start = intervene(network, {readout.sites[0]: _leaf}) if grad else nullcontext()
    with evaluating(network, gradients=grad), start, capture(network, readout.sites, grad=grad) as taken:
        network(**keywords)
    return [taken[site] for site in readout.sites]


def _leaf(hidden: Tensor) -> Tensor:
    return hidden.detach().requires_grad_()


def _without_logits(network: nn.Module) -> dict[str, Any]:
    """Keywords for a forward pass of which the logits are not wanted: those of one position, and no cache."""
    takes = inspect.signature(unwrapped(network).forward).parameters
    return {name: value for name, value in (("logits_to_keep", 1), ("use_cache", False)) if name in takes}


def _candidates(network: nn.Module) -> Iterator[tuple[str, str | None]]:
    """Paths of the list of blocks and of the final norm, the likely ones first."""
    for family in towers(network).values():
        if family.final_norm and not family.name.startswith("clip_vision"):
            yield family.blocks, family.final_norm
    config = text_config(network)
    count = getattr(config, "num_hidden_layers", None)
    modules = modules_of(network)
    for path, blocks in modules.items():
        seen = any(part in VISION for part in path.split("."))
        if isinstance(blocks, nn.ModuleList) and len(blocks) == count and not seen:
            parent = path.rpartition(".")[0]
            beside = [name for name in modules if name.rpartition(".")[0] == parent]
            yield from ((path, name) for name in reversed(beside) if "norm" in name or ".ln" in f".{name}")
            yield path, None


def picture_tokens(model: Handle | nn.Module) -> tuple[int, ...]:
    """Tokens that stand for a picture, film or sound, or mark where one begins and ends, by the configuration; rising.

    A model that writes one of them and reads it back looks for a picture that is not there.
    """
    config = getattr(unwrapped(network_of(model)), "config", None)
    named = (getattr(config, name, None) for name in _PICTURES)
    return tuple(sorted({token for token in named if isinstance(token, int)}))


def _dummy(network: nn.Module) -> dict[str, Tensor]:
    """Random tokens, the same each time, none of which stands for a picture."""
    size = embeddings(network)
    if size is None:
        got = f"a {type(unwrapped(network)).__name__} without token embeddings"
        raise refusal(got, "a model that reads tokens", "its ...ForCausalLM class")
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, size, (ROWS, min(TOKENS, longest(network) or TOKENS)), generator=draw)
    pictures = picture_tokens(network)
    word = next((token for token in range(size) if token not in pictures), 0)
    ids = torch.where(torch.isin(ids, torch.tensor(pictures, dtype=torch.long)), word, ids)
    ids = ids.to(device_of(network))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _tried(
    network: nn.Module,
    bare: nn.Module,
    head: nn.Module,
    places: tuple[str, str | None],
    inputs: Mapping[str, Tensor],
) -> tuple[Readout, list[Tensor], Tensor]:
    """A readout of blocks and a norm at these places, with states and logits of the model on dummy inputs."""
    blocks, norm = places
    parts: Any = bare.get_submodule(blocks)
    sites = (f"{blocks}.0:in", *(f"{blocks}.{number}:out" for number in range(len(parts))))
    with evaluating(network), capture(network, sites) as taken:
        try:
            logits: Any = getattr(network(**inputs), "logits", None)
        except Exception as error:  # transformers has no list of what a model that needs a picture may raise
            got = f"a {type(bare).__name__} that fails on text alone ({first_line(error)})"
            raise refusal(got, "a model that reads text", "another model") from error
    states = [taken[site] for site in sites]
    config, changed = text_config(bare), 1.0
    for name in _MULTIPLIERS:
        changed *= float(getattr(config, name, None) or 1.0)
    for name in _DIVISORS:
        changed /= float(getattr(config, name, None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    readout = Readout(
        sites=sites,
        width=int(states[-1].shape[-1]),
        vocabulary=int(logits.shape[-1]),
        fingerprint=_fingerprint(bare, head, norm, (changed, cap)),
        scale=changed,
        cap=None if not cap else float(cap),
        norm=nn.Identity() if norm is None else bare.get_submodule(norm),
        head=head,
        dtype=states[-1].dtype,
    )
    return readout, states, logits if logits.dtype == torch.float64 else logits.float()


def _fingerprint(network: nn.Module, head: nn.Module, norm: str | None, settings: Sequence[object]) -> str:
    path = next(canonical(name) for name, part in network.named_modules() if part is head)
    prints = site_fingerprints(network, [Site(one) for one in (norm, path) if one is not None])
    return hashlib.sha256(f"{list(prints.values())} {settings}".encode()).hexdigest()[:16]
