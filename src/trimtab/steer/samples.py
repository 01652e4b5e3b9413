"""From examples of a behaviour to samples of each unit: what every estimator reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.errors import DataError, ModelError, explain
from trimtab.models.batches import check_listed, evaluating, text_batches
from trimtab.models.capture import capture
from trimtab.models.inspection import check_model
from trimtab.models.intervene import Intervention, intervene
from trimtab.models.placement import device_of
from trimtab.models.pooling import Pool
from trimtab.models.sites import Site, network_of
from trimtab.seeds import isolated

if TYPE_CHECKING:
    from trimtab.models.load import Model

Inputs = Sequence[str] | Sequence[Mapping[str, Any]]
"""Texts, or batches of forward keywords for models that read something else."""

Samples = Mapping[str, Float[Tensor, "n d"]]
"""Site name -> one vector per example."""

RECORDS = frozenset({"messages", "conversations", "prompt", "completion", "text", "role", "content"})
"""Keys of records of training data, which no forward pass takes."""

LEAST = 2
"""Examples on each side: one has no spread."""


@dataclass(frozen=True)
class Examples:
    """Examples of one side, as the batches that a model is run on.

    Attributes:
        what: "source" or "target", for errors.
        batches: forward keywords, on the model's device.
        fingerprint: 16 hex digits that change when an example does.
    """

    what: str
    batches: tuple[Mapping[str, Any], ...]
    fingerprint: str


def prepare(
    model: Model | nn.Module, source: Inputs, target: Inputs, *, batch_size: int, max_tokens: int | None
) -> tuple[Examples, Examples]:
    """Both sides as batches; nothing is run yet.

    Args:
        model: a handle, with a tokenizer where examples are texts.
        source: how it behaves: texts, or mappings of forward keywords, each a batch of any size.
        target: how it should; as many or as few as you like, and unpaired.
        batch_size: texts at a time; mappings are taken as they are.
        max_tokens: longer texts are cut; None refuses those beyond the model's limit.

    Raises:
        DataError: a side is empty, one single text, a mixture of both kinds, records of chats or prompts, or has
            fewer than two texts.
        ModelError: texts for a model without tokenizer, or a text without tokens, of white space alone or too long.
    """
    check_model(model)
    sides: list[tuple[str, Any]] = [("source", source), ("target", target)]
    for place, (what, given) in enumerate(sides):
        if not isinstance(given, str | Mapping):
            check_listed(given, f"{what} example")
            sides[place] = (what, [*given])
        _check(*sides[place])
    first, second = (_examples(model, what, given, batch_size, max_tokens) for what, given in sides)
    return first, second


def samples(
    model: Model | nn.Module,
    examples: Examples,
    sites: Sequence[Site],
    pool: Pool,
    maps: Mapping[str, Intervention] | None = None,
) -> dict[str, Float[Tensor, "n d"]]:
    """One vector per example and site, in single precision at least, without gradients.

    Args:
        model: run in evaluation mode; nothing about it changes, nor do the caller's random generators.
        examples: see `prepare`.
        sites: where to read.
        pool: how tokens or positions become one vector.
        maps: interventions that are in place meanwhile.

    Raises:
        DataError: fewer than two examples.
        ModelError: a value that is not finite, or a site that is never reached.
    """
    with running(model), intervening(model, maps or {}), capture(model, sites, pool) as taken:
        for batch in examples.batches:
            network_of(model)(**batch)
    found = {site: precise(values) for site, values in taken.items()}
    for site, values in found.items():
        _check_values(examples.what, site, values)
    return found


@contextmanager
def running(model: Model | nn.Module, *, grad: bool = False, seed: int = 0) -> Iterator[None]:
    """Run a block in evaluation mode, its parameters without gradients; modes, flags and generators come back.

    Args:
        model: a handle or a network.
        grad: whether activations keep their graph; also where the caller has switched gradients off.
        seed: of models that draw in their forward pass.
    """
    network = network_of(model)
    learning = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    with isolated(seed), torch.inference_mode(False), evaluating(network), torch.set_grad_enabled(grad):
        try:
            for name in learning:
                network.get_parameter(name).requires_grad_(False)
            yield
        finally:  # by name: accelerate puts new parameters in the place of those that it moves
            for name in learning:
                network.get_parameter(name).requires_grad_(True)


@contextmanager
def intervening(model: Model | nn.Module, maps: Mapping[str, Intervention]) -> Iterator[None]:
    """Run a block with interventions, or with none."""
    with ExitStack() as stack:
        if maps:
            stack.enter_context(intervene(model, maps))
        yield


def precise(values: Tensor) -> Tensor:
    """In single precision at least: sums over examples in bfloat16 are worth little."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def execution_order(model: Model | nn.Module, examples: Examples, sites: Sequence[Site]) -> tuple[Site, ...]:
    """The sites in the order in which a forward pass reaches them.

    Raises:
        ModelError: one is never reached.
    """
    reached: list[str] = []

    def noting(name: str) -> Intervention:
        def note(h: Tensor) -> Tensor:
            reached.append(name)
            return h

        return note

    with running(model), intervene(model, {site.name: noting(site.name) for site in sites}):
        network_of(model)(**examples.batches[0])
    return tuple(Site.parse(name) for name in dict.fromkeys(reached))


