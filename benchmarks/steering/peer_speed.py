"""What steering costs while a model writes: each package hooked, ours folded in, the untouched model beside them.

A random Llama of 32 blocks on one thread, steered after each of them. Contestants alternate within a round, so that
what else the machine does hits all of them, in an order drawn anew for each; ratios are taken round by round. A plain
copy of the untouched model shows what a ratio of 1 looks like on this machine. Switching on and off is timed apart.
"""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from peer_packages import control_vector, installed, peer, reft, steering, steering_vector, told
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from trimtab import Steering, load
from trimtab.numerics.bootstrap import bootstrap

LAYERS, PROMPT, WORDS = 32, 8, 512


@dataclass(frozen=True)
class Size:
    """What is timed: width of the model, rows in the batch, new tokens, rounds after one to warm up."""

    width: int
    batch: int
    tokens: int
    rounds: int

    @property
    def name(self) -> str:
        return f"{self.width} wide, batch {self.batch}"


SIZES = (Size(256, 1, 16, 25), Size(256, 16, 16, 15), Size(1024, 1, 8, 9), Size(1024, 16, 8, 5))
Generate = Callable[..., Tensor]
Contestant = Callable[[], AbstractContextManager[Generate]]


def race(size: Size) -> dict[str, Any]:
    """Times of all contestants at one size, and their ratios to the untouched model."""
    load_before = os.getloadavg()
    network = llama(size.width)
    racing = contestants(network, size)
    times: dict[str, list[Times]] = {name: [] for name in racing}
    failed: dict[str, str] = {}
    order = np.random.default_rng(0)
    for number in range(size.rounds + 1):  # the first one warms up
        for name in order.permutation([name for name in racing if name not in failed]):
            try:
                one = once(racing[name], size)
            except Exception as error:  # that it cannot run is a result
                failed[name] = told(error)
                continue
            if number:
                times[name].append(one)
        print(f"{size.name}, round {number} of {size.rounds}", file=sys.stderr, flush=True)
    base = times["untouched"]
    rows = {name: row(own, base, size) for name, own in times.items() if name not in failed}
    return {
        **asdict(size),
        "layers": LAYERS,
        "rows": rows,
        "failed": failed,
        "load_average": (load_before, os.getloadavg()),
    }


@dataclass(frozen=True)
class Times:
    """Seconds to write the tokens, of wall clock and of CPU, and to switch on and off; and what was written."""

    wall: float
    cpu: float
    switch: float
    written: tuple[int, ...]


def once(contestant: Contestant, size: Size) -> Times:
    ids = torch.randint(3, WORDS, (size.batch, PROMPT), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    start = time.perf_counter()
    with contestant() as generate:
        wall, cpu = time.perf_counter(), time.process_time()
        out = generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=size.tokens,
            min_new_tokens=size.tokens,
            do_sample=False,
            pad_token_id=0,
        )
        ended, used = time.perf_counter(), time.process_time()
    switch = time.perf_counter() - ended + wall - start
    return Times(ended - wall, used - cpu, switch, tuple(out[:, PROMPT:].flatten().tolist()))


def row(own: list[Times], base: list[Times], size: Size) -> dict[str, Any]:
    walls, cpus = (np.array([getattr(one, name) for one in own]) for name in ("wall", "cpu"))
    return {
        "ms_per_token": round(1e3 * float(np.median(walls)) / size.tokens, 3),
        "cpu_ms_per_token": round(1e3 * float(np.median(cpus)) / size.tokens, 3),
        "ratio": ratio(walls, np.array([one.wall for one in base])),
        "cpu_ratio": ratio(cpus, np.array([one.cpu for one in base])),
        "switch_ms": round(1e3 * float(np.median([one.switch for one in own])), 2),
        "same_tokens_as_untouched": own[-1].written == base[-1].written,
        "wall_s": [round(float(value), 4) for value in walls],
    }


def ratio(own: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """Median over rounds of the ratio within a round, 95 % bootstrap over rounds."""
    found = bootstrap(np.median, own / base)
    return {name: round(getattr(found, name), 4) for name in ("value", "low", "high", "n")}


# Who takes part ------------------------------------------------------------------------------------------------------


def llama(width: int) -> LlamaForCausalLM:
    """Random weights; with biases in the MLP, where shifts of its output can go."""
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=width // 64,
        max_position_embeddings=256,
        mlp_bias=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval().requires_grad_(False)


def contestants(network: LlamaForCausalLM, size: Size) -> dict[str, Contestant]:
    draw = torch.Generator().manual_seed(2)
    shifts = 0.1 * torch.randn(LAYERS, size.width, generator=draw)
    after = steering(network, shifts)
    inside = affine(steering(network, shifts, "mlp_out"), draw)
    rows = torch.linspace(1.0, 0.2, size.batch)
    fused, copied = inside.fuse(load(network)).module, copy.deepcopy(network)
    racing: dict[str, Contestant] = {
        "untouched": lambda: contextlib.nullcontext(network.generate),
        "untouched, a copy": lambda: contextlib.nullcontext(copied.generate),
        "trimtab fused": lambda: contextlib.nullcontext(fused.generate),
        "trimtab, strength 1": lambda: steered(network, inside, 1.0),
        "trimtab, strength .5": lambda: steered(network, inside, 0.5),
        "trimtab, a strength per row": lambda: steered(network, inside, rows),
        "trimtab, residual shifts": lambda: steered(network, after, 1.0),
    }
    return racing | {
        name: own for name, own in peers(network, shifts).items() if name.split(",")[0] in installed()
    }


def affine(shifting: Steering, draw: torch.Generator) -> Steering:
    """The same with weights other than 1."""
    maps = {
        name: (1 + 0.1 * torch.randn(len(shift), generator=draw), shift)
        for name, (_, shift) in shifting.maps.items()
    }
    return Steering(maps, shifting.base)


def peers(network: LlamaForCausalLM, shifts: Tensor) -> dict[str, Contestant]:
    trained: list[Any] = []  # pyreft's model is made once

    def reft_of(**how: Any) -> Contestant:
        return lambda: contextlib.nullcontext(generating(network, trained, shifts, how))

    return {
        "repeng": lambda: controlled(network, shifts),
        "steering-vectors": lambda: patched(network, shifts),
        "pyreft, prompt only": reft_of(intervene_on_prompt=True, unit_locations={"base": [0, PROMPT - 1]}),
        "pyreft, every new token": reft_of(intervene_on_prompt=False),
    }


@contextmanager
def steered(network: LlamaForCausalLM, ours: Steering, strength: float | Tensor) -> Iterator[Generate]:
    with ours.on(network, strength):
        yield network.generate


@contextmanager
def controlled(network: LlamaForCausalLM, shifts: Tensor) -> Iterator[Generate]:
    control = peer("repeng").ControlModel(network, list(range(LAYERS)))
    try:
        control.set_control(control_vector(shifts))
        yield control.generate
    finally:
        control.unwrap()


@contextmanager
def patched(network: LlamaForCausalLM, shifts: Tensor) -> Iterator[Generate]:
    with steering_vector(shifts).apply(network):
        yield network.generate


def generating(
    network: LlamaForCausalLM, trained: list[Any], shifts: Tensor, how: dict[str, Any]
) -> Generate:
    """LoReFT; its hooks are set within each call."""
    if not trained:
        trained.append(reft(network, *shifts.shape))

    def generate(input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
        base = {"input_ids": input_ids, "attention_mask": attention_mask}
        return trained[0].generate(base, **how, **options)[1]

    return generate
