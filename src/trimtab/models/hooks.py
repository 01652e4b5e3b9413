"""Forward hooks that are gone after a block, and the tensor they are about in what a module takes or returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trimtab.errors import ModelError, explain
from trimtab.models.families import unwrapped
from trimtab.models.sites import Site, modules_of

Change = Callable[[Tensor], Tensor | None]
"""Told a tensor; what it returns takes the tensor's place, None leaves it."""


@contextmanager
def hooked(network: nn.Module, changes: Mapping[Site, Change], what: str, first: bool) -> Iterator[None]:
    """Run a block with a change at each site; every hook is gone afterwards, also after an exception.

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
    _refuse_checkpointing(network)
    modules, reached = modules_of(network), dict.fromkeys(changes, False)
    passes = _Passes()
    handles: list[RemovableHandle] = passes.watch(unwrapped(network))
    try:
        for site, change in changes.items():
            handles.append(_attach(modules[site.path], site, _noting(site, change, reached, passes), first))
        yield
    finally:
        for handle in handles:
            handle.remove()
    if never := [site.name for site, done in reached.items() if not done]:
        got = f"{what} that never ran at {_some(never)}"
        raise ModelError(explain(got, "a forward pass through each site inside the block"))


class _Passes:
    """Which sites the forward pass that is under way has reached."""

    def __init__(self) -> None:
        self.inside = False
        self.reached: set[Site] = set()

    def watch(self, network: nn.Module) -> list[RemovableHandle]:
        """Follow the forward passes of a network, until the handles are removed."""
        return [
            network.register_forward_pre_hook(self._begin),
            network.register_forward_hook(self._end, always_call=True),
        ]

    def note(self, site: Site) -> None:
        """A site is reached; refused if the same forward pass has reached it before."""
        if self.inside and site in self.reached:
            got = "a module that runs several times in one forward pass, as layers that share it do"
            raise ModelError(f"site {site.name}: {explain(got, 'a module of one layer', 'another site')}")
        self.reached.add(site)

    def _begin(self, _module: nn.Module, _inputs: Any) -> None:
        self.inside = True
        self.reached.clear()

    def _end(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        self.inside = False


class Reading:
    """A hook that only reads; it runs after every hook that changes something."""

    def __init__(self, change: Change, site: Site) -> None:
        self.change, self.site = change, site

    def __call__(self, _module: nn.Module, *call: Any) -> None:
        """As torch calls it: (inputs, keywords) before, (inputs, output) after the module."""
        inside = call[-1] if self.site.side == "out" else _first_input(call[0], call[1])
        self.change(_tensor(inside, self.site))


def _attach(module: nn.Module, site: Site, change: Change, first: bool) -> RemovableHandle:
    if site.side == "out":
        hook = _changing_output(site, change) if first else Reading(change, site)
        handle = module.register_forward_hook(hook)
        hooks: Any = module._forward_hooks
    else:
        hook = _changing_input(site, change) if first else Reading(change, site)
        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
        hooks = module._forward_pre_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook, Reading)]:
        hooks.move_to_end(key)
    return handle


def _changing_output(site: Site, change: Change) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        new = change(_tensor(output, site))
        return None if new is None else _put(output, new)

    return hook


def _changing_input(site: Site, change: Change) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(_module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        new = change(_tensor(_first_input(inputs, keywords), site))
        if new is None:
            return None
        if inputs:
            return (new, *inputs[1:]), keywords
        return inputs, keywords | {next(iter(keywords)): new}

    return hook


def _first_input(inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    return inputs[0] if inputs else next(iter(keywords.values()), None)


def _tensor(value: Any, site: Site) -> Tensor:
    """The tensor itself, or the first of several."""
    if isinstance(value, Mapping):
        value = next(iter(value.values()), None)
    elif isinstance(value, tuple | list):
        value = value[0] if value else None
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ModelError(f"site {site.name}: {explain(f'a {type(value).__name__}', 'a tensor of numbers')}")
    return value


def _put(value: Any, new: Tensor) -> Any:
    """The value with its first tensor replaced."""
    if isinstance(value, MutableMapping):
        kept = copy(value)
        kept[next(iter(value))] = new
        return kept
    if isinstance(value, tuple | list):
        return type(value)([new, *value[1:]])
    return new


def _noting(site: Site, change: Change, reached: dict[Site, bool], passes: _Passes) -> Change:
    def noted(value: Tensor) -> Tensor | None:
        passes.note(site)
        reached[site] = True
        return change(value)

    return noted


def _refuse_checkpointing(network: nn.Module) -> None:
    if network.training and any(getattr(part, "gradient_checkpointing", False) for part in network.modules()):
        got = "a model that trains with gradient checkpointing, which runs its blocks again without hooks"
        raise ModelError(explain(got, "a plain forward pass", "model.gradient_checkpointing_disable()"))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
