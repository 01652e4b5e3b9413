"""Comparisons as a whole: planted changes, a model against itself, adapters, steerings, other tokenizers, refusals."""

from __future__ import annotations

import math
import re
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import compare_worlds as cw
import tiny_models
from trimtab import Domain, Steering, compare, load
from trimtab.adapt.compare.domains import ComparedDomain
from trimtab.adapt.compare.reading import Side, read_tokens
from trimtab.adapt.compare.result import CompareResult
from trimtab.adapt.compare.tables import changes_frame
from trimtab.adapt.compare.verdicts import loss_harm
from trimtab.data.tokens import tokenise
from trimtab.errors import ConfigProblems, DataError, ModelError
from trimtab.models.sites import resolve
from trimtab.steer.maps import Base
from worlds import tokenizer

ONE = cw.base(0)
FEW = {"sequences": 30, "batch_size": 16}


@pytest.fixture(scope="module")
def planted() -> Any:
    """A model that is .03 nats per token worse on the first domain, and elsewhere the same but for swapped letters."""
    return cw.swapped(cw.worse_on(ONE, cw.ALPHABETS[0], 0.03), [letters[:2] for letters in cw.ALPHABETS[2:]])


def domains(n: int, count: int = 4, seed: int = 0) -> dict[str, list[str]]:
    return {f"d{place}": cw.texts(cw.ALPHABETS[place], n, seed) for place in range(count)}


def changed(result: CompareResult, domain: str, measure: str = "loss") -> dict[str, Any]:
    table = result.changes
    return table[(table["domain"] == domain) & (table["measure"] == measure)].iloc[0].to_dict()


def test_a_model_against_itself_changed_nowhere(undrawn: None) -> None:
    sums = [{"prompt": text[:5], "completion": text[5:7]} for text in cw.texts("cdef", 12)]
    result = compare(
        ONE,
        cw.copied(ONE),
        domains(30) | {"sums": sums},
        tolerances={"d0": 0.0, "d1": 0.02},
        tasks={"sums": "exact"},
        points={"sums": 0.0},
        **FEW,
    )
    assert not result.changes[["change", "low", "high"]].to_numpy(dtype=float).any()
    assert set(result.changes["shown"]) == {"no"}
    assert result.changes["verdict"].dropna().tolist() == ["kept"] * 3
    assert (
        not result.predictions[["kl", "kl_low", "kl_high", "changed", "changed_high"]]
        .to_numpy(dtype=float)
        .any()
    )
    assert not result.weights["changed"].any()
    assert result.examples.empty
    assert result.answers.empty
    assert (result.completions["before"] == result.completions["after"]).all()
    assert result.passed
    page = CompareResult.page([result])
    assert "0 of 12 tensors changed" in page
    assert "No change is shown in d0, d1, d2, d3, sums." in result.summary()


def test_a_planted_change_is_found_and_nothing_else(planted: Any) -> None:
    limits = {"d0": 0.02, "d1": 0.0, "d2": 0.2, "d3": 0.2}
    given = domains(150)
    result = compare(ONE, planted, given, tolerances=limits, sequences=150, batch_size=64)
    truth = read(planted, cw.ALPHABETS[0], 4000)
    row = changed(result, "d0")
    assert truth.value == pytest.approx(0.03, abs=0.01)
    assert row["low"] - (truth.high - truth.value) < truth.value < row["high"] + (truth.value - truth.low)
    assert row["shown"] == "worse"
    assert row["verdict"] == ("broken" if row["low"] > 0.02 else "open")
    for name in ("d1", "d2", "d3"):
        assert changed(result, name)["shown"] == "no"
        assert changed(result, name)["verdict"] == "kept"
    assert abs(changed(result, "d1")["change"]) < 1e-6  # rounding alone: its letters were left as they were
    assert result.predictions["kl"].iloc[2] > 0.1  # swapped letters: no better, no worse, and not the same
    assert result.summary().startswith(
        "LlamaForCausalLM (tuned) against LlamaForCausalLM on 4 domains. Worse: d0 +0.0"
    )
    assert set(result.weights.loc[result.weights["changed"] > 0, "name"]) == {
        "model.embed_tokens.weight",
        "lm_head.weight",
    }


