"""Steerings of chat models: fitted, measured, tried and fused from records with messages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from templates import ALTERNATES, DEFAULT_SYSTEM
from tiny_models import CHAT, build, chat_tokenizer
from trimtab import CAA, ITI, AurA, GaussianAcT, LinAcT, LinEAS, MeanAcT, Steering, load
from trimtab.data.records import parse
from trimtab.data.rows import record_rows
from trimtab.errors import ConfigProblems, DataError, ModelError
from trimtab.job import carry_out
from trimtab.models.language import kl_divergence, log_likelihood
from trimtab.models.load import Model
from trimtab.models.sites import resolve
from trimtab.steer.lineas.job import ExampleFile, SteeringConfig
from trimtab.steer.samples import prepare, samples
from trimtab.steer.strength import calibrate, strength_curve


def talk(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


RUDE = [talk(f"Is {a} here?", f"no, you {a} fool!") for a in "abcdef"]
KIND = [talk(f"Is {a} here?", f"yes, dear {a}{a}.") for a in "abcde"]
ASK = [[{"role": "user", "content": "Is it late?"}], "Is it", [{"role": "user", "content": "Who?"}]]


def chat_model(name: str = "llama", template: str = DEFAULT_SYSTEM) -> Model:
    sizes = {"vocab_size": 264, "n_positions": 256} if name == "gpt2" else CHAT
    return load(build(name, **sizes), tokenizer=chat_tokenizer(template))


@pytest.mark.parametrize("pool", ["mean", "max", "last"])
def test_samples_are_of_the_response_alone(pool: Any) -> None:
    """By hand: each conversation in a pass of its own, and only the rows of what the assistant says."""
    model = chat_model()
    for batch_size in (1, 4):
        first, _ = prepare(model, RUDE, KIND, batch_size=batch_size, max_tokens=None)
        found = samples(model, first, resolve(model, "residual.0"), pool)["model.layers.0:out"]
        for number, one in enumerate(RUDE):
            row = record_rows(model.tokenizer, [parse(one, "x")], "x")[0]
            with torch.no_grad():
                out = model.module(input_ids=torch.tensor([row.ids]), output_hidden_states=True)
            read = out.hidden_states[1][0][torch.tensor(row.response)]
            expected = {"mean": read.mean(0), "max": read.amax(0), "last": read[-1]}[pool]
            torch.testing.assert_close(found[number], expected, rtol=1e-4, atol=1e-5)


ESTIMATORS = [LinEAS(steps=3), MeanAcT(), GaussianAcT(), LinAcT(), CAA(), ITI(), AurA()]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda one: type(one).__name__)
def test_every_estimator_takes_records_of_each_kind(estimator: Any) -> None:
    model = chat_model()
    steering = estimator.fit(model, source=RUDE, target=KIND)
    again = estimator.fit(
        model,
        source=[one["messages"] for one in RUDE],
        target=[{"prompt": one["messages"][:1], "completion": one["messages"][1:]} for one in KIND],
    )
    items = estimator.fit(model, *([parse(one, "x") for one in side] for side in (RUDE, KIND)))
    for name, (weight, shift) in steering.maps.items():
        for other in (again, items):
            assert torch.equal(other.maps[name][0], weight)
            assert torch.equal(other.maps[name][1], shift)
    mixed = [*RUDE[:2], "you fool!", {"prompt": "Who? ", "completion": "you"}, ASK[0], {"prompt": ASK[2]}]
    assert estimator.fit(model, mixed, KIND).maps.keys() == steering.maps.keys()


def test_responses_decide_and_not_the_questions_around_them() -> None:
    """The same tokens, of which others count: another fit, and other checkpoints."""
    model, estimator = chat_model(), MeanAcT(sites="residual")
    texts = [
        [model.tokenizer.apply_chat_template(one["messages"], tokenize=False) for one in side]
        for side in (RUDE, KIND)
    ]
    whole, part = estimator.fit(model, *texts), estimator.fit(model, RUDE, KIND)
    assert not torch.allclose(whole.maps["model.layers.0:out"][1], part.maps["model.layers.0:out"][1])
    sides = [prepare(model, one, KIND, batch_size=8, max_tokens=None)[0] for one in (texts[0], RUDE)]
    assert torch.equal(sides[0].batches[0]["input_ids"], sides[1].batches[0]["input_ids"])
    assert sides[0].fingerprint != sides[1].fingerprint


def test_batches_change_nothing_in_a_fit_end_to_end() -> None:
    model, estimator = chat_model(), LinEAS(sites="residual", steps=3)
    whole = estimator.fit(model, RUDE, KIND)
    parts = replace(estimator, batch_size=2).fit(model, RUDE, KIND)
    for name, (weight, shift) in whole.maps.items():
        torch.testing.assert_close(parts.maps[name][0], weight, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(parts.maps[name][1], shift, rtol=1e-3, atol=1e-4)


def test_measurements_are_of_the_response() -> None:
    """A response is scored token by token, each given all before it, as its loss is in training."""
    model = chat_model()
    rows = record_rows(model.tokenizer, [parse(one, "x") for one in RUDE], "x")
    found = log_likelihood(model, rows, batch_size=4)
    for number, row in enumerate(rows):
        with torch.no_grad():
            logp = model.module(torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
        places = [place for place, counts in enumerate(row.response) if counts]
        expected = sum(float(logp[place - 1, row.ids[place]]) for place in places)
        assert found.nats[number] == pytest.approx(expected, rel=1e-5)
        assert found.tokens[number] == len(places)
    steering = MeanAcT(sites="residual").fit(model, RUDE, KIND)
    moved = kl_divergence(model, rows, lambda: steering.on(model, 1.0))
    assert moved.tokens.tolist() == [sum(row.response) + 1 for row in rows]
    curve = strength_curve(steering, model, source=RUDE, target=KIND, neutral=RUDE, strengths=(0.0, 1.0))
    assert curve["lean"][0] == curve["kl"][0] == 0
    assert curve["kl"][1] == pytest.approx(moved.nats.sum() / moved.tokens.sum(), rel=1e-6)
    assert curve["source_loss"][0] == pytest.approx(found.loss_nats, rel=1e-6)
    within = calibrate(steering, model, RUDE, budget=1e9)
    assert within.curve[-1].cost == pytest.approx(curve["kl"][1], rel=1e-6)


@pytest.mark.parametrize(("name", "template"), [("llama", DEFAULT_SYSTEM), ("gpt2", ALTERNATES)])
def test_fitted_tried_fused_and_read_by_plain_transformers(name: str, template: str, tmp_path: Path) -> None:
    model = chat_model(name, template)
    untouched = model.generate(ASK, max_new_tokens=8)
    LinEAS(sites="mlp_out", steps=5).fit(model, RUDE, KIND).save_pretrained(tmp_path / "kind")
    steering = Steering.from_pretrained(tmp_path / "kind")
    ids = torch.tensor(
        [model.tokenizer.apply_chat_template(ASK[0], add_generation_prompt=True, return_dict=False)]
    )
    with torch.no_grad():
        plain = model.module(ids).logits
        with steering.on(model, 0.0):
            assert torch.equal(model.module(ids).logits, plain)
            assert model.generate(ASK, max_new_tokens=8) == untouched
    with steering.on(model, 1.0):
        steered = model.generate(ASK, max_new_tokens=8)
    assert steered != untouched
    steering.fuse(model).save_pretrained(tmp_path / "fused")
    words = AutoTokenizer.from_pretrained(tmp_path / "fused")
    fused = AutoModelForCausalLM.from_pretrained(tmp_path / "fused").eval()
    for prompt, expected in zip(ASK, steered, strict=True):
        given = (
            words(prompt)["input_ids"]
            if isinstance(prompt, str)
            else (words.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False))
        )
        out = fused.generate(torch.tensor([given]), max_new_tokens=8, do_sample=False, pad_token_id=1)
        assert words.decode(out[0, len(given) :], skip_special_tokens=True) == expected


def test_messages_for_a_model_without_a_chat_template_are_refused() -> None:
    model = load(build("llama", **CHAT), tokenizer=chat_tokenizer(None))
    match = "source, record 0: got messages for a tokenizer without a chat template"
    for estimator in (LinEAS(steps=1), CAA()):
        with pytest.raises(ModelError, match=match):
            estimator.fit(model, RUDE, KIND)
    steering = MeanAcT().fit(model, ["ab", "cd"], ["ef", "gh"])
    with pytest.raises(ModelError, match="neutral, record 1: got messages"):
        strength_curve(steering, model, source=["ab", "c"], target=["ab", "c"], neutral=["a", RUDE[0]])


# Configs


@pytest.fixture
def config(tmp_path: Path) -> SteeringConfig:
    """A model and files: messages, ShareGPT's turns, and prompts with completions of messages."""
    chat_model().save_pretrained(tmp_path / "model")
    kind = [
        {
            "conversations": [
                {"from": who, "value": one["content"]}
                for who, one in zip(("human", "gpt"), two["messages"], strict=True)
            ]
        }
        for two in KIND
    ]
    neutral = [
        {
            "prompt": [{"role": "user", "content": f"{a}?"}],
            "completion": [{"role": "assistant", "content": f"{a}!"}],
        }
        for a in "abcd"
    ]
    for name, rows in {"rude": RUDE, "kind": kind, "neutral": neutral}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return SteeringConfig(
        model=str(tmp_path / "model"),
        source=str(tmp_path / "rude.jsonl"),
        target=ExampleFile(str(tmp_path / "kind.jsonl"), "sharegpt"),
        neutral=str(tmp_path / "neutral.jsonl"),
        estimator=MeanAcT(sites="residual"),
        examples=2,
        held_out=3,
        prompts=tuple(ASK),
        strengths=(0.0, 1.0),
        max_new_tokens=4,
        device="cpu",
    )  # fmt: skip


