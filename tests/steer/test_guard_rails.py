"""What people hand to a steering that is no example of a behaviour: told before anything is fitted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from tiny_models import build, tokenizer
from trimtab import CAA, LinEAS, MeanAcT, load
from trimtab.errors import ConfigProblems, DataError, ModelError
from trimtab.job import carry_out
from trimtab.steer.lineas.job import SteeringConfig, examples_of
from trimtab.steer.lineas.result import SteeringResult
from trimtab.steer.samples import read_examples

GOOD = ["ab", "cd", "ef"]
CHAT = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize("estimator", [LinEAS(steps=1), CAA(), MeanAcT()])
@pytest.mark.parametrize(
    ("records", "error", "message"),
    [
        (
            [CHAT, CHAT],
            ModelError,
            "source, record 0: got messages for a tokenizer without a chat template, expected a text, or a",
        ),
        ([CHAT["messages"]] * 2, ModelError, "source, record 0: got messages for a tokenizer without a chat"),
        (CHAT["messages"] * 2, DataError, r"source: got one message at place 0, .*; try \[messages\]"),
        ([{"messages": []}] * 2, DataError, r"source, record 0, 'messages': got \[\], expected a list of"),
        (
            [{"conversations": [{"from": "human", "value": "a"}]}] * 2,
            DataError,
            "source, record 0: got a mapping with 'conversations', .*; try columns='sharegpt'",
        ),
        ([{"prompt": "a", "completion": " "}] * 2, DataError, "record 0: got a response without tokens"),
        (["ab", "\ud800"], DataError, r"half a character \(U\+D800\) in the text at place 1, expected whole"),
        (
            ["ab", "  \n"],
            ModelError,
            r"source: got the text '  \\n', which has no token of its own, at place 1",
        ),
        (["ab", ""], ModelError, "source: got the text '', which has no token"),
        (["ab", "c" * 65], ModelError, "at most 64, the model's limit"),
    ],
)
def test_records_and_texts_that_say_nothing_are_refused(
    estimator: Any, records: Any, error: type[Exception], message: str
) -> None:
    model = load(build("llama"), tokenizer=tokenizer())
    with pytest.raises(error, match=message):
        estimator.fit(model, source=records, target=GOOD)


@pytest.mark.parametrize("estimator", [LinEAS(steps=1), CAA(), MeanAcT()])
def test_tables_and_sets_are_no_list_of_examples(estimator: Any) -> None:
    model = load(build("llama"), tokenizer=tokenizer())
    for given in (pd.DataFrame({"text": GOOD}), set(GOOD)):
        with pytest.raises(ModelError, match="expected a list of source examples"):
            estimator.fit(model, source=given, target=GOOD)
    expected = estimator.fit(model, source=GOOD, target=GOOD[::-1]).maps
    for same in (pd.Series(GOOD, index=[5, 6, 7]), (text for text in GOOD), tuple(GOOD)):
        found = estimator.fit(model, source=same, target=GOOD[::-1]).maps
        assert all(
            torch.equal(a, b) for site in found for a, b in zip(found[site], expected[site], strict=True)
        )


@pytest.mark.parametrize(
    "estimator",
    [LinEAS(steps="2"), LinEAS(preset=None), CAA(batch_size=None), MeanAcT(sites=[1]), CAA(sites={1: 2})],  # type: ignore[arg-type]
)
def test_settings_of_another_type_are_told(estimator: Any) -> None:
    with pytest.raises((ConfigProblems, ModelError), match=r"got .*, expected"):
        estimator.fit(load(build("llama"), tokenizer=tokenizer()), source=GOOD, target=GOOD)


class Shared(nn.Module):
    """One layer that is reached twice in every pass, as those of ALBERT are."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.tanh(self.layer(x)))


def test_a_layer_that_is_reached_twice_is_refused() -> None:
    """A map there would act in both passes, and samples would be of both."""
    module, inputs = Shared(), [{"x": torch.randn(5, 3, 4)}]
    with pytest.raises(ModelError, match="runs several times in one forward pass"):
        MeanAcT(sites="layer").fit(module, source=inputs, target=[{"x": torch.randn(6, 3, 4) + 2}])


# Files of texts