def _check(what: str, given: Inputs) -> None:
    if isinstance(given, str | Mapping):
        kind = "one single text" if isinstance(given, str) else "one mapping"
        raise DataError(f"{what}: {explain(kind, 'a list of examples', '[...]')}")
    kinds = {
        str if isinstance(one, str) else Mapping if isinstance(one, Mapping) else type(one) for one in given
    }
    if not kinds:
        raise DataError(f"{what}: {explain('no example', f'at least {LEAST}')}")
    for place, one in enumerate(given):
        _refuse_record(what, place, one)
    if not (kinds == {str} or kinds == {Mapping}):
        got = f"a list of {' and '.join(sorted(kind.__name__ for kind in kinds))}"
        raise DataError(f"{what}: {explain(got, 'texts, or mappings of forward keywords')}")
    if kinds == {str} and len(given) < LEAST:
        raise DataError(f"{what}: {explain('1 example', f'at least {LEAST}')}")


def _refuse_record(what: str, place: int, one: object) -> None:
    """Refuse chats and prompts with completions, which are no texts, and texts that no tokenizer reads."""
    if isinstance(one, str) and not one.strip():
        got = f"the text {one!r}, which has no token of its own"
        raise ModelError(f"{what}: {explain(f'{got}, at place {place}', 'a text', 'leaving it out')}")
    if isinstance(one, str):
        try:
            one.encode()
        except UnicodeEncodeError as error:
            got = f"half a character (U+{ord(one[error.start]):04X}) in the text at place {place}"
            raise DataError(f"{what}: {explain(got, 'whole characters')}") from error
    turns = one if isinstance(one, list | tuple) else ()
    keys = (
        one.keys()
        if isinstance(one, Mapping)
        else {key for turn in turns if isinstance(turn, Mapping) for key in turn}
    )
    if named := RECORDS.intersection(map(str, keys)):
        got = f"a record with {' and '.join(sorted(named))} at place {place}"
        hint = "the text that the model is to read: tokenizer.apply_chat_template(messages, tokenize=False)"
        raise DataError(f"{what}: {explain(got, 'texts, or mappings of forward keywords', hint)}")


def _examples(
    model: Model | nn.Module, what: str, given: Inputs, batch_size: int, max_tokens: int | None
) -> Examples:
    network = network_of(model)
    if not isinstance(given[0], str):
        device = device_of(network)
        batches = tuple(_moved(batch, device) for batch in given)
        return Examples(what, batches, _fingerprint(batches))
    if isinstance(model, nn.Module):
        got, hint = "texts for a bare module, which has no tokenizer", "load(module, tokenizer=...)"
        raise ModelError(f"{what}: {explain(got, 'a handle with a tokenizer', hint)}")
    texts = [str(text) for text in given]
    padded = text_batches(model, texts, batch_size=batch_size, max_tokens=max_tokens)
    batches = tuple(batch.arguments(network) for batch in padded)
    return Examples(what, batches, _fingerprint(batches))


def _moved(value: Any, device: torch.device) -> Any:
    """The same keywords with every tensor on the device."""
    if isinstance(value, Mapping):
        return {name: _moved(inner, device) for name, inner in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def _fingerprint(batches: Sequence[Mapping[str, Any]]) -> str:
    digest = hashlib.sha256()
    for name, value in (pair for batch in batches for pair in _flat(batch)):
        if isinstance(value, Tensor):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:
            digest.update(f"{name} {value!r}\n".encode())
    return digest.hexdigest()[:16]


def _flat(batch: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in batch.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _check_values(what: str, site: str, values: Tensor) -> None:
    if values.ndim != 2 or len(values) < LEAST:
        raise DataError(f"{what}: {explain(f'{len(values)} example at {site}', f'at least {LEAST}')}")
    if wrong := int((~torch.isfinite(values)).any(0).sum()):
        got = f"nan or infinity in {wrong} of {values.shape[1]} units at {site}"
        raise ModelError(
            f"{what}: {explain(got, 'finite activations', 'float32, or a look at the examples')}"
        )
