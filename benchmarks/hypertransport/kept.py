"""Pieces of the benchmark, each kept in a file of its own as soon as it is there, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trimtab import Steering
from trimtab.runs.atomic import write_atomic
from trimtab.runs.files import read_json
from trimtab.runs.serialise import plain, to_json


def found(path: Path, question: Any) -> Any:
    """The value that is kept for a question; None where there is none."""
    if not path.is_file():
        return None
    record = read_json(path, "a kept piece")
    return record["value"] if record["question"] == plain(question) else None


def kept(path: Path, question: Any, make: Callable[[], Any]) -> Any:
    """A JSON value, made once for the same question; the file says the question and the CPU seconds too."""
    if (value := found(path, question)) is not None:
        return value
    start = time.process_time()
    value = plain(make())
    record = {"question": plain(question), "value": value, "cpu_s": round(time.process_time() - start, 3)}
    write_atomic(path, to_json(record) + "\n")
    return value


def kept_steering(
    folder: Path, name: str, question: Any, make: Callable[[], Steering]
) -> tuple[Steering, float]:
    """A steering, fitted once for the same question, and the CPU seconds of its fit."""
    digest = hashlib.sha256(to_json([name, plain(question)]).encode()).hexdigest()[:16]
    place = folder / digest
    if not place.is_dir():
        start = time.process_time()
        steering = make()
        seconds = time.process_time() - start
        made_by = {"estimator": name, "question": plain(question), "cpu_s": seconds}
        Steering(steering.maps, steering.base, made_by).save_pretrained(place)
    found = Steering.from_pretrained(str(place))
    return found, float(found.made_by["cpu_s"])
