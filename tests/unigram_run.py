"""A loop on three unigram domains, its twin, and sessions on it; all training rows of a domain have the same counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

import unigram as uni
from trimtab.adapt.session import Clock, Roles, Session, make_roles
from trimtab.train.evaluation import evaluation_rows
from trimtab.train.loop import Loop
from trimtab.train.settings import Fit
from unigram import Rows, Twin, counts, row_losses, shuffled

TRAIN: dict[str, Rows] = {
    "math": shuffled([1, 1, 2, 3, 1], 9),
    "code": shuffled([4, 4, 5, 2], 7),
    "web": shuffled([6, 0, 6, 5, 3, 6, 1], 8),
}
EVALUATE: dict[str, Rows] = {
    "math": [[0, 1, 1], [0, 2, 1, 3, 1, 1], [0, 3], [0, 1, 2, 2]],
    "code": [[0, 4, 5], [0, 4], [0, 5, 2, 4, 4, 4, 4, 1]],
    "web": [[0, 6, 6, 6], [0, 3, 5], [0, 0, 0, 6], [0, 1], [0, 6, 5]],
    "safety": [[0, 5, 6, 1], [0, 2], [0, 3, 3, 3, 3, 0]],
}
FIT = Fit(
    steps=40,
    batch_size=4,
    lr=0.05,
    betas=(0.8, 0.9),
    weight_decay=0.1,
    clip_norm=0.4,
    lr_schedule="linear",
    warmup_steps=2,
    eval_sequences=5,
    probe_sequences=3,
    eval_batch_size=2,
)
ROLES = make_roles(list(TRAIN), ["safety"], ["math"], {"safety": 0.0})


def unigram_loop(fit: Fit = FIT, module: nn.Module | None = None) -> Loop:
    domains = {name: uni.domain(name, train=rows) for name, rows in TRAIN.items()}
    return Loop(uni.unigram(module), domains, fit, seed=0)


def open_session(loop: Loop, roles: Roles = ROLES, pause: Callable[[], None] = lambda: None) -> Session:
    splits = {name: uni.split(rows) for name, rows in EVALUATE.items()}
    return Session(loop, roles, splits, loop.evaluate(splits, loop.fit.eval_sequences), Clock(), pause)


def read_by_twin(twin: Twin, name: str, limit: int) -> tuple[np.ndarray, np.ndarray]:
    rows = EVALUATE[name]
    return row_losses(twin.theta, [rows[k] for k in evaluation_rows(name, len(rows), limit)])


def warmed_up(steps: int) -> tuple[Loop, Twin]:
    """A loop and its twin after steps on web alone; every row of a domain has the same counts."""
    loop = unigram_loop()
    twin = Twin(lr=FIT.lr, betas=FIT.betas, weight_decay=FIT.weight_decay, clip_norm=FIT.clip_norm)
    for step in range(steps):
        loop.step([0.0, 0.0, 1.0])
        twin.step(counts(TRAIN["web"][:4]), FIT.lr_at(step))
    return loop, twin