def test_a_domain_that_a_change_cannot_reach_is_exactly_as_it_was() -> None:
    bad = cw.worse_on(ONE, cw.ALPHABETS[0], 0.1)
    result = compare(ONE, bad, domains(40, 2), tolerances={"d1": 0.0}, **FEW)
    row = changed(result, "d1")
    assert (row["change"], row["low"], row["high"], row["shown"], row["verdict"]) == (0, 0, 0, "no", "kept")
    assert result.predictions[["kl", "changed", "changed_high"]].iloc[1].tolist() == [0, 0, 0]
    assert changed(result, "d0")["shown"] == "worse"
    assert result.weights.loc[result.weights["changed"] > 0, "name"].tolist() == ["model.embed_tokens.weight"]


def read(tuned: Any, alphabet: str, n: int) -> Any:
    """The change of loss on many texts of a domain."""
    reading = pool(tuned, alphabet, n)
    return loss_harm(reading.tuned, reading.base, None)


def pool(tuned: Any, alphabet: str, n: int, seed: int = 1) -> Any:
    domain = Domain("pool", test=[*dict.fromkeys(cw.texts(alphabet, n, seed))])
    split = tokenise(domain, ONE, seq_len=32, packing="padded").splits["test"]
    return read_tokens(Side(ONE), Side(tuned), split, range(len(split)), batch_size=256)


def test_untouched_domains_are_seldom_called(planted: Any) -> None:
    """A small version of benchmarks/compare/planted.py: five domains whose expected change is 0, in 40 draws."""
    draws, n = 40, 50
    readings = {name: pool(planted, name, draws * n) for name in cw.ALPHABETS[2:7]}
    asked = {name: ComparedDomain("") for name in readings}
    called, covered = 0, 0
    for draw in range(draws):
        part = slice(draw * n, (draw + 1) * n)
        small = {name: cut(reading, part) for name, reading in readings.items()}
        table = changes_frame(asked, small, {}, "token")  # type: ignore[arg-type]
        called += bool((table["shown"] != "no").any())
        covered += int(((table["low"] <= 0) & (table["high"] >= 0)).sum())
    assert called <= 5  # 2 expected; more in one of a hundred
    assert covered >= 0.91 * draws * len(readings)


def cut(reading: Any, part: slice) -> Any:
    sides = {
        name: replace(it, nll=it.nll[part], tokens=it.tokens[part], records=it.records[part])
        for name in ("base", "tuned", "kl", "changed")
        if (it := getattr(reading, name)) is not None
    }
    return replace(reading, **sides, texts=reading.texts[part])


def test_a_tolerance_that_is_broken_fails(planted: Any) -> None:
    bad = cw.worse_on(ONE, cw.ALPHABETS[0], 0.5)
    result = compare(ONE, bad, domains(30, 2), tolerances={"d0": 0.1, "d1": 0.1}, **FEW)
    assert not result.passed
    assert changed(result, "d0")["verdict"] == "broken"
    assert changed(result, "d1")["verdict"] == "kept"
    assert result.headline()["broken"] == "1"
    assert "Tolerance broken: d0. Tolerance kept: d1." in result.summary()
    assert result.examples["domain"].tolist() == ["d0", "d0"]
    assert (result.examples["change"] > 0.2).all()


def test_a_model_that_gives_nan_breaks_its_tolerances() -> None:
    broken = cw.copied(ONE)
    with torch.no_grad():
        broken.module.lm_head.weight[0, 0] = math.nan
    result = compare(ONE, broken, domains(10, 2), tolerances={"d0": 5.0}, **FEW)
    assert changed(result, "d0")["verdict"] == "broken"
    assert changed(result, "d1")["shown"] == "worse"
    assert not result.passed
    assert "–" in CompareResult.page([result])
    assert "Worse: d0 (loss not finite); d1 (loss not finite)." in result.summary()
    assert not any("not finite" in note for note in result.notes)
    back = compare(broken, ONE, domains(10, 1), tolerances={"d0": 5.0}, **FEW)
    assert changed(back, "d0")["verdict"] == "open"
    assert "d0: the base model's loss is not finite, so nothing can be said of its change." in back.notes


