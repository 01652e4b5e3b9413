"""Activation samples of examples of a behaviour, read from files, batched and pooled, and their transport costs.

A scale makes costs of different units and sites comparable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.data.record_files import refuse_records
from trimtab.data.records import Text
from trimtab.data.splits import Files, find, kind_of
from trimtab.errors import DataError, ModelError, explain
from trimtab.models.batches import Pool, check_listed, evaluating, text_batches
from trimtab.models.hooks import Intervention, capture, intervene
from trimtab.models.inspection import check_model, device_of
from trimtab.models.sites import Site, network_of
from trimtab.numerics.transport import wasserstein_1d
from trimtab.runs.files import read_text
from trimtab.seeds import derive, isolated

if TYPE_CHECKING:
    from trimtab.models.load import Model


Inputs = Sequence[str] | Sequence[Mapping[str, Any]]
"""Texts, or batches of forward keywords for models that read something else."""

Samples = Mapping[str, Float[Tensor, "n d"]]
"""Site name -> one vector per example."""

RECORDS = frozenset({"messages", "conversations", "prompt", "completion", "text", "role", "content"})
"""Keys of records of training data, which no forward pass takes."""

LEAST = 2
"""Fewest examples on each side: a single one has no spread."""


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

    @classmethod
    def of(
        cls, model: Model | nn.Module, what: str, given: Inputs, batch_size: int, max_tokens: int | None
    ) -> Examples:
        """The batches of texts or of forward keywords; see `prepare`."""
        network = network_of(model)
        if not isinstance(given[0], str):
            device = device_of(network)
            batches = tuple(_moved(batch, device) for batch in given)
        elif isinstance(model, nn.Module):
            got, hint = "texts for a bare module, which has no tokenizer", "load(module, tokenizer=...)"
            raise ModelError(f"{what}: {explain(got, 'a handle with a tokenizer', hint)}")
        else:
            texts = [str(text) for text in given]
            padded = text_batches(model, texts, batch_size=batch_size, max_tokens=max_tokens)
            batches = tuple(batch.arguments(network) for batch in padded)
        digest = hashlib.sha256()
        for name, value in (pair for batch in batches for pair in _flat(batch)):
            if isinstance(value, Tensor):
                digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            else:
                digest.update(f"{name} {value!r}\n".encode())
        return cls(what, batches, digest.hexdigest()[:16])


def prepare(
    model: Model | nn.Module, source: Inputs, target: Inputs, *, batch_size: int, max_tokens: int | None
) -> tuple[Examples, Examples]:
    """Batches of the source and target examples; nothing is run yet.

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
    first, second = (Examples.of(model, what, given, batch_size, max_tokens) for what, given in sides)
    return first, second


def samples(
    model: Model | nn.Module,
    examples: Examples,
    sites: Sequence[Site],
    pool: Pool,
    maps: Mapping[str, Intervention] | None = None,
) -> dict[str, Float[Tensor, "n d"]]:
    """Activation samples: one vector per example and site, in single precision at least, without gradients.

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
    acting = intervene(model, maps) if maps else nullcontext()
    with running(model), acting, capture(model, sites, pool) as taken:
        for batch in examples.batches:
            network_of(model)(**batch)
    what, by_site = examples.what, {site: precise(values) for site, values in taken.items()}
    for site, values in by_site.items():
        if values.ndim != 2 or len(values) < LEAST:
            raise DataError(f"{what}: {explain(f'{len(values)} example at {site}', f'at least {LEAST}')}")
        if wrong := int((~torch.isfinite(values)).any(0).sum()):
            got = f"nan or infinity in {wrong} of {values.shape[1]} units at {site}"
            hint = "float32, or a look at the examples"
            raise ModelError(f"{what}: {explain(got, 'finite activations', hint)}")
    return by_site


@contextmanager
def running(model: Model | nn.Module, *, grad: bool = False, seed: int = 0) -> Iterator[None]:
    """Evaluation mode with frozen parameters for a block; modes, flags and generators come back.

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


