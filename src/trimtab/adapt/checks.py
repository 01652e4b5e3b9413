"""What is refused before a run begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import numpy as np

from trimtab.adapt.mixer import Mixer
from trimtab.adapt.roles import Roles, role_problems
from trimtab.data.domains import Domain
from trimtab.data.tokens import TokenDomain, TokenSplit, tokenise
from trimtab.errors import ConfigProblems, Problem
from trimtab.models.load import Model
from trimtab.models.vocabulary import lacks_tokens, refuse_longer, unknown_token, vocabulary
from trimtab.runs.reading import typed_problems
from trimtab.train.fit import Fit


def problems(
    roles: Roles,
    train: Mapping[str, Any],
    evaluate: Mapping[str, Any],
    mixer: Mixer,
    fit: Fit,
    world: int = 1,
) -> Iterator[Problem]:
    """Every mistake that can be seen without reading data or loading a model."""
    if isinstance(mixer.targets, str):
        hint = f"[{mixer.targets!r}]"
        yield Problem("targets", f"the text {mixer.targets!r}", "a list of domains", hint)
        return
    for name in evaluate:
        if name in train:
            yield Problem(
                f"evaluate.{name}",
                "a domain of the same name in `train`",
                "a new name",
                "leaving it out: every training domain is evaluated too",
            )
    yield from role_problems(roles)
    yield from mixer.problems(roles)
    yield from fit.problems()
    yield from _schedule_problems(mixer, fit)
    if fit.batch_size < world:
        expected = f"at least one sequence for each of {world} processes"
        yield Problem("fit.batch_size", str(fit.batch_size), expected)


def type_problems(mixer: Any, fit: Any) -> Iterator[Problem]:
    """What is no mixer or no fit, and settings of ours of another type than declared: asked first."""
    if isinstance(mixer, type) or not hasattr(mixer, "decide"):
        yield Problem("mixer", repr(mixer), "a mixer", "Uniform(targets=['...'])")
    elif type(mixer).__module__.partition(".")[0] == __name__.partition(".")[0] and is_dataclass(mixer):
        listed = not isinstance(getattr(mixer, "targets", ()), str)
        known = ("constraints",) if listed else ("constraints", "targets")  # told by `problems`
        yield from typed_problems(mixer, "mixer", without=known)
    if isinstance(fit, Fit):
        yield from typed_problems(fit, "fit")
    else:
        yield Problem("fit", repr(fit), "the settings of a run", "Fit(steps=...)")


MOST_UPDATES = 10**5
"""Rounds of rolled-back probes that a run may have; each is planned before it starts."""


def _schedule_problems(mixer: Mixer, fit: Fit) -> Iterator[Problem]:
    gap = getattr(mixer, "schedule", None)
    if isinstance(gap, int) and gap > 0 and fit.steps // gap > MOST_UPDATES:
        expected = f"at least {-(-fit.steps // MOST_UPDATES)}, for at most {MOST_UPDATES:,} updates"
        yield Problem("mixer.schedule", str(gap), expected)


def refuse(found: Iterator[Problem]) -> None:
    """Raise all problems at once, if there are any."""
    if mistakes := list(found):
        raise ConfigProblems(mistakes)


def tokenise_all(
    domains: Mapping[str, Domain], roles: Roles, model: Model, fit: Fit
) -> dict[str, TokenDomain]:
    """Every domain tokenised, each with the splits that its use needs and enough rows in them."""
    tokens = {
        name: tokenise(domain, model, seq_len=fit.seq_len, packing=fit.packing)
        for name, domain in domains.items()
    }
    refuse(_short_domains(tokens, roles, fit))
    for name, domain in tokens.items():
        for split, rows in domain.splits.items():
            _refuse_unfit(rows, f"{name}, split {split}", model, fit)
    return tokens


def _refuse_unfit(rows: TokenSplit, where: str, model: Model, fit: Fit) -> None:
    """Refuse rows that are longer than the model's positions, or have tokens that it has no embedding for."""
    network, tokenizer = model.module, model.need_tokenizer()
    lengths = np.diff(rows.offsets)
    length = int(lengths.max(initial=0))
    got = f"{length} tokens in a row of {where} (fit.seq_len={fit.seq_len})"
    refuse_longer(network, length, got, "fit.seq_len={limit}")
    if lacks_tokens(network, tokenizer):
        largest = int(rows.ids.max(initial=0))
        if length > lengths.min(initial=length):  # else no row is ever padded
            largest = max(largest, rows.pad_id)
        if largest >= (vocabulary(network) or largest + 1):
            raise unknown_token(network, tokenizer, largest, where)


def _short_domains(tokens: Mapping[str, TokenDomain], roles: Roles, fit: Fit) -> Iterator[Problem]:
    for name, domain in tokens.items():
        needed = {"validation": 2, "test": 2}
        if name in roles.train:
            needed["train"] = fit.batch_size
        for split, rows in needed.items():
            got = len(domain.splits[split]) if split in domain.splits else 0
            if got < rows:
                expected = f"at least {rows}{', one batch' if split == 'train' else ''}"
                where = f"{name}, split {split}"
                found, hint = f"{got} sequences of {fit.seq_len} tokens", "more data, or a smaller seq_len"
                if split in domain.splits:
                    counts = domain.splits[split].counts
                    found += f" ({counts.dropped} records dropped)" * bool(counts.dropped)
                    found += f" ({counts.skipped} left out)" * bool(counts.skipped)
                    hint = "a larger seq_len, or more data" if counts.beyond else hint
                yield Problem(where, found, expected, hint)