def test_only_ends_of_lines_end_an_example(tmp_path: Path) -> None:
    """U+2028, U+0085 and a form feed stand inside texts; line ends are those of any editor."""
    odd = [f"one\u2028two {n}\x85three\x0cfour" for n in range(4)]
    for place, end in enumerate(("\n", "\r\n", "\r")):
        path = tmp_path / f"{place}.txt"
        path.write_bytes(("\ufeff" * (place == 0) + end.join(odd) + end).encode())
        found = read_examples(path, "source", 2, 2)
        assert sorted(found.fit + found.held_out) == odd


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo\n  \none\nthree\none\nfour\n")
    found = read_examples(path, "source", 1, 1, without={"four"})
    assert (found.different, found.blank, found.repeated, found.shared) == (4, 2, 2, 1)
    assert "four" not in {*found.fit, *found.held_out}
    records = tmp_path / "a.jsonl"
    records.write_text(
        "".join(json.dumps({"text": t}) + "\n" for t in ("one", " ", "one", "two\nlines", "six"))
    )
    found = read_examples(records, "source", 1, 1)
    assert (found.different, found.blank, found.repeated, found.shared) == (3, 1, 1, 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "body\none\ntwo\n", r"columns \['body'\], expected a column 'text'"),
        ("a.tsv", "id\tbody\n1\tone\n", r"a.tsv: got columns"),
        (
            "a.txt",
            '{"text": "one"}\n\n{"text": "two"}\n',
            "lines of .*a.txt that are JSON objects.*ends in .jsonl",
        ),
        ("a.md", '{"messages": []}\n{"messages": []}', "lines of .*a.md that are JSON objects"),
        ("a.jsonl", '{"text": "\\ud800"}\n' * 4, "half a character|whole characters|surrogate"),
    ],
)
def test_other_formats_are_never_read_as_prose(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_examples(tmp_path / name, "source", 1, 1)


def test_prose_and_code_in_braces_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("{}\n{a}\n[1]\n5\n")
    assert read_examples(path, "source", 2, 2).different == 4


# A job


@pytest.fixture
def config(llama_folder: Path, sides: dict[str, str]) -> SteeringConfig:
    return SteeringConfig(
        model=str(llama_folder), **sides, estimator=MeanAcT(sites="residual"), examples=4, held_out=4,
        strengths=(0.0, 1.0), max_tokens=8, device="cpu",
    )  # fmt: skip


def test_texts_of_both_sides_are_on_neither_and_neutral_ones_were_not_fitted_with(
    config: SteeringConfig,
) -> None:
    source, target = (Path(getattr(config, name)) for name in ("source", "target"))
    target.write_text("\n".join([*source.read_text().splitlines()[:3], *target.read_text().splitlines()]))
    sides = examples_of(replace(config, neutral=config.target))
    assert [sides[name].shared for name in ("source", "target", "neutral")] == [3, 3, 4]
    drawn = {name: {*side.fit, *side.held_out} for name, side in sides.items()}
    assert not drawn["source"] & drawn["target"]
    assert not set(sides["target"].fit) & drawn["neutral"]


def test_what_is_cut_is_counted_and_told(config: SteeringConfig, tmp_path: Path) -> None:
    """The tokenizer of the tests has a token per character; each example is longer than eight."""
    result = carry_out(config, tmp_path / "run")
    read = result.read.set_index("side")
    assert read.loc["source", ["fit", "fit_cut", "held_out", "held_out_cut"]].tolist() == [4, 4, 4, 4]
    told = "and cut there: 8 of 8 source texts, 8 of 8 target texts, 4 of 4 neutral texts."
    assert told in SteeringResult.page([result])
    fits = replace(config, max_tokens=64)
    assert "cut there" not in SteeringResult.page([carry_out(fits, tmp_path / "other")])


def test_texts_longer_than_the_model_s_positions_are_refused_before_the_fit(
    config: SteeringConfig, tmp_path: Path
) -> None:
    path = Path(config.source)
    path.write_text("\n".join(line + "x" * 70 for line in path.read_text().splitlines()))
    with pytest.raises(ModelError, match="at most 64, the model's limit; try max_tokens=64"):
        carry_out(replace(config, max_tokens=128), tmp_path / "run")
    assert not (tmp_path / "run" / "artifacts" / "fit").exists()
