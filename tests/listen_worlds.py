"""Small tasks for people, and the answers that a browser would save for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from trimtab.refer.intelligibility.answer_files import check
from trimtab.refer.intelligibility.task import ANSWER_COLUMNS, Task, make_task

HOSTILE = {
    "p0": "</script><script>window.broken = 1</script> <img src=x onerror='window.broken = 2'>",
    "p1": "says \"so\" & 'no' \u2028 {{ title }} {% raw %} <!--",
    "p2": "\u202eright to left \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "p3": "a very long one " * 400,
    "p4": "unbroken" * 300,
    "p5": "\U0001f600 caf\u00e9\nin two lines",
}


def pictures(n: int = 12) -> dict[str, Image.Image]:
    return {f"p{k}": Image.new("RGB", (8, 6), (20 * k, 7, 255 - 20 * k)) for k in range(n)}


def hostile_task(**settings: Any) -> Task:
    speakers = {"people": HOSTILE, "captioner": {item: f"a {item}" for item in list(HOSTILE)[:4]}}
    return make_task(pictures(), speakers, **{"candidates_per_item": 4, **settings})


def rows(
    task: Task, listener: str = "abc", choices: Mapping[str, str] | None = None, n: int | None = None
) -> list[list[Any]]:
    """Answers of a person to the first trials: the first candidate of each, or what is chosen by trial."""
    trials = task.trials[: len(task.trials) if n is None else n]
    found = []
    for k, trial in enumerate(trials):
        choice = (choices or {}).get(trial.id, trial.candidates[0])
        cells = [task.fingerprint, listener, k + 1, len(trials), trial.id, choice, 1500 + k]
        found.append([*cells, check(cells)])
    return found


def text(table: Sequence[Sequence[Any]], mark: str = ",", end: str = "\r\n") -> str:
    return end.join(mark.join(map(str, row)) for row in [ANSWER_COLUMNS, *table]) + end
