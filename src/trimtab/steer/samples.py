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
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.data.record_files import refuse_records
from trimtab.data.records import Chat, Columns, Completion, Item, Record, Text, parse, whole
from trimtab.data.rows import record_rows
from trimtab.data.splits import Files, find, kind_of
from trimtab.errors import DataError, ModelError, explain
from trimtab.models.batches import Pool, TokenRow, check_listed, evaluating, text_batches
from trimtab.models.chat import Conversation, is_talk, read_prompt
from trimtab.models.devices import device_of
from trimtab.models.hooks import Intervention, Taken, capture, intervene
from trimtab.models.inspection import check_model
from trimtab.models.sites import Site, network_of
from trimtab.numerics.transport import wasserstein_1d
from trimtab.runs.files import read_text
from trimtab.seeds import derive, isolated
from trimtab.steer.maps import AffineMap

if TYPE_CHECKING:
    from trimtab.models.load import Model


Inputs = Sequence[Record] | Sequence[Sequence[Mapping[str, Any]]] | Sequence[Mapping[str, Any]]
"""Texts, records and lists of messages; or batches of forward keywords for models that read something else."""

Samples = Mapping[str, Float[Tensor, "n d"]]
"""Site name -> one vector per example."""

RECORDS = frozenset({"messages", "conversations", "instruction", "prompt", "completion", "text"})
"""Keys of records, which no forward pass takes."""

LEAST = 2
"""Fewest examples on each side: a single one has no spread."""


@dataclass(frozen=True)
class Examples:
    """Examples of one side, as the batches that a model is run on.

    Attributes:
        what: "source" or "target", for errors.
        batches: forward keywords, on the model's device.
        fingerprint: 16 hex digits that change when an example does.
        responses: of each batch, (B, T), 1 at the tokens that are pooled; None, or no entry, for all valid ones.
    """

    what: str
    batches: tuple[Mapping[str, Any], ...]
    fingerprint: str
    responses: tuple[Tensor | None, ...] = ()

    @classmethod
    def of(
        cls, model: Model | nn.Module, what: str, given: Inputs, batch_size: int, max_tokens: int | None
    ) -> Examples:
        """The batches of records or of forward keywords; see `prepare`."""
        network, responses = network_of(model), tuple[Tensor | None, ...]()
        if isinstance(given[0], Mapping):
            device = device_of(network)
            batches = tuple(_moved(batch, device) for batch in given)
        elif isinstance(model, nn.Module):
            got, hint = "texts for a bare module, which has no tokenizer", "load(module, tokenizer=...)"
            raise ModelError(f"{what}: {explain(got, 'a handle with a tokenizer', hint)}")
        else:
            rows = record_rows(model.need_tokenizer(), cast("Any", given), what, max_tokens=max_tokens)
            padded = list(text_batches(model, rows, batch_size=batch_size))
            batches = tuple(batch.arguments(network) for batch in padded)
            responses = tuple(batch.response for batch in padded)
        digest = hashlib.sha256()
        masks = [{"response": mask} for mask in responses if mask is not None]
        for name, value in (pair for batch in (*batches, *masks) for pair in _flat(batch)):
            if isinstance(value, Tensor):
                digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            else:
                digest.update(f"{name} {value!r}\n".encode())
        return cls(what, batches, digest.hexdigest()[:16], responses)

    def run(self, network: nn.Module, number: int, taken: Taken) -> None:
        """Forward pass of one batch inside a capture, of which the tokens of responses are pooled."""
        taken.tokens = self.responses[number] if self.responses else None
        network(**self.batches[number])