def test_a_domain_whose_loss_moved_and_whose_task_did_not_is_not_called_unchanged() -> None:
    worse = cw.worse_on(ONE, cw.ALPHABETS[0], 0.3)
    records = [{"prompt": text[:6], "completion": text[6:]} for text in cw.texts(cw.ALPHABETS[0], 40)]
    result = compare(ONE, worse, {"sums": records}, tasks={"sums": "exact"}, **FEW)
    assert result.changes["shown"].tolist() == ["worse", "no"]
    assert "No change is shown in sums (accuracy)." in result.summary()


def test_a_conversation_to_answer_needs_two_chat_templates_before_anything_is_read() -> None:
    talk = [{"role": "user", "content": "cd"}, {"role": "assistant", "content": "ef"}]
    words = deepcopy(tokenizer())
    words.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    instruct = load(deepcopy(ONE.module), tokenizer=words)
    given: dict[str, Any] = {"talk": [{"messages": talk}] * 9}
    read = list[int]()
    for pair, which in (((ONE, instruct), "base"), ((instruct, ONE), "tuned")):
        with pytest.raises(DataError, match=f"domain 'talk': .* a {which} model without a chat template"):
            compare(*pair, given, tasks={"talk": "exact"}, progress=lambda done, _: read.append(done))
    assert not read


