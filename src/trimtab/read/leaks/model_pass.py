"""Pass over a model for all levels of an audit: what is kept of every prompt goes to files as it is computed.

No more than the first 256 prompts and one batch are in memory at a time, however many prompts there are.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import CheckpointError, ModelError, explain, refusal
from trimtab.models.answers import AnswerStates, answer_rows, answer_states
from trimtab.models.families import Handle
from trimtab.models.readout import readout_of
from trimtab.models.sites import network_fingerprint
from trimtab.models.tokenizer import predicted
from trimtab.read.leaks.levels import Hidden, Level, TopLogits, TopLogprobs, Trajectory, check_levels
from trimtab.read.leaks.questions import Questions
from trimtab.read.leaks.readings import FACTS, FORMAT, Plan, Readings, facts_of, open_readings
from trimtab.read.lenses.lens import Lens, LogitLens
from trimtab.runs.atomic import full_disk_is_clear, write_atomic
from trimtab.runs.serialise import to_json
from trimtab.seeds import derive

Progress = Callable[[int, int], None]
FIRST = 256
"""Prompts whose mean log-probabilities choose the fixed tokens."""


def read_model(
    model: Handle,
    questions: Questions,
    levels: Sequence[Level],
    folder: str | Path,
    *,
    temperatures: Sequence[float] = (),
    tokens: Sequence[int] = (),
    batch_size: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
) -> Readings:
    """Readings of a model at the answer position of every prompt, for all levels in one pass.

    A finished folder is used as it is where it was read from the same tokens and pictures by the same weights, levels,
    seed and versions; a half finished one goes on after its last prompt; another one is replaced. Hooks and
    interventions of the caller take part, and are not part of that comparison.

    Args:
        model: see `trimtab.models.answers.answer_states`.
        questions: with prompts.
        levels: what to keep. The lens of a trajectory is a lens, or None or "logit".
        folder: of the readings alone; made where it is missing.
        temperatures: further ones at which log-probabilities are to be served.
        tokens: further tokens whose logits are to be kept, such as those of right answers.
        batch_size: prompts at a time; results do not depend on it but for rounding.
        seed: of the random tokens.
        progress: called with how many prompts were read, and of how many.

    Raises:
        ConfigProblems: levels that are wrong by themselves.
        ModelError: a model that cannot be read; a state that it does not have; a lens that was not fitted, or that is
            of another model.
        DataError: no prompts, or tokens or temperatures that cannot be.
        CheckpointError: too little room on the disk (before any work), or a disk that fills up.
    """
    plan, lenses = _planned(model, questions, levels, temperatures, tokens)
    folder = Path(folder)
    facts = {"format": FORMAT, "fingerprint": _fingerprint(model, questions, plan, lenses, seed)}
    old = facts_of(folder)
    if old.get("fingerprint") != facts["fingerprint"]:
        draws = np.random.default_rng(derive(seed, "leaks", "random tokens"))
        random = draws.permutation(plan.vocabulary)[: plan.chosen].tolist()
        _make_room(folder, plan)
        old = {**facts, "plan": plan, "random": random, "fixed": None, "finished": False}
        write_atomic(folder / FACTS, to_json(old))
    if not old["finished"]:
        _read(model, questions, plan, lenses, folder, batch_size, progress)
    return open_readings(folder)


def scratch_bytes(
    model: Handle,
    questions: Questions,
    levels: Sequence[Level],
    *,
    temperatures: Sequence[float] = (),
    tokens: Sequence[int] = (),
) -> int:
    """Bytes on the disk that `read_model` takes with the same arguments; nothing is read.

    Raises:
        ModelError: as `read_model`.
    """
    return _planned(model, questions, levels, temperatures, tokens)[0].bytes


def _planned(
    model: Handle,
    questions: Questions,
    levels: Sequence[Level],
    temperatures: Sequence[float],
    tokens: Sequence[int],
) -> tuple[Plan, dict[str, Lens]]:
    """What to keep, and the lens of each trajectory by its key."""
    checked = check_levels(levels)
    if not len(questions.prompts):
        raise refusal("questions", "no prompts", "prompts that the model reads", "read_questions")
    paths = [level for level in checked if isinstance(level, Trajectory)]
    hidden = [level for level in checked if isinstance(level, Hidden)]
    readout = readout_of(model) if paths or hidden else None
    depth = len(readout.sites) if readout else 0
    vocabulary = (readout.vocabulary if readout else predicted(model.module)) or readout_of(model).vocabulary
    most = [k for level in checked if isinstance(level, TopLogits | TopLogprobs) for k in level.ks]
    served = {float(level.temperature) for level in checked if isinstance(level, TopLogprobs)}
    for temperature in temperatures:
        if not 0 < temperature < float("inf"):
            raise refusal("temperatures", temperature, "numbers above 0")
    if beyond := [token for token in tokens if not 0 <= token < vocabulary]:
        raise refusal("tokens", beyond[0], f"tokens from 0 to {vocabulary - 1}")
    lenses = {level.key: _lens(model, level, depth) for level in paths}
    plan = Plan(
        rows=len(questions.prompts),
        width=readout.width if readout else 0,
        states=_states(hidden, depth),
        depth=depth,
        vocabulary=vocabulary,
        top=min(max([1, *most, *(level.top for level in paths)]), vocabulary),
        chosen=min(max(most, default=0), vocabulary),
        every=any(isinstance(level, TopLogits) and level.k is None for level in checked),
        trajectories={level.key: min(level.top, vocabulary) for level in paths},
        temperatures=(1.0, *sorted((served | set(map(float, temperatures))) - {1.0})),
        tokens=tuple(dict.fromkeys(map(int, tokens))),
    )
    return plan, lenses


def _states(levels: Sequence[Hidden], depth: int) -> tuple[int, ...]:
    wanted = set[int]()
    for level in levels:
        for state in range(depth) if level.states is None else level.states:
            if not -depth <= state < depth:
                got, hint = f"state {state}", "Hidden() for all of them"
                raise refusal("hidden", got, f"a state from {-depth} to {depth - 1}", hint, error=ModelError)
            wanted.add(state % depth)
    return tuple(sorted(wanted))


def _lens(model: Handle, level: Trajectory, depth: int) -> Lens:
    if level.lens is None or level.lens == "logit":
        return LogitLens(model)
    if not hasattr(level.lens, "log_probabilities"):
        got, hint = f"the lens {str(level.lens)!r}, which is not read yet", "TunedLens.fit(model, texts)"
        raise refusal("trajectory", got, "a lens of this model", hint, error=ModelError)
    lens: Lens = level.lens
    if lens.states != depth:
        got = f"a lens for {lens.states} states"
        raise refusal(
            "trajectory", got, f"one for the {depth} of this model", "fitting it anew", error=ModelError
        )
    return lens


def _fingerprint(
    model: Handle, questions: Questions, plan: Plan, lenses: Mapping[str, Lens], seed: int
) -> str:
    """16 hex digits of all that readings depend on; of a lens what it says of a random state of each depth."""
    digest = hashlib.sha256()
    for row in answer_rows(model, questions.prompts):
        digest.update(f"{row}\n".encode())
    facts = [network_fingerprint(model.module), questions.fingerprint, digest.hexdigest(), plan, seed]
    facts += [torch.__version__, transformers.__version__, FORMAT]
    probe = torch.randn(1, plan.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for key, lens in lenses.items():
            said = [lens.log_probabilities(probe, state).float().cpu() for state in range(plan.depth)]
            facts += [key, hashlib.sha256(torch.stack(said).numpy().tobytes()).hexdigest()]
    return hashlib.sha256(to_json(facts).encode()).hexdigest()[:16]


def _make_room(folder: Path, plan: Plan) -> None:
    """An empty folder with room for the readings.

    Raises:
        CheckpointError: other files are in it, or there is too little room.
    """
    there = list(folder.iterdir()) if folder.is_dir() else []
    others = [path.name for path in there if path.suffix != ".npy" and path.name != FACTS]
    if others or (there and not (folder / FACTS).exists()):
        got = f"{folder} with {(others or [path.name for path in there])[0]!r} in it"
        raise CheckpointError(explain(got, "a folder of readings, or an empty one", "another folder"))
    for path in there:
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < plan.bytes:
        got = f"{free / 2**20:,.0f} MiB free for {folder}"
        hint = "another folder, fewer states in Hidden(...), or no TopLogits('all')"
        raise CheckpointError(explain(got, f"{plan.bytes / 2**20:,.0f} MiB of readings", hint))


class _Files:
    """Arrays of a plan, one file each, to which rows are added; after a kill they go on after the last whole row."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._sizes = {
            name: np.dtype(kind).itemsize * width for name, (kind, width) in plan.columns().items()
        }
        self._kinds = {name: kind for name, (kind, _) in plan.columns().items()}
        self._paths = {name: folder / f"{name}.npy" for name in self._sizes}
        self._heads = {}
        for name, (kind, width) in plan.columns().items():
            head = io.BytesIO()
            shape = {"descr": kind, "fortran_order": False, "shape": (plan.rows, width)}
            np.lib.format.write_array_header_1_0(head, shape)
            self._heads[name] = head.getvalue()

    def begin(self, again: bool) -> int:
        """Whole rows of all files, to which they are cut; none where they begin again."""
        sizes = {name: path.stat().st_size if path.exists() else 0 for name, path in self._paths.items()}
        done = [max(0, (sizes[name] - len(head)) // self._sizes[name]) for name, head in self._heads.items()]
        rows = 0 if again else min(done)
        for name, path in self._paths.items():
            if rows == 0:
                path.write_bytes(self._heads[name])
            os.truncate(path, len(self._heads[name]) + rows * self._sizes[name])
        return rows

    def add(self, rows: Mapping[str, np.ndarray]) -> None:
        """Rows for every file."""
        for name, path in self._paths.items():
            with path.open("ab") as file:
                file.write(np.ascontiguousarray(rows[name], dtype=self._kinds[name]).tobytes())


def _read(
    model: Handle,
    questions: Questions,
    plan: Plan,
    lenses: Mapping[str, Lens],
    folder: Path,
    batch_size: int,
    progress: Progress | None,
) -> None:
    """The pass: batches from the first row on that is not there yet."""
    facts, files = facts_of(folder), _Files(folder, plan)
    with full_disk_is_clear(folder):
        done = files.begin(again=facts["fixed"] is None)
        images = None if questions.images is None else questions.images[done:]
        prompts, deep = questions.prompts[done:], bool(plan.depth)
        for part in _first_together(
            answer_states(model, prompts, images, batch_size=batch_size, hidden=deep)
            if prompts
            else iter(()),
            FIRST if facts["fixed"] is None else 0,
        ):
            if part[0].logits.shape[1] != plan.vocabulary:
                got = f"{part[0].logits.shape[1]} logits"
                raise refusal(
                    "model", got, f"{plan.vocabulary}, one for each row of its head", error=ModelError
                )
            if facts["fixed"] is None:
                facts["fixed"] = _likely([states.logits for states in part])[: plan.chosen]
                write_atomic(folder / FACTS, to_json(facts))
            for states in part:
                files.add(_kept(states, plan, lenses, facts))
                done += len(states.logits)
                if progress is not None:
                    progress(done, plan.rows)
    write_atomic(folder / FACTS, to_json({**facts, "finished": True}))


def _first_together(batches: Iterator[AnswerStates], first: int) -> Iterator[list[AnswerStates]]:
    """The batches of so many first prompts together, then one at a time."""
    held, rows = list[AnswerStates](), 0
    for states in batches:
        held.append(states)
        rows += len(states.logits)
        if rows >= first:
            yield held
            held = []
    if held:
        yield held


def _likely(logits: Sequence[Float[Tensor, "B V"]]) -> list[int]:
    """Tokens by falling mean log-probability over the first prompts."""
    first = torch.cat(list(logits))[:FIRST]
    mean = torch.zeros(first.shape[1], dtype=torch.float64)
    for row in first:
        mean += row.double().log_softmax(-1)
    return mean.argsort(descending=True, stable=True).tolist()


def _kept(
    states: AnswerStates, plan: Plan, lenses: Mapping[str, Lens], facts: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Rows for every file, of a batch."""
    logits = states.logits
    normalisers = torch.stack([(logits.double() / one).logsumexp(-1) for one in plan.temperatures], 1)
    values, ids = logits.topk(plan.top)
    kept = {
        "top_ids": ids,
        "top_logprobs": (values.double() - normalisers[:, :1]).float(),
        "normalisers": normalisers,
        "logits": logits,
        "tokens": logits[:, list(plan.tokens)],
        "random": logits[:, facts["random"]],
        "fixed": logits[:, facts["fixed"]],
    }
    hidden = states.hidden
    if hidden is not None:
        kept |= {f"hidden_{state}": hidden[:, state] for state in plan.states}
        for key, lens in lenses.items():
            top = ids[:, : plan.trajectories[key]]
            with torch.no_grad():  # a state at a time: nothing of (B, L + 1, V) is made
                said = [
                    lens.log_probabilities(hidden[:, state], state).float().cpu().gather(-1, top)
                    for state in range(plan.depth)
                ]
            kept[f"trajectory_{key}"] = torch.stack(said, 2).flatten(1)
    return {name: value.numpy() for name, value in kept.items()}