def prepare(
    model: Model | nn.Module, source: Inputs, target: Inputs, *, batch_size: int, max_tokens: int | None
) -> tuple[Examples, Examples]:
    """Batches of the source and target examples; nothing is run yet.

    Args:
        model: a handle, with a tokenizer where examples are records.
        source: how it behaves: records as `trimtab.data.domains.Domain` takes them, or lists of messages, of which
            `trimtab.data.rows.record_rows` says what is read; or mappings of forward keywords, each a batch of any
            size.
        target: how it should; as many or as few as you like, and unpaired.
        batch_size: records at a time; mappings of keywords are taken as they are.
        max_tokens: longer records are cut; None refuses those beyond the model's limit.

    Raises:
        DataError: a side is empty, one single record, a mixture of records and keywords, has fewer than two records or
            a malformed one.
        ModelError: records for a model without tokenizer, messages for one without a chat template, or a text without
            tokens, of white space alone or too long.
    """
    check_model(model)
    sides: list[tuple[str, Any]] = [("source", source), ("target", target)]
    for place, (what, given) in enumerate(sides):
        if not isinstance(given, str | Mapping):
            check_listed(given, f"{what} example")
        sides[place] = (what, _read(what, given))
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
        for number in range(len(examples.batches)):
            examples.run(network_of(model), number, taken)
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


def rows_to_measure(
    model: Model, records: Sequence[Record], what: str, max_tokens: int | None = None
) -> list[str] | list[TokenRow]:
    """Texts to measure as they are; where records are among them, the rows of all, in which responses are scored.

    Raises:
        DataError, ModelError: as `prepare`.
    """
    if all(isinstance(one, str) for one in records):
        return [str(one) for one in records]
    items = checked_records(what, records)
    return record_rows(model.need_tokenizer(), items, what, max_tokens=max_tokens)


def _read(what: str, given: Any) -> list[Item] | list[Mapping[str, Any]]:
    """Records that are checked, or forward keywords as they are."""
    if isinstance(given, str | Mapping):
        kind = "one single text" if isinstance(given, str) else "one mapping"
        raise DataError(f"{what}: {explain(kind, 'a list of examples', '[...]')}")
    every = list(given)
    if not every:
        raise DataError(f"{what}: {explain('no example', f'at least {LEAST}')}")
    keywords = [one for one in every if isinstance(one, Mapping) and not _is_record(one)]
    if keywords and len(keywords) < len(every):
        others = sorted({type(one).__name__ for one in every})
        got = f"a list of {' and '.join(others)}" if len(others) > 1 else "records beside other mappings"
        raise DataError(f"{what}: {explain(got, 'records, or mappings of forward keywords')}")
    if keywords:
        return keywords
    items = checked_records(what, every)
    if len(items) < LEAST:
        raise DataError(f"{what}: {explain('1 example', f'at least {LEAST}')}")
    return items


def _is_record(one: Mapping[Any, Any]) -> bool:
    return bool(RECORDS & set(map(str, one))) or {"role", "content"} <= set(one)


def checked_records(what: str, given: Sequence[Any]) -> list[Item]:
    """Checked records of texts, mappings and lists of messages; texts that no tokenizer reads are refused.

    Raises:
        DataError, ModelError: as `prepare`.
    """
    items = []
    for place, one in enumerate(given):
        if isinstance(one, str) and not one.strip():
            got = f"the text {one!r}, which has no token of its own, at place {place}"
            raise ModelError(f"{what}: {explain(got, 'a text', 'leaving it out')}")
        if isinstance(one, str):
            _check_characters(one, what, f"the text at place {place}")
        if isinstance(one, Mapping) and "role" in one and not RECORDS & set(map(str, one)):
            got = f"one message at place {place}"
            raise DataError(f"{what}: {explain(got, 'a list of messages for each example', '[messages]')}")
        where = f"{what}, record {place}"
        prompt = isinstance(one, Mapping) and "prompt" in one and not {"completion", "messages"} & set(one)
        if prompt:
            read = read_prompt(one, where)
            one = Chat(read.messages, read.given) if isinstance(read, Conversation) else read
        items.append(whole(parse({"messages": one} if is_talk(one) else one, where)))
    return items


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