def precise(values: Tensor) -> Tensor:
    """Values in single precision at least: sums over examples in bfloat16 lose digits."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def execution_order(model: Model | nn.Module, examples: Examples, sites: Sequence[Site]) -> tuple[Site, ...]:
    """Execution order: the sites in the order in which a forward pass reaches them.

    Raises:
        ModelError: one is never reached.
    """
    reached: list[str] = []

    def note(h: Tensor, name: str) -> Tensor:
        reached.append(name)
        return h

    notes = {site.name: partial(note, name=site.name) for site in sites}
    with running(model), intervene(model, notes):
        network_of(model)(**examples.batches[0])
    return tuple(Site.parse(name) for name in dict.fromkeys(reached))


def _check(what: str, given: Inputs) -> None:
    """Refuse what is no list of texts or batches: chats and prompts with completions, texts that no tokenizer reads."""
    if isinstance(given, str | Mapping):
        kind = "one single text" if isinstance(given, str) else "one mapping"
        raise DataError(f"{what}: {explain(kind, 'a list of examples', '[...]')}")
    kinds = {next((kind for kind in (str, Mapping) if isinstance(one, kind)), type(one)) for one in given}
    if not kinds:
        raise DataError(f"{what}: {explain('no example', f'at least {LEAST}')}")
    for place, one in enumerate(given):
        if isinstance(one, str) and not one.strip():
            got = f"the text {one!r}, which has no token of its own, at place {place}"
            raise ModelError(f"{what}: {explain(got, 'a text', 'leaving it out')}")
        if isinstance(one, str):
            _check_characters(one, what, f"the text at place {place}")
        turns = [one] if isinstance(one, Mapping) else one if isinstance(one, list | tuple) else []
        keys = {str(key) for turn in turns if isinstance(turn, Mapping) for key in turn}
        if named := RECORDS & keys:
            got = f"a record with {' and '.join(sorted(named))} at place {place}"
            hint = (
                "the text that the model is to read: tokenizer.apply_chat_template(messages, tokenize=False)"
            )
            raise DataError(f"{what}: {explain(got, 'texts, or mappings of forward keywords', hint)}")
    if not (kinds == {str} or kinds == {Mapping}):
        got = f"a list of {' and '.join(sorted(kind.__name__ for kind in kinds))}"
        raise DataError(f"{what}: {explain(got, 'texts, or mappings of forward keywords')}")
    if kinds == {str} and len(given) < LEAST:
        raise DataError(f"{what}: {explain('1 example', f'at least {LEAST}')}")


def _check_characters(text: str, what: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        got = f"half a character (U+{ord(text[error.start]):04X}) in {where}"
        raise DataError(f"{what}: {explain(got, 'whole characters')}") from error


def _moved(value: Any, device: torch.device) -> Any:
    """The same keywords with every tensor on the device."""
    if isinstance(value, Mapping):
        return {name: _moved(inner, device) for name, inner in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def _flat(batch: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in batch.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


LIMIT = 2**30
"""Bytes that a file of texts may have."""
_LOOKED_AT = 20


@dataclass(frozen=True)
class TextPool:
    """Texts of one side, split into those to fit with and held-out ones.

    Attributes:
        fit: texts to fit with.
        held_out: further texts, to judge by.
        different: texts that the file holds, each once.
        blank: lines and records of white space alone, left out.
        repeated: further copies of a text, left out.
        shared: different texts that stand on another side too, left out.
    """

    fit: tuple[str, ...]
    held_out: tuple[str, ...]
    different: int = 0
    blank: int = 0
    repeated: int = 0
    shared: int = 0


def read_examples(
    source: str | Path,
    name: str,
    fit: int,
    held_out: int,
    seed: int = 0,
    *,
    without: Collection[str] = frozenset(),
) -> TextPool:
    """Random draw of different examples from a file: each line of a text file, each record of JSON, CSV or Parquet.

    A line ends where editors end one (LF, CR LF or CR), not at other separators of Unicode, which texts may hold.

    Args:
        source: a file, or a glob pattern.
        name: what to call it in errors.
        fit: how many to fit with.
        held_out: how many more to judge by.
        seed: of the draw; the same file and seed give the same examples.
        without: texts that are left out, since they stand on another side.

    Raises:
        DataError: a file that cannot be read, JSON given as text, a record that is no text, or fewer
            different texts than asked for.
    """
    all_texts = list(_texts(source, name))
    nonblank = [text for text in all_texts if text.strip()]
    different = list(dict.fromkeys(nonblank))
    texts = [text for text in different if text not in without]
    shared = len(different) - len(texts)
    if len(texts) < fit + held_out:
        got = f"{len(texts)} different texts in {source}"
        got += f" beside {shared} that stand on another side" if shared else ""
        expected = f"{fit + held_out}: {fit} to fit with and {held_out} held out"
        raise DataError(f"{name}: {explain(got, expected, 'fewer of each, or more text')}")
    order = np.random.default_rng(derive(seed, "examples", name)).permutation(len(texts))
    drawn = [texts[place] for place in order[: fit + held_out]]
    blank, repeated = len(all_texts) - len(nonblank), len(nonblank) - len(different)
    return TextPool(tuple(drawn[:fit]), tuple(drawn[fit:]), len(different), blank, repeated, shared)


def different_texts(source: str | Path, name: str) -> frozenset[str]:
    """Every text of a file; for what is refused see `read_examples`."""
    return frozenset(text for text in _texts(source, name) if text.strip())


def _texts(source: str | Path, name: str) -> Iterator[str]:
    for path in find(str(source), name):
        if kind_of(path) == "text":
            yield from _lines(path, name)
            continue
        for item in Files((path,)):
            if not isinstance(item, Text):
                got = f"a {type(item).__name__.lower()} in {path}"
                raise DataError(f"{name}: {explain(got, 'plain texts')}")
            _check_characters(item.text, name, f"a text of {path}")
            yield item.text


def _lines(path: Path, name: str) -> list[str]:
    whole = read_text(path, "text", limit=LIMIT)
    lines = whole.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    first = [line for line in lines if line.strip()][:_LOOKED_AT]
    records = False
    with suppress(ValueError, RecursionError):
        records = bool(first) and all(isinstance(one := json.loads(line), dict) and one for line in first)
    if records:
        got = f"lines of {path} that are JSON objects"
        raise DataError(f"{name}: {explain(got, 'a text per line', 'a name that ends in .jsonl')}")
    refuse_records(path)
    return lines if whole else []


Normalisation = Literal["scale-free", "paper"]

FLOOR = 0.01
"""Share of a site's median variance that is added to each unit's, as a floor of scales."""


@dataclass(frozen=True, eq=False)
class Scale:
    """Scale of each unit of one site.

    Attributes:
        centre: (d,) mean of the untouched source samples.
        spread: (d,) standard deviation of the target samples, with a floor.
    """

    centre: Float[Tensor, " d"]
    spread: Float[Tensor, " d"]

    @classmethod
    def of(cls, source: Float[Tensor, "n d"], target: Float[Tensor, "m d"], how: Normalisation) -> Scale:
        """Scale of samples; centre 0 and spread 1 in the paper's units."""
        mean, variance = source.mean(0), target.var(0, correction=0)
        if how == "paper":
            return cls(torch.zeros_like(mean), torch.ones_like(mean))
        # The median, since a few units of some models are a thousand times larger than the rest.
        pooled = (variance + source.var(0, correction=0)) / 2
        floor = FLOOR * pooled[pooled > 0].median() if bool((pooled > 0).any()) else torch.ones_like(mean)
        return cls(mean, (variance + floor).sqrt())


def unit_costs(
    source: Float[Tensor, "n d"], target: Float[Tensor, "m d"], scale: Scale, p: float = 2.0
) -> Float[Tensor, " d"]:
    """Transport cost of each unit, `W_p^p / spread^p` (arXiv 2503.10679, eq. 5, per unit).

    Examples are sorted, units never: the cost does not change when examples are permuted on either side, together or
    apart, and is 0 exactly where a unit takes the same values on both.

    Args:
        source: one row per example.
        target: likewise; the number of rows may differ.
        scale: of the units; the paper's is 1 for all.
        p: order of the distance.

    >>> one = Scale(torch.zeros(1), torch.ones(1))
    >>> unit_costs(torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [1.0]]), one)
    tensor([1.])
    """
    return wasserstein_1d(source.T, target.T, p=p) / scale.spread**p
