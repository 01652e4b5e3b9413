"""`trimtab steer`: fit a steering, try it, measure it over strengths, fold it into weights."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.cli.console import Bars, Verb, note, parser, say
from trimtab.cli.jobs import check_folder, run
from trimtab.errors import explain
from trimtab.systems import imported, lab_folder

FIT = Verb(
    "fit a steering from a config or a recipe", "trimtab steer fit steering/quickstart --estimator.steps 200"
)


def steer(argv: Sequence[str]) -> int:
    """Hand over to one of the four; `fit` is `run` for configs of the system steering."""
    if argv and argv[0] == "fit":
        return run([*argv[1:], "--system", "steering"], "steer fit", FIT)
    options = parser("steer")
    verbs = options.add_subparsers(dest="action", metavar="ACTION", required=True)
    verbs.add_parser("fit", help="fit one from a config or a recipe: trimtab run of a steering")
    for action, (carry_out, what, example, given) in ACTIONS.items():
        example = f"Example: trimtab steer {action} runs/my-1 path/to/model {example}"
        sub = verbs.add_parser(action, help=what, epilog=example)
        sub.set_defaults(carry_out=carry_out)
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        for name, settings in {**_BOTH, **given}.items():
            sub.add_argument(name, **settings)
    arguments = options.parse_args(argv)
    with Bars() as bars:
        arguments.model = lab_folder("model", arguments.model, bars.bar)
    code: int = arguments.carry_out(arguments)
    return code


def try_out(arguments: argparse.Namespace) -> int:
    """Complete prompts at several strengths."""
    complete = imported("trimtab.steer.lineas.job:complete")
    given = (arguments.prompts, arguments.strengths, arguments.max_new_tokens)
    rows = complete(arguments.steering, arguments.model, *given).to_dict("records")
    if arguments.json:
        say(json.dumps(rows, indent=2))
        return 0
    for prompt in arguments.prompts:
        say(repr(prompt))
        for row in rows:
            if row["prompt"] == prompt:
                say(f"  {row['strength']:<5g} {row['text']!r}")
    return 0


def sweep(arguments: argparse.Namespace) -> int:
    """Measure effect and side effect over strengths."""
    measure = imported("trimtab.steer.lineas.job:measure")
    files = {n: getattr(arguments, n) for n in ("source", "target", "neutral") if getattr(arguments, n)}
    files = {name: lab_folder("texts", value) for name, value in files.items()}
    given = (files, arguments.texts, arguments.strengths, arguments.budget, arguments.max_strength)
    curve, within = measure(arguments.steering, arguments.model, *given)
    if arguments.json:
        from trimtab.runs.serialise import to_json

        measured = {"curve": curve.to_dict("records"), "strength_within_budget": within and within.strength}
        if within is not None:
            measured |= {"cost_within_budget": within.cost, "budget_reached": within.reached}
        say(to_json(measured, indent=2))
        return 0
    say(curve.to_string(index=False, float_format=lambda value: f"{value:.4f}", na_rep="-"))
    if within is not None:
        say(f"largest strength within {arguments.budget:g} nats: {within.strength:.3f}")
        if not within.reached:
            why = within.to_text().replace("max_strength", "--max-strength")
            note(f"Not all of the budget is used: {why}.")
    return 0


def fuse(arguments: argparse.Namespace) -> int:
    """Fold a steering into the weights of a checkpoint of its own."""
    write, out = imported("trimtab.steer.lineas.job:fuse"), check_folder(arguments.out)
    write(arguments.steering, arguments.model, arguments.strength, out)
    if arguments.json:
        say(json.dumps({"folder": str(out), "strength": arguments.strength}))
    else:
        say(f"{out}: a plain checkpoint, read back and compared")
    return 0


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(explain(f"{text!r:.60}", "numbers with commas between", "0,0.5,1"))
    return numbers


def _option(metavar: str, what: str = "", **settings: Any) -> dict[str, Any]:
    return {"metavar": metavar, "help": what or None, **settings}


_BOTH = {
    "steering": _option("STEERING", "a steering's folder, a run's, or a hub name"),
    "model": _option("MODEL", "the model it was fitted on"),
}
_TRY = {
    "prompts": _option("PROMPT", "texts to go on with", nargs="+"),
    "--strengths": _option("S,S,...", type=_numbers, default=(0.0, 0.5, 1.0)),
    "--max-new-tokens": _option("N", type=int, default=32),
}
_SWEEP = {
    "--source": _option("FILE", "texts of the behaviour as it is", required=True),
    "--target": _option("FILE", "texts of the behaviour as it should be", required=True),
    "--neutral": _option("FILE", "texts that should be left alone"),
    "--texts": _option("N", "of each file", type=int, default=64),
    "--budget": _option("NATS", "KL on neutral text to stay within", type=float),
    "--max-strength": _option("S", "for the budget; above 1 maps are scaled up", type=float, default=1.0),
    "--strengths": _option("S,S,...", type=_numbers, default=(0, 0.25, 0.5, 0.75, 1)),
}
_FUSE = {
    "--out": _option("DIR", "the folder of the checkpoint", type=Path, required=True),
    "--strength": _option("S", type=float, default=1.0),
}
_MEASURE = "effect and side effect over strengths, on texts of yours"
_FOLD = "fold a steering into the weights of a checkpoint of its own"
ACTIONS: Mapping[str, tuple[Callable[[argparse.Namespace], int], str, str, Mapping[str, Any]]] = {
    "try": (try_out, "complete prompts at several strengths", "'I went to' --strengths 0,0.5,1", _TRY),
    "sweep": (sweep, _MEASURE, "--source rude.txt --target kind.txt", _SWEEP),
    "fuse": (fuse, _FOLD, "--out path/to/steered", _FUSE),
}
"""What there is to do with a steering: by whom, what it is for, an example, and its options."""