Example = str | Completion | Chat
"""A text, or another record that has been checked."""


@dataclass(frozen=True)
class TextPool:
    """Texts or other records of one side, split into those to fit with and held-out ones.

    Attributes:
        fit: texts to fit with; other records as `trimtab.data.records.parse` gives them.
        held_out: further ones, to judge by.
        different: texts that the file holds, each once.
        blank: lines and records of white space alone, left out.
        repeated: further copies of a text, left out.
        shared: different texts that stand on another side, or among those to fit with, left out.
    """

    fit: tuple[Example, ...]
    held_out: tuple[Example, ...]
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
    without: Collection[str | bytes] = frozenset(),
    columns: Columns = None,
) -> TextPool:
    """Random draw of different examples from a file: each line of a text file, each record of JSON, CSV or Parquet.

    A line ends where editors end one (LF, CR LF or CR), not at other separators of Unicode, which texts may hold.

    Args:
        source: a file, or a glob pattern.
        name: what to call it in errors.
        fit: how many to fit with.
        held_out: how many more to judge by.
        seed: of the draw; the same file and seed give the same examples.
        without: what is left out, since it stands on another side, as `different_texts` gives it.
        columns: our keys -> those of the files, or "sharegpt" or "alpaca", as `Domain.from_path` has them.

    Raises:
        DataError: a file that cannot be read, JSON given as text, a malformed record, or fewer different examples than
            asked for.
    """
    every = list(_examples(source, name, columns))
    nonblank = [one for one in every if not isinstance(one, str) or one.strip()]
    different = {key_of(one): one for one in reversed(nonblank)}
    kept = [different[key] for key in dict.fromkeys(map(key_of, nonblank)) if key not in without]
    shared = len(different) - len(kept)
    if len(kept) < fit + held_out:
        got = f"{len(kept)} different texts in {source}"
        got += f" beside {shared} that stand on another side or were fitted with" if shared else ""
        expected = f"{fit + held_out}: {fit} to fit with and {held_out} held out" if fit else f"{held_out}"
        raise DataError(f"{name}: {explain(got, expected, 'fewer of each, or more text')}")
    order = np.random.default_rng(derive(seed, "examples", name)).permutation(len(kept))
    drawn = [kept[place] for place in order[: fit + held_out]]
    blank, repeated = len(every) - len(nonblank), len(nonblank) - len(different)
    return TextPool(tuple(drawn[:fit]), tuple(drawn[fit:]), len(different), blank, repeated, shared)


def key_of(example: Example) -> str | bytes:
    """What tells an example from others: a text itself, the digest of any other record."""
    return example if isinstance(example, str) else example.digest


def different_texts(source: str | Path, name: str, columns: Columns = None) -> frozenset[str | bytes]:
    """Every example of a file, by `key_of`; for what is refused see `read_examples`."""
    examples = _examples(source, name, columns)
    return frozenset(key_of(one) for one in examples if not isinstance(one, str) or one.strip())


def _examples(source: str | Path, name: str, columns: Columns) -> Iterator[Example]:
    for path in find(str(source), name):
        if kind_of(path) == "text":
            yield from _lines(path, name)
            continue
        for item in Files((path,), columns=columns):
            if isinstance(item, Text):
                _check_characters(item.text, name, f"a text of {path}")
                yield item.text
                continue
            _ = whole(item)
            yield item


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

    def map(self, change: Float[Tensor, " d"], move: Float[Tensor, " d"]) -> AffineMap:
        """Map at coordinates: z to `centre + (1 + change) (z - centre) + spread * move`; gradients flow."""
        return AffineMap(1 + change, self.spread * move - self.centre * change)

    def coordinates(self, of: AffineMap) -> Float[Tensor, "2 d"]:
        """Coordinates of a map, which `map` makes that map of."""
        change = of.weight.to(self.centre) - 1
        return torch.stack([change, (of.shift.to(self.centre) + self.centre * change) / self.spread])


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
