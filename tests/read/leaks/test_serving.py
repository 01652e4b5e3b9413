"""Served responses of a local model: the file says what the model computes, and an audit reads it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pictured
import tiny_models
from trimtab.errors import CheckpointError, ConfigProblems
from trimtab.models.answers import answer_states
from trimtab.models.load import Model, load
from trimtab.models.readout import readout_of
from trimtab.read.leaks.encodings import encode
from trimtab.read.leaks.levels import TopLogprobs
from trimtab.read.leaks.model_pass import read_model
from trimtab.read.leaks.questions import read_questions
from trimtab.read.leaks.serving import serve_transcript, token_names
from trimtab.read.leaks.transcript import read_transcript
from trimtab.read.leaks.transcript_cells import sampled, transcript_cells


@pytest.fixture(scope="module")
def model() -> Model:
    """A tiny decoder that ends some of its answers early."""
    return load(tiny_models.build("qwen3", seed=1), tokenizer=tiny_models.tokenizer())


def questions(n: int = 10) -> pd.DataFrame:
    """Prompts of several lengths about two cities."""
    cities = [("Cairo", "Lima")[row % 2] for row in range(n)]
    prompts = [f"In {city}, {'a' * (row % 3)}{'bcdefghijk'[row]}?" for row, city in enumerate(cities)]
    table = {"prompt": prompts, "city": cities, "place": [f"p{row // 2}" for row in range(n)]}
    mentioned = [["city"] if row < 1 else [] for row in range(n)]
    return pd.DataFrame(table | {"question": ["which?"] * n, "mentioned": mentioned})


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a transcript."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_file_says_what_the_model_computes(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "served.jsonl"
    serve_transcript(model, questions(), path, ["city"], group="place", top=5, max_new_tokens=3, batch_size=4)
    names = token_names(model.need_tokenizer(), 64)
    for line, prompt in zip(lines(path), questions()["prompt"], strict=True):
        ids = model.need_tokenizer()(prompt)["input_ids"]
        content = line["response"]["body"]["choices"][0]["logprobs"]["content"]
        for told in content:  # one forward pass of one row, without padding, for each token
            with torch.no_grad():
                nats = model.module(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
            best = nats.topk(5)
            assert [one["token"] for one in told["top_logprobs"]] == [names[int(at)] for at in best.indices]
            served = [one["logprob"] for one in told["top_logprobs"]]
            assert served == pytest.approx(best.values.tolist(), abs=2e-6)
            assert (told["token"], told["logprob"]) == (told["top_logprobs"][0]["token"], served[0])
            ids.append(int(best.indices[0]))
        assert len(content) == 3 or ids[-1] == model.need_tokenizer().eos_token_id


def test_a_transcript_is_read_back_with_its_labels(model: Model, tmp_path: Path) -> None:
    path = serve_transcript(model, questions(), tmp_path / "a" / "s.jsonl", ["city"], group="place", top=7)
    read = read_transcript(path, ["city"], group="place", positions=2)  # by the name that was given
    assert read.questions.attributes["city"].tolist() == questions()["city"].tolist()
    assert read.questions.roles["city"].tolist() == ["mentioned"] + ["unmentioned"] * 9
    assert read.questions.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert list(read.questions.known or ()) == ["which?"] * 10
    assert list(read.questions.prompts) == questions()["prompt"].tolist()
    assert (read.served, sampled(read.tops, read.answers), len(read.tops)) == (7, 0.0, 2)
    first = lines(path)[3]["response"]["body"]["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    vocabulary = read.tops[0].vocabulary
    assert vocabulary is not None
    assert [vocabulary[token] for token in read.tops[0].ids[3]] == [one["token"] for one in first]
    assert read.tops[0].values[3].tolist() == [one["logprob"] for one in first]


def test_an_audit_sees_in_a_transcript_what_it_sees_in_the_model(model: Model, tmp_path: Path) -> None:
    path = serve_transcript(model, questions(), tmp_path / "s.jsonl", ["city"], group="place", top=7)
    read = read_transcript(path, ["city"], group="place")
    asked = read_questions(questions(), ["city"], group="place")
    top = read_model(model, asked, [TopLogprobs(7)], tmp_path / "readings").serve(7)
    rows = np.arange(10)
    for encoding in ("sorted", "served"):
        cells, _ = transcript_cells(read.tops, read.answers, [TopLogprobs(7, encodings=(encoding,))])
        mine, theirs = cells[0].features(rows), encode(top, encoding)  # columns by name, and by number
        assert mine.shape == theirs.shape
        assert np.sort(mine, axis=1) == pytest.approx(np.sort(theirs, axis=1), abs=1e-5)


def test_a_call_that_was_killed_goes_on(model: Model, tmp_path: Path) -> None:
    whole = serve_transcript(model, questions(), tmp_path / "whole.jsonl", ["city"], batch_size=3)
    text = whole.read_bytes()
    part = tmp_path / "again.jsonl.part"
    part.write_bytes(text[: text.index(b"\n") * 3])  # within the third line
    steps: list[tuple[int, int]] = []
    again = serve_transcript(
        model,
        questions(),
        tmp_path / "again.jsonl",
        ["city"],
        batch_size=3,
        progress=lambda *at: steps.append(at),
    )
    assert [row["custom_id"] for row in lines(again)] == [f"row-{row}" for row in range(10)]
    served = [
        np.array([one["logprob"] for one in row["response"]["body"]["choices"][0]["logprobs"]["content"]])
        for row in (*lines(whole), *lines(again))
    ]
    for one, other in zip(served[:10], served[10:], strict=True):
        assert one == pytest.approx(other, abs=2e-6)  # other batches round otherwise
    assert not part.exists()
    assert steps[-1] == (10, 10)
    assert len(steps) == 3
    before = again.stat().st_mtime_ns
    serve_transcript(model, questions(), again, ["city"])
    assert again.stat().st_mtime_ns == before


def test_another_transcript_is_never_written_over(model: Model, tmp_path: Path) -> None:
    path = serve_transcript(model, questions(), tmp_path / "s.jsonl", ["city"], top=3)
    with pytest.raises(CheckpointError, match=r"another transcript, .* try another path"):
        serve_transcript(model, questions(), path, ["city"], top=4)
    part = tmp_path / "t.jsonl.part"
    part.write_text('{"of": "others"}\n')
    with pytest.raises(CheckpointError, match="another transcript"):
        serve_transcript(model, questions(), tmp_path / "t.jsonl", ["city"])
    assert part.read_text() == '{"of": "others"}\n'


def test_numbers_out_of_range_are_refused_at_once(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigProblems, match=r"(?s)top: got 65, expected 1 to 64.*max_new_tokens: got 0"):
        serve_transcript(model, questions(), tmp_path / "s.jsonl", ["city"], top=65, max_new_tokens=0)
    table = questions().rename(columns={"city": "group"})
    with pytest.raises(ConfigProblems, match="attributes: got 'group', expected a name that no line has"):
        serve_transcript(model, table.drop(columns=["mentioned", "place"]), tmp_path / "s.jsonl", ["group"])
    with pytest.raises(ConfigProblems, match="group: got 'custom_id', expected a name that no line has"):
        serve_transcript(
            model,
            questions().rename(columns={"place": "custom_id"}),
            tmp_path / "s.jsonl",
            ["city"],
            group="custom_id",
        )
    assert list(tmp_path.iterdir()) == []


def test_names_of_tokens_are_all_different() -> None:
    tokenizer = tiny_models.chat_tokenizer(None)
    names = token_names(tokenizer, 300)
    assert len(set(names)) == 300
    assert names[tokenizer.convert_tokens_to_ids("a")] == "a"
    assert names[299] == "token_id:299"
    assert any(name.startswith("token_id:") for name in names[:261])  # bytes that are parts of a character


def test_answers_about_pictures_are_those_of_the_pictures(tmp_path: Path) -> None:
    words = pictured.words(added=False)
    seeing = load(pictured.llava(), tokenizer=words, processor=pictured.clip_processor())
    for row, picture in enumerate(pictured.random_pictures(10)):
        picture.save(tmp_path / f"{row}.png")
    table = questions().assign(image=[str(tmp_path / f"{row}.png") for row in range(10)], prompt=")Is it?")
    path = serve_transcript(
        seeing, table, tmp_path / "s.jsonl", ["city"], group="place", top=3, max_new_tokens=1
    )
    told = [row["response"]["body"]["choices"][0]["logprobs"]["content"][0]["logprob"] for row in lines(path)]
    assert len(set(told)) == 10
    content = lines(path)[4]["request"]["messages"][0]["content"]
    assert content[0]["image_url"]["url"].endswith("4.png")
    assert content[1] == {"type": "text", "text": ")Is it?"}


def test_a_model_that_would_write_the_pictures_token_says_words(tmp_path: Path) -> None:
    seeing = load(
        pictured.llava(), tokenizer=pictured.words(added=False), processor=pictured.clip_processor()
    )
    for row, picture in enumerate(pictured.random_pictures(10)):
        picture.save(tmp_path / f"{row}.png")
    table = questions().assign(image=[str(tmp_path / f"{row}.png") for row in range(10)], prompt=")Is it?")
    (read,) = answer_states(seeing, list(table["prompt"]), list(table["image"]))
    assert read.hidden is not None
    with torch.no_grad():  # the row of the unembedding that gives every answer position a logit of 50
        states = readout_of(seeing).normed(read.hidden[:, -1])
        wanted = torch.linalg.lstsq(
            states.double(), torch.full((10, 1), 50.0).double(), driver="gelsd"
        ).solution
        seeing.module.get_output_embeddings().weight[pictured.IMAGE] = wanted[:, 0].float()
    (read,) = answer_states(seeing, list(table["prompt"]), list(table["image"]), hidden=False)
    assert (read.logits.argmax(1) == pictured.IMAGE).all()
    path = serve_transcript(
        seeing, table, tmp_path / "s.jsonl", ["city"], group="place", top=63, max_new_tokens=3
    )
    names = token_names(seeing.need_tokenizer(), 64)
    nats = read.logits.double().log_softmax(-1)
    for row, line in enumerate(lines(path)):
        content = line["response"]["body"]["choices"][0]["logprobs"]["content"]
        served = {one["token"]: one["logprob"] for one in content[0]["top_logprobs"]}
        assert served == pytest.approx(
            {name: float(nats[row, at]) for at, name in enumerate(names) if at != pictured.IMAGE}, abs=1e-4
        )
        assert all(
            names[pictured.IMAGE] not in (one["token"] for one in at["top_logprobs"]) for at in content
        )
        assert content[0]["token"] == names[int(nats[row, :63].argmax())]
    with pytest.raises(ConfigProblems, match="top: got 64, expected 1 to 63, the tokens of the model"):
        serve_transcript(seeing, table, tmp_path / "t.jsonl", ["city"], group="place", top=64)
