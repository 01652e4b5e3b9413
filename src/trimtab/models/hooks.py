"""Forward hooks for the length of a block: capture of activations at sites, and interventions on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trimtab.errors import ShapeError, explain, nearest
from trimtab.models.batches import Pool
from trimtab.models.batches import pool as pooled
from trimtab.models.families import Handle, refusal, unwrapped
from trimtab.models.sites import Site, modules_of, network_of, resolve, resolve_each

Change = Callable[[Tensor], Tensor | None]
"""Function of an activation; its value replaces the activation; None, or the activation itself, leaves it."""


@contextmanager
def hooked(network: nn.Module, changes: Mapping[Site, Change], what: str, first: bool) -> Iterator[None]:
    """Hooked network for a block, with a change at each site; hooks are removed afterwards, also after an exception.

    Args:
        network: the network; neither its modules nor its `state_dict` change.
        changes: by site.
        what: what they are, for the error of one that never ran.
        first: whether they run before the hooks that only read, also before those that are there already.

    Raises:
        ModelError: gradient checkpointing is on (it runs blocks again after the hooks are gone), a site that is no
            tensor or that one forward pass reaches several times (layers that share a module), or, at the end of a
            block that went well, a site that was never reached.
    """
    if network.training and any(getattr(part, "gradient_checkpointing", False) for part in network.modules()):
        got = "a model that trains with gradient checkpointing, which runs its blocks again without hooks"
        raise refusal(got, "a plain forward pass", "model.gradient_checkpointing_disable()")
    modules, passes = modules_of(network), _Passes()
    handles: list[RemovableHandle] = passes.watch(unwrapped(network))
    try:
        for site, change in changes.items():
            handles.append(_Hook(site, change, first, passes).attach(modules[site.path]))
        yield
    finally:
        for handle in handles:
            handle.remove()
    if never := [site.name for site in changes if site not in passes.ever]:
        more = f" and {len(never) - 3} more" if len(never) > 3 else ""
        got = f"{what} that never ran at {', '.join(never[:3])}{more}"
        raise refusal(got, "a forward pass through each site inside the block")


class _Passes:
    """Sites that the current forward pass has reached, and those that any has reached."""

    def __init__(self) -> None:
        self.inside = False
        self.reached: set[Site] = set()
        self.ever: set[Site] = set()

    def watch(self, network: nn.Module) -> list[RemovableHandle]:
        """Follow the forward passes of a network, until the handles are removed."""
        begin = network.register_forward_pre_hook(self._begin)
        return [begin, network.register_forward_hook(self._end, always_call=True)]

    def note(self, site: Site) -> None:
        """Record that a site is reached; refused if the same forward pass has reached it before."""
        if self.inside and site in self.reached:
            got = "a module that runs several times in one forward pass, as layers that share it do"
            raise refusal(got, "a module of one layer", "another site", at=f"site {site.name}")
        self.reached.add(site)
        self.ever.add(site)

    def _begin(self, _module: nn.Module, _inputs: Any) -> None:
        self.inside = True
        self.reached.clear()

    def _end(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        self.inside = False


class _Hook:
    """A change at a site; those that only read run after all others, also after those that come later."""

    def __init__(self, site: Site, change: Change, first: bool, passes: _Passes) -> None:
        self.site, self.change, self.first, self.passes = site, change, first, passes

    def attach(self, module: nn.Module) -> RemovableHandle:
        """Register it with torch, in front of the hooks that only read."""
        hooks: Any = module._forward_hooks if self.site.side == "out" else module._forward_pre_hooks
        if self.site.side == "out":
            handle = module.register_forward_hook(self)
        else:
            handle = module.register_forward_pre_hook(self, with_kwargs=True)
        for key in [key for key, hook in hooks.items() if isinstance(hook, _Hook) and not hook.first]:
            hooks.move_to_end(key)
        return handle

    def __call__(self, _module: nn.Module, inputs: tuple[Any, ...], last: Any) -> Any:
        """As torch calls it: (inputs, keywords) before, (inputs, output) after the module."""
        if self.site.side == "out":
            value, new = self._changed(last)
            return None if new is value else _put(last, new)
        value, new = self._changed(inputs[0] if inputs else next(iter(last.values()), None))
        if new is value:
            return None
        return ((new, *inputs[1:]), last) if inputs else (inputs, last | {next(iter(last)): new})

    def _changed(self, value: Any) -> tuple[Tensor, Tensor]:
        """The tensor in what a module takes or returns, and what is to stand there."""
        values, at = value.values() if isinstance(value, Mapping) else value, f"site {self.site.name}"
        tensor = next(iter(values), None) if isinstance(value, Mapping | tuple | list) else value
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise refusal(f"a {type(tensor).__name__}", "a tensor of numbers", at=at)
        self.passes.note(self.site)
        try:
            new = self.change(tensor)
        except ShapeError as error:
            raise ShapeError(f"{at}: {error}") from error
        return tensor, tensor if new is None else new


def _put(value: Any, new: Tensor) -> Any:
    """The value with its first tensor replaced."""
    if isinstance(value, MutableMapping):
        kept = copy(value)
        kept[next(iter(value))] = new
        return kept
    if isinstance(value, tuple | list):
        return type(value)([new, *value[1:]])
    return new


VISION = ("vision_model", "vision_tower", "visual", "multi_modal_projector", "mapping")
"""Parts of a path under which there are image patches, for which a mask of tokens means nothing."""


class Taken(Mapping[str, Tensor]):
    """Captured activations by site name: (rows, d) where pooled, else (rows, T, d) or (rows, C, H, W).

    Rows of several forward passes follow one another. It can be read inside and after the block.

    Attributes:
        tokens: (B, T), 1 at the tokens that are pooled in the forward passes from now on; None for all valid ones.
    """

    tokens: Tensor | None = None

    def __init__(self, sites: Sequence[Site]) -> None:
        self._parts: dict[str, list[Tensor]] = {site.name: [] for site in sites}

    def __getitem__(self, name: str) -> Tensor:
        """All rows read at a site.

        Raises:
            KeyError: the site was not captured.
            ModelError: nothing was read there yet.
            ShapeError: forward passes of different lengths cannot be joined without pooling.
        """
        if name not in self._parts:
            raise KeyError(explain(repr(name), "a site that was asked for", nearest(name, self._parts)))
        parts = self._parts[name]
        if not parts:
            raise refusal(f"nothing at {name} yet", "a forward pass inside the block")
        if len({part.shape[1:] for part in parts}) > 1:
            got = f"forward passes of shapes {sorted({tuple(part.shape) for part in parts})} at {name}"
            raise ShapeError(explain(got, "the same shape but for rows", 'pool="mean" or one pass per block'))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def __iter__(self) -> Iterator[str]:
        """The names of the sites."""
        return iter(self._parts)

    def __len__(self) -> int:
        """How many sites there are."""
        return len(self._parts)

    def add(self, site: Site, value: Tensor) -> None:
        """Append the activations of one forward pass."""
        self._parts[site.name].append(value)


@contextmanager
def capture(
    model: Handle | nn.Module,
    sites: str | Site | Sequence[str | Site],
    pool: Pool | None = None,
    *,
    grad: bool = False,
) -> Iterator[Taken]:
    """Captured activations at sites, of the forward passes of a block.

    Args:
        model: a handle or a network; it is never changed.
        sites: patterns, see `trimtab.models.sites.resolve`.
        pool: None for whole tensors, or one vector per example, see `trimtab.models.batches.pool`. Valid are the tokens
            of the 2-D `attention_mask` that the model is called with; where it is called without one all tokens count,
            as they do for the model. Patches of images always do. `Taken.tokens` may ask for fewer tokens.
        grad: keep activations in the graph; otherwise they are detached.

    Returns:
        A mapping from site names that fills as the model runs.

    Raises:
        ModelError: a pattern matches nothing, the model is compiled or checkpoints, or a site was never reached.
        ShapeError: a mask that does not fit, inside the block.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> with capture(net, "0:out") as taken:
    ...     _ = net(torch.ones(5, 2))
    >>> taken["0:out"].shape
    torch.Size([5, 3])
    """
    network = network_of(model)
    wanted = resolve(network, sites)
    taken, seen = Taken(wanted), _SeenMask()

    def read(site: Site, value: Tensor) -> None:
        kept = value if grad else value.detach()
        taken.add(site, kept if pool is None else pooled(kept, pool, seen.of(site, value, taken.tokens)))

    watch = network.register_forward_pre_hook(seen.look, with_kwargs=True)
    try:
        with hooked(network, {site: partial(read, site) for site in wanted}, "a capture", first=False):
            yield taken
    finally:
        watch.remove()


class _SeenMask:
    """Attention mask of the last call of the network."""

    mask: Tensor | None = None
    part: str = ""
    """Where it counts: everywhere but at patches, or below the decoder alone."""

    def look(self, _module: nn.Module, _inputs: Any, keywords: Mapping[str, Any]) -> None:
        self.part = "" if "attention_mask" in keywords else "decoder"
        mask = keywords.get(f"{self.part}_attention_mask".lstrip("_"))
        self.mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def of(self, site: Site, value: Tensor, tokens: Tensor | None) -> Tensor | None:
        """The mask of the tokens at a site, or of those asked for; with a cache those are the last ones."""
        mask = self.mask if tokens is None else tokens
        parts = site.path.split(".")
        if mask is None or value.ndim != 3 or any(part in VISION for part in parts):
            return None
        if tokens is None and self.part and parts[0] != self.part:
            return None
        return mask[:, -value.shape[1] :]


Intervention = Callable[[Tensor], Tensor]
"""A module or function `h -> h` of the same shape: (B, T, d) over tokens, (B, C, H, W) over an image."""


@contextmanager
def intervene(
    model: Handle | nn.Module, interventions: Mapping[str, Intervention], strength: float | Tensor = 1.0
) -> Iterator[None]:
    """Interventions for a block: `(1 - s) h + s T(h)` at each site.

    Works in training and generation, with a cache and with gradients, on tensors and on the first tensor of a tuple.
    Blocks may be nested: the outer one acts first at a site they share. A `capture` sees what all of them leave.

    Args:
        model: a handle or a network; it is never changed.
        interventions: by pattern; a pattern that matches several sites gives each the same.
        strength: in [0, 1]; one number, or (B,) one per row of the batch. Rows at 0 are bit-identical to those of the
            untouched model, whatever T does there. Under classifier-free guidance give the unconditional half 0.

    Raises:
        ModelError: strength out of range, a pattern that matches nothing, a compiled or checkpointing model, two
            interventions for one site, or an intervention that never ran by the end of the block.
        ShapeError: as many strengths as rows are needed, inside the block; or T changed the shape.
    """
    amount = checked_strength(strength)
    network = network_of(model)
    changes: dict[Site, Change] = {}
    for pattern, sites in resolve_each(network, interventions).items():
        for site in sites:
            if site in changes:
                raise refusal("two interventions", "one", at=f"site {site.name}")
            changes[site] = partial(blend, intervention=interventions[pattern], strength=amount)
    with hooked(network, changes, "an intervention", first=True):
        yield


def checked_strength(strength: float | Tensor) -> float | Tensor:
    """Checked strength: a number, or a tensor (B,), in [0, 1].

    Raises:
        ModelError: it is not.
    """
    try:
        values = torch.as_tensor(strength).detach()
    except (TypeError, ValueError, RuntimeError) as error:  # what torch says of None, texts and ragged lists
        kind = f"a {type(strength).__name__}"
        raise refusal(kind, "a number or one per row, (B,)", at="strength") from error
    if values.ndim > 1 or values.numel() == 0:
        raise refusal(f"shape {tuple(values.shape)}", "a number or one per row, (B,)", at="strength")
    if not bool(((values >= 0) & (values <= 1)).all()):
        got = f"values from {values.min():g} to {values.max():g}" if values.ndim else values.item()
        raise refusal(got, "numbers in [0, 1]", "a steering times a number, to go beyond", at="strength")
    return strength if isinstance(strength, Tensor) and strength.ndim else float(strength)


def blend(h: Tensor, intervention: Intervention, strength: float | Tensor) -> Tensor:
    """Interpolation `(1 - s) h + s T(h)`, with s per row of `h` or one for all; h itself, bit by bit, where s is 0.

    Raises:
        ShapeError: not one strength per row, or T(h) of another shape.
    """
    if not isinstance(strength, Tensor):
        if strength == 0:
            return h
        changed = _applied(h, intervention)
        return changed if strength == 1 else torch.lerp(h, changed, strength)
    if len(strength) != len(h):
        got = f"{len(strength)} strengths for a batch of {len(h)} rows"
        raise ShapeError(explain(got, "one per row", "repeat them as beams or several sequences repeat rows"))
    rows = strength.to(h.device, h.dtype).reshape(-1, *[1] * (h.ndim - 1))
    mixed = torch.lerp(h, _applied(h, intervention), rows)
    return torch.where(rows > 0, mixed, h)


def _applied(h: Tensor, intervention: Intervention) -> Tensor:
    changed = intervention(h)
    if changed.shape != h.shape:
        got = f"shape {tuple(changed.shape)} from an intervention on {tuple(h.shape)}"
        raise ShapeError(explain(got, "the shape it was given"))
    return changed.to(h.dtype)