def test_groups_are_what_intervals_are_over() -> None:
    given = [{"text": text, "group": place // 5} for place, text in enumerate(cw.texts("cdef", 30))]
    result = compare(ONE, cw.base(1), {"grouped": given}, **FEW)
    row = changed(result, "grouped")
    assert (row["n"], row["units"], row["of"]) == (30, 6, "groups")
    assert "Judged on fewer than 30: grouped (6 groups)." in CompareResult.page([result])


# What may be compared


@pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning")
def test_an_adapter_is_compared_with_its_base(tmp_path: Path, undrawn: None) -> None:
    adapted = load(cw.copied(ONE).module, tokenizer=tokenizer(), adapter={"r": 2, "targets": ["up_proj"]})
    with torch.no_grad():
        for weight in adapted.trainable().values():
            weight += 0.3
    adapted.save_pretrained(tmp_path / "adapter")
    one, two = (compare(ONE, given, domains(12, 2), **FEW) for given in (adapted, str(tmp_path / "adapter")))
    assert not hasattr(ONE.module, "peft_config")
    pd.testing.assert_frame_equal(one.changes, two.changes)
    pd.testing.assert_frame_equal(one.weights, two.weights)
    moved = two.weights[two.weights["changed"] > 0]
    assert moved["name"].tolist() == ["model.layers.0.mlp.up_proj.weight"]
    assert two.facts["tuned"] == "adapter"
    assert "Adapter of the tuned model: default (LORA) on 1 layers." in CompareResult.page([two])
    with pytest.raises(ModelError, match="base model with an adapter, expected one without"):
        compare(adapted, tmp_path / "adapter", domains(12, 2))


@pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning")
def test_a_base_model_that_holds_the_adapter_is_refused() -> None:
    adapted = load(cw.copied(ONE).module, tokenizer=tokenizer(), adapter={"r": 2, "targets": ["up_proj"]})
    inner = load(adapted.module.get_base_model(), tokenizer=tokenizer())  # type: ignore[operator]
    with pytest.raises(ModelError, match="got a base model that holds the adapter of the tuned one"):
        compare(inner, adapted, domains(4, 1))
    assert compare(adapted, adapted, domains(4, 1)).changes["change"].iloc[0] == 0


def steering(by: float) -> Steering:
    sites = resolve(ONE.module, "residual")
    return Steering(
        {site.name: (torch.ones(24), torch.full((24,), by)) for site in sites}, Base.of(ONE, sites)
    )


def test_a_steering_is_switched_on_in_the_base_model(undrawn: None) -> None:
    steered = steering(0.3)
    before = {name: weight.clone() for name, weight in ONE.module.state_dict().items()}
    result, again = (compare(ONE, given, domains(12, 2), **FEW) for given in (steered, (ONE, steered)))
    pd.testing.assert_frame_equal(result.changes, again.changes)
    assert result.facts["sites"] == ["model.layers.0:out"]
    assert (result.predictions["kl"] > 0).all()
    assert not result.weights["changed"].any()
    assert all(torch.equal(before[name], weight) for name, weight in ONE.module.state_dict().items())
    page = CompareResult.page([result])
    assert "Changed while it runs, at 1 sites: model.layers.0:out." in page
    assert "Both sides are one network." in page
    assert not compare(ONE, steering(0.0), domains(12, 2), **FEW).changes["change"].any()


class Scaled:
    """Anything with `.on(model)` will do: here the final norm's output times a number."""

    @contextmanager
    def on(self, model: Any) -> Any:
        handle = model.module.model.norm.register_forward_hook(lambda _, __, out: 0.5 * out)
        try:
            yield
        finally:
            handle.remove()


def test_whatever_can_be_switched_on_is_compared() -> None:
    texts = {"sums": [{"prompt": text[:5], "completion": text[5:7]} for text in cw.texts("cdef", 12)]}
    result = compare(ONE, Scaled(), texts, tasks={"sums": "exact"}, **FEW)
    assert (result.predictions["changed"] == 0).all()  # the order of tokens stays
    assert changed(result, "sums", "accuracy")["change"] == 0
    assert (result.completions["before"] == result.completions["after"]).all()
    assert changed(result, "sums")["change"] != 0


def test_other_tokenizers_are_compared_per_byte(undrawn: None) -> None:
    other = load(tiny_models.build("llama"), tokenizer=tiny_models.tokenizer())
    words = {"texts": ["the cat sat on the mat", "Hello hello hello", "a quick brown fox"] * 5}
    words["texts"] = [f"{text} {place}" for place, text in enumerate(words["texts"])]
    result = compare(ONE, other, words | {"talk": words["texts"][:4]}, tolerances={"texts": 0.1}, **FEW)
    row = changed(result, "texts")
    assert row["unit"] == "nats per byte"
    assert (row["n"], row["units"]) == (15, 15)
    assert result.predictions.empty
    page = CompareResult.page([result])
    assert "KL is left out: the tokenizers differ" in page
    assert "losses are per byte of the same text" in page
    assert "Weights are not compared: the architectures differ" in page
    assert len(result.completions) == 4


def test_files_are_read_whole_and_splits_as_they_are(tmp_path: Path) -> None:
    lines = "\n".join(f'{{"text": "{text}"}}' for text in cw.texts("cdef", 40))
    (tmp_path / "pool.jsonl").write_text(lines)
    (tmp_path / "split").mkdir()
    for name, part in (("train", lines), ("test", "\n".join(lines.split("\n")[:9]).replace("c", "d"))):
        (tmp_path / "split" / f"{name}.jsonl").write_text(part)
    given = {
        "pool": str(tmp_path / "pool.jsonl"),
        "split": str(tmp_path / "split"),
        "held out": ComparedDomain(str(tmp_path / "pool.jsonl"), records="test", tolerance=0.5),
        "made": Domain.from_path("made", tmp_path / "pool.jsonl"),
    }
    result = compare(ONE, ONE, given, sequences=100)
    counts = {name: changed(result, name)["n"] for name in given}
    held = len(list(given["made"].items("test")))  # type: ignore[union-attr]
    assert counts == {"pool": 40, "split": 9, "held out": held, "made": held}
    assert held < 10
    assert changed(result, "held out")["tolerance"] == 0.5


def test_domains_may_be_given_as_in_a_domains_file(tmp_path: Path) -> None:
    (tmp_path / "web.jsonl").write_text("\n".join(f'{{"text": "{text}"}}' for text in cw.texts("cdef", 12)))
    file = tmp_path / "domains.yaml"
    file.write_text(f"web: {{path: {tmp_path}/web.jsonl, tolerance: 0.5}}\n")
    mapping = {"web": {"path": tmp_path / "web.jsonl", "tolerance": 0.5}}
    one, two, three = (
        compare(ONE, ONE, given, **FEW)
        for given in (file, mapping, {"web": ComparedDomain(str(tmp_path / "web.jsonl"), tolerance=0.5)})
    )
    pd.testing.assert_frame_equal(one.changes, two.changes)
    pd.testing.assert_frame_equal(one.changes, three.changes)
    assert changed(one, "web")["tolerance"] == 0.5
    with pytest.raises(
        ConfigProblems, match=r"domains\['web'\].tolerence: got an unknown key.*try 'tolerance'"
    ):
        compare(ONE, ONE, {"web": {"path": "web.jsonl", "tolerence": 0.5}})
    columns = {"text": cw.texts("cdef", 5)}  # a table of columns is none
    assert changed(compare(ONE, ONE, {"table": columns}), "table")["n"] == 5


def test_sequences_are_cut_to_what_both_models_have_positions_for() -> None:
    result = compare(ONE, ONE, {"long": ["cdef" * 40, "cd" * 50]}, seq_len=200)
    assert result.config["seq_len"] == 64
    assert "Sequences have at most 64 tokens, as many as both models have positions for." in result.notes
    assert any(re.search("2 of 2 test sequences were cut at 64 tokens", note) for note in result.notes)


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path, planted: Any) -> None:
    result = compare(ONE, planted, domains(20, 3), tolerances={"d0": 0.0}, **FEW)
    result.save(tmp_path)
    again = CompareResult.load(tmp_path)
    for name in ("changes", "predictions", "examples", "completions", "weights", "answers"):
        pd.testing.assert_frame_equal(
            getattr(again, name), getattr(result, name), check_dtype=False, check_exact=True
        )
    assert again.summary() == result.summary()
    assert again.passed == result.passed
    assert result.report(tmp_path / "page.html").stat().st_size > 10_000
    assert "Change of loss by domain" in (tmp_path / "page.html").read_text()
    several = CompareResult.page([result, again])
    assert "Compared" in several


# Refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare(ONE, ONE, {}), "domains: got no domain, expected a mapping of names to domains"),
        (
            lambda: compare(ONE, ONE, {"web": ["a"]}, tolerances={"wbe": 0.1}),
            r"tolerances\['wbe'\]: got 'wbe', expected one of the domains, 'web'; try 'web'",
        ),
        (
            lambda: compare(ONE, ONE, {"web": ["a"]}, tolerances={"web": -1}),
            r"domains\['web'\].tolerance: got -1, expected a number of at least 0",
        ),
        (
            lambda: compare(ONE, ONE, {"web": ["a"]}, points={"web": 1}),
            r"points: got it without a task, expected it beside task: exact",
        ),
        (
            lambda: compare(ONE, ONE, {"web": ["a"]}, tasks={"web": "exakt"}),  # type: ignore[dict-item]
            "task: got 'exakt', expected 'exact' or 'choice'; try 'exact'",
        ),
        (
            lambda: compare(ONE, ONE, {"web": ["a"]}, tasks={"web": "exact"}, points={"web": 101}),
            "points: got 101, expected a number from 0 to 100",
        ),
        (
            lambda: compare(ONE, ONE, {"web": ["a"]}, tolerances=0.1),  # type: ignore[arg-type]
            "tolerances: got 0.1, expected a mapping of names of domains; try {'web': 0.1}",
        ),
        (
            lambda: compare(ONE, ONE, {"web": ["a"]}, tasks="exact"),  # type: ignore[arg-type]
            "tasks: got 'exact', expected a mapping of names of domains; try {'web': 'exact'}",
        ),
        (lambda: compare(ONE, ONE, {"web": ["a"]}, sequences=1), "sequences: got 1, expected a whole number"),
    ],
)
def test_settings_that_are_wrong(call: Any, message: str) -> None:
    with pytest.raises(ConfigProblems, match=message):
        call()


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigProblems) as caught:
        compare(ONE, ONE, {"web": ["a"]}, tolerances={"web": -1, "x": 1}, points={"web": 2}, batch_size=0)
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("base", "tuned", "message"),
    [
        (
            lambda: load(tiny_models.build("bert")),
            lambda: ONE,
            "got a BertModel, expected a causal language model",
        ),
        (lambda: ONE, lambda: load(tiny_models.build("llama")), "LlamaForCausalLM without tokenizer"),
        (lambda: ONE, lambda: 7, "got a int, expected a model, or something with .on"),
        (lambda: ONE, lambda: (ONE, 7), r"got a int, expected something with .on\(model\)"),
        (lambda: steering(0.1), lambda: ONE, "got a Steering, expected a model"),
    ],
)
def test_what_is_no_language_model_is_refused(base: Any, tuned: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        compare(base(), tuned(), {"web": ["cdef", "efcd"]})


def test_records_that_are_no_tasks_are_refused_before_anything_is_read() -> None:
    with pytest.raises(
        DataError, match="domain 'web', record 0: got a text, expected 'prompt' and 'completion'"
    ):
        compare(ONE, ONE, {"web": ["cdef"]}, tasks={"web": "exact"})
