"""What each package does where users get hurt, by trying: every cell is an attempt, with what came of it.

Tiny random models of the test suite (`tests/zoo.py`), one random shift after every block. An attempt that raises,
or whose result is not what the row asks for, is a "no" with the reason.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peer_attempt import (
    LAYERS,
    ROWS,
    SHIFTS,
    WIDTH,
    WrongError,
    attempt,
    build,
    demand,
    first,
    forward,
    inputs,
    near,
    raises,
)
from peer_batches import equal_rows, padded_rows, per_row, per_row_detour
from peer_fits import fits, imports
from peer_packages import ON, contestants, control_vector, peer, quiet, reft, steering, steering_vector, told
from torch import nn

from trimtab import Steering


def matrix() -> dict[str, dict[str, dict[str, Any]]]:
    """Row -> package -> whether it worked, and what it came to."""
    with quiet():
        return {
            question: {name: attempt(partial(answer, name)) for name in contestants()}
            for question, answer in QUESTIONS.items()
        }


# Files ---------------------------------------------------------------------------------------------------------------


def round_trip(name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return SAVED[name](Path(folder))


def saved_trimtab(folder: Path) -> str:
    before = steering(build("llama"), SHIFTS)
    after = Steering.from_pretrained(before.save_pretrained(folder / "kept"))
    same = all(torch.equal(pair[1], after.maps[site][1]) for site, pair in before.maps.items())
    return demand(same, files(folder / "kept"), "other values")


def saved_repeng(folder: Path) -> str:
    before = control_vector(SHIFTS)
    before.export_gguf(folder / "vector.gguf")
    after = peer("repeng").ControlVector.import_gguf(folder / "vector.gguf")
    return demand(before == after, files(folder), "other values")


def saved_steering_vectors(folder: Path) -> str:
    """It has no way of its own: torch.save of the object, read as torch reads by default."""
    before = steering_vector(SHIFTS)
    torch.save(before, folder / "vector.pt")
    try:
        after = torch.load(folder / "vector.pt")
    except Exception as error:
        raise WrongError(
            f"no way of its own; torch.save is a pickle, torch.load says {told(error)}"
        ) from error
    same = all(
        torch.equal(one, after.layer_activations[layer]) for layer, one in before.layer_activations.items()
    )
    return demand(same, files(folder), "other values")


def saved_pyreft(folder: Path) -> str:
    wrapped = reft(build("llama"), LAYERS, WIDTH)
    wrapped.save(str(folder / "kept"))
    kept, ids, places = files(folder / "kept"), torch.tensor([ROWS[0]]), {"base": list(range(7))}
    try:
        after = peer("pyreft").ReftModel.load(str(folder / "kept"), build("llama"))
        one, two = (first(model({"input_ids": ids}, unit_locations=places)[1]) for model in (wrapped, after))
    except Exception as error:
        raise WrongError(f"saved as {kept}; once loaded: {told(error)}") from error
    return f"{kept}; {near(two, one)}"


SAVED = {
    "trimtab": saved_trimtab,
    "repeng": saved_repeng,
    "steering-vectors": saved_steering_vectors,
    "pyreft": saved_pyreft,
}


def files(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.rglob("*") if path.is_file()))


# The model -----------------------------------------------------------------------------------------------------------


def keys_while_on(name: str) -> str:
    network = build("llama")
    before = list(network.state_dict())
    with ON[name](network, SHIFTS) as model:
        forward(model, input_ids=torch.tensor([ROWS[0]]))
        during = list(network.state_dict())
    changed = next((key for key in during if key not in before), "")
    return demand(before == during, "same keys", f"for instance {changed}")


def after_error(name: str) -> str:
    """A token that is not there, inside the block; with repeng there is no block to leave."""
    network, ids = build("llama"), torch.tensor([ROWS[0]])
    before = forward(network, input_ids=ids)
    outside = torch.tensor([[5, 10_000]])
    try:
        if name == "repeng":
            control = peer("repeng").ControlModel(network, range(LAYERS))
            control.set_control(control_vector(SHIFTS))
            forward(control, input_ids=outside)
        else:
            with ON[name](network, SHIFTS) as model:
                forward(model, input_ids=outside)
    except IndexError:
        pass
    return demand(torch.equal(before, forward(network, input_ids=ids)), "untouched", "still steered")


def after_use(name: str) -> str:
    """Outputs, keys, hooks and which weights take gradients, before and after."""
    network, ids = build("llama"), torch.tensor([ROWS[0]])
    before, state = forward(network, input_ids=ids), traces(network)
    with ON[name](network, SHIFTS) as model:
        forward(model, input_ids=ids)
    changed = [what for what, value in traces(network).items() if value != state[what]]
    changed += [] if torch.equal(before, forward(network, input_ids=ids)) else ["outputs"]
    return demand(not changed, "as before", f"changed: {', '.join(changed)}")


def traces(network: nn.Module) -> dict[str, Any]:
    return {
        "keys": list(network.state_dict()),
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in network.modules()],
        "requires_grad": [parameter.requires_grad for parameter in network.parameters()],
        "training": [part.training for part in network.modules()],
    }


def foreign_hooks(name: str) -> str:
    """A hook of somebody else on the head: does it run while steered, and after?"""
    network, calls = build("llama"), []
    network.lm_head.register_forward_hook(lambda *_: calls.append(1))
    with ON[name](network, SHIFTS) as model:
        forward(model, input_ids=torch.tensor([ROWS[0]]))
    during = len(calls)
    forward(network, input_ids=torch.tensor([ROWS[0]]))
    text = f"ran {during} of 1 times while steered, {len(calls) - during} of 1 after"
    return demand((during, len(calls)) == (1, 2), text, text)


# Mistakes ------------------------------------------------------------------------------------------------------------


def no_such_place(name: str) -> str:
    """A layer, or a pattern, that the model does not have: an error is what is asked for."""
    network = build("llama")
    calls = {
        "trimtab": lambda: steering(network, SHIFTS, "model.layers.*.mlp_that_is_not_there"),
        "repeng": lambda: peer("repeng").ControlModel(network, [99]),
        "steering-vectors": lambda: steering_vector(SHIFTS).patch_activations(
            network, layer_config={"decoder_block": "model.no_layers.{num}"}
        ),
        "pyreft": lambda: reft(network, 99, WIDTH),
    }
    return raises(calls[name])


def never_ran(name: str) -> str:
    """A block inside which the model is never called."""

    def idle() -> None:
        with ON[name](build("llama"), SHIFTS):
            pass

    return raises(idle)


# Families ------------------------------------------------------------------------------------------------------------


def family(name: str, kind: str) -> str:
    """One shift after every block changes what the model says."""
    network, given = build(kind), inputs(kind, batch=1)
    before = forward(network, **given)
    with ON[name](network, SHIFTS) as model:
        after = forward(model, **given)
    return demand(not torch.equal(before, after), "steered", "nothing changed")


Question = Callable[[str], str]
QUESTIONS: dict[str, Question] = {
    "imports as it is": imports,
    "fits as its manual says": fits,
    "a plain batch equals one by one": equal_rows,
    "padded on the right equals one by one": partial(padded_rows, side="right"),
    "padded on the left, with positions, equals one by one": partial(padded_rows, side="left"),
    "a strength per row, as its strength": per_row,
    "a strength per row, by a detour": per_row_detour,
    "saved and loaded": round_trip,
    "state_dict keys while steered": keys_while_on,
    "untouched after an exception": after_error,
    "untouched after use": after_use,
    "leaves the hooks of others": foreign_hooks,
    "refuses a place that is not there": no_such_place,
    "tells of a place that never ran": never_ran,
    **{f"steers {kind}": partial(family, kind=kind) for kind in ("gpt2", "gpt_neox", "gemma3_text", "bert")},
}
