"""Batches under steering: equal to one by one, padded or not, and with a strength for each row."""

from __future__ import annotations

import torch
from peer_attempt import LAYERS, ROWS, SHIFTS, WIDTH, build, demand, first, forward, near
from peer_packages import ON, control_vector, peer, reft, steering, steering_vector
from torch import Tensor

from trimtab.models.batches import padded

SAME = torch.tensor([row[:4] for row in ROWS])
AMOUNTS = torch.tensor([1.0, 0.5])


def equal_rows(name: str) -> str:
    """A plain batch of rows of one length, no positions given."""
    ids = SAME
    with ON[name](build("llama"), SHIFTS) as model:
        alone = torch.cat([forward(model, input_ids=row[None]) for row in ids])
        return near(forward(model, input_ids=ids), alone)


def padded_rows(name: str, side: str) -> str:
    """Rows of 7 and 4 tokens, padded, against each one alone."""
    network = build("llama")
    batch = padded(ROWS, 0, side)  # type: ignore[arg-type]
    with ON[name](network, SHIFTS) as model:
        alone = [forward(model, input_ids=torch.tensor([row]))[0] for row in ROWS]
        together = forward(model, **batch.arguments(network))
    own = [logits[mask.bool()] for logits, mask in zip(together, batch.mask, strict=True)]
    return near(torch.cat(own), torch.cat(alone))


def per_row(name: str) -> str:
    """Strengths 1 and .5 for two rows of a batch, against each alone."""
    return near(PER_ROW[name](SAME, AMOUNTS), each_alone(name))


def each_alone(name: str) -> Tensor:
    logits = []
    for row, amount in zip(SAME, AMOUNTS, strict=True):
        with ON[name](build("llama"), float(amount) * SHIFTS) as model:
            logits.append(forward(model, input_ids=row[None]))
    return torch.cat(logits)


def per_row_trimtab(ids: Tensor, amounts: Tensor) -> Tensor:
    network = build("llama")
    with steering(network, SHIFTS).on(network, amounts):
        return forward(network, input_ids=ids)


def per_row_repeng(ids: Tensor, amounts: Tensor) -> Tensor:
    control = peer("repeng").ControlModel(build("llama"), range(LAYERS))
    control.set_control(control_vector(SHIFTS), amounts[:, None, None])
    return forward(control, input_ids=ids, position_ids=torch.arange(4).expand(2, 4))


def per_row_steering_vectors(ids: Tensor, amounts: Tensor) -> Tensor:
    network = build("llama")
    with steering_vector(SHIFTS).apply(network, multiplier=amounts[:, None, None]):
        return forward(network, input_ids=ids)


def per_row_pyreft(ids: Tensor, amounts: Tensor) -> Tensor:
    wrapped = reft(build("llama"), LAYERS, WIDTH)
    places = {"base": [0, 1, 2, 3]}
    return first(wrapped({"input_ids": ids}, unit_locations=places, strength=amounts)[1])


PER_ROW = {
    "trimtab": per_row_trimtab,
    "repeng": per_row_repeng,
    "steering-vectors": per_row_steering_vectors,
    "pyreft": per_row_pyreft,
}


def per_row_detour(name: str) -> str:
    """The same by what the package offers besides a strength."""
    return DETOURS.get(name, lambda _: demand(False, "", "nothing found"))(AMOUNTS[:, None, None])


def detour_repeng(rows: Tensor) -> str:
    control = peer("repeng").ControlModel(build("llama"), range(LAYERS))
    control.set_raw_control({layer: rows * shift for layer, shift in enumerate(SHIFTS)})
    got = forward(control, input_ids=SAME, position_ids=torch.arange(4).expand(2, 4))
    return "set_raw_control: " + near(got, each_alone("repeng"))


def detour_steering_vectors(rows: Tensor) -> str:
    network = build("llama")
    with steering_vector(SHIFTS).apply(network, operator=lambda _, vector: rows * vector):
        return "operator=: " + near(forward(network, input_ids=SAME), each_alone("steering-vectors"))


DETOURS = {
    "trimtab": lambda _: "not needed",
    "repeng": detour_repeng,
    "steering-vectors": detour_steering_vectors,
}