def test_a_job_of_chats(config: SteeringConfig, tmp_path: Path) -> None:
    assert list(config.problems()) == []
    result = carry_out(config, tmp_path / "run")
    assert result.samples["prompt"].unique().tolist() == ["user: Is it late?", "Is it", "user: Who?"]
    model = load(config.model, device="cpu")
    assert result.samples["text"].tolist()[:3] == model.generate(ASK, max_new_tokens=4)
    assert (result.read["fit_cut"] == 0).all()
    assert result.curve["kl"][1] > 0
    assert "user: Is it late?" in (tmp_path / "run/report.html").read_text()
    assert carry_out(config, tmp_path / "run").curve.equals(result.curve)


def test_responses_that_are_cut_away_are_told_before_the_fit(config: SteeringConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got a response that begins after \d+ tokens, .*; try max_tokens="):
        carry_out(replace(config, max_tokens=20), tmp_path / "run")


def test_prompts_and_columns_are_checked_with_the_config(config: SteeringConfig) -> None:
    wrong = replace(config, prompts=("you", 3, [{"role": "user"}], [{"role": "assistant", "content": "a"}]))
    assert [str(one) for one in wrong.problems()] == [
        "prompts[1]: got int, expected a text, a list of messages, or a mapping with 'messages'",
        "prompts[2], message 0, 'content': got no value, expected a text",
        "prompts[3]: got an assistant's message at the end, expected messages that the assistant answers; "
        "try leaving it out",
    ]
    with pytest.raises(ConfigProblems, match=r"columns: got 'sharegtp', .*; try 'sharegpt'"):
        ExampleFile("a.jsonl", "sharegtp")  # type: ignore[arg-type]


def test_the_example_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    chat_model().save_pretrained("my-chat-model")
    page = (Path(__file__).parents[2] / "docs" / "steering.md").read_text()
    section = page.partition("## Chat models")[2].partition("## ")[0]
    code = section.partition("```python\n")[2].partition("```")[0]
    exec(compile(code.replace("LinEAS()", "LinEAS(steps=2)"), "docs/steering.md", "exec"), {})
    assert capsys.readouterr().out
