"""Folders of a small one-step generator and a small CLIP, concepts with hostile names, and a config of a job."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import torch

from pictured import clip, clip_processor, words
from tiny_generator import SMALL
from tiny_judge import COLOURS, SHAPES, SIDES
from tiny_models import build, tokenizer
from trimtab import HyperTransport, LinEAS, load
from trimtab.lab.scene_models import SPECIAL, word_tokenizer
from trimtab.models.one_step import OneStepConfig, OneStepGenerator
from trimtab.steer.hypertransport.job import HyperTransportConfig

WORDS = (*COLOURS, *SHAPES, *SIDES, "up", "down")
HOSTILE = "<script>alert(1)</script> & \u202eblue"


def generator(folder: Path) -> Path:
    """A one-step generator of WORDS, with weights at random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = {"image_size": 16, "noise_size": 3, "width": 16, "condition_width": 12, "blocks": 1}
        network = OneStepGenerator(OneStepConfig(vocab_size=len(SPECIAL) + len(WORDS), **size)).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return load(network, tokenizer=word_tokenizer(WORDS, framed=False)).save_pretrained(folder)


def encoder(folder: Path) -> Path:
    clip().save_pretrained(folder)
    words().save_pretrained(folder)
    clip_processor().save_pretrained(folder)
    return folder


def rows() -> list[dict[str, Any]]:
    """Six training concepts and two held out in two splits, one of a hostile name."""
    made = []
    for place, (colour, shape) in enumerate(product(COLOURS, SHAPES)):
        split = "held_combinations" if (colour, shape) == ("blue", "ring") else "train"
        values = {"colour": colour, "shape": shape}
        prompts = [f"{colour} {shape} " + " ".join([word] * (place + 1)) for word in WORDS[4:]]
        made.append({"concept": f"{colour} {shape}", "split": split, "prompts": prompts, "values": values})
    for name, values in (
        {"red": {"colour": "red"}, HOSTILE: {"colour": "blue"}, "ring": {"shape": "ring"}}
    ).items():
        (word,) = values.values()
        prompts = [f"{word} {other}" for other in WORDS[4:]]
        split = "held_values" if name == HOSTILE else "train"
        made.append({"concept": name, "split": split, "prompts": prompts, "values": values})
    return made


def sentences(folder: Path) -> Path:
    """An encoder of texts alone."""
    build("bert").save_pretrained(folder)
    tokenizer(pad_token="<unk>").save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file of concepts."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(folder: Path, **more: Any) -> HyperTransportConfig:
    """A job of a few steps, with its files in a folder."""
    concepts, source = write_rows(folder / "concepts.jsonl", rows()), folder / "source.txt"
    source.write_text(
        "\n".join(f"{a} {b} {c} {d}" for a in SIDES for b in SHAPES for c in COLOURS for d in WORDS[6:])
    )
    given: dict[str, Any] = {
        "model": str(generator(folder / "generator")),
        "concepts": str(concepts),
        "source": str(source),
        "encoder": str(encoder(folder / "clip")),
        "hypertransport": HyperTransport(steps=6, sizes=SMALL, examples=4),
        "lineas": LinEAS(p=1.0, gamma=0.0, steps=3),
        "held_out": 2,
        "shown_training": 1,
        "strengths": (0.5, 1.0),
        "judge": "tiny_judge:TinyJudge",
        "prompts": 6,
        "pictures": 2,
        "examples": 8,
        "device": "cpu",
    }
    return HyperTransportConfig(**given | more)
