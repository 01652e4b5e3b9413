"""Effect at matched KL: our steerings and those of other packages, from the same documents on the same models.

Every contestant steers rude documents to clean ones and is scored on held-out documents along its own dial. The
packages ask for pairs: they get the same documents, paired in their order. "True pairs" are documents drawn with the
same random numbers in both styles, so that a pair has one topic and differs in persona words and insults alone:
knowledge that ours does not need.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from cells import scored
from oracle import oracle
from peer_packages import peer, quiet, reft, told
from torch import Tensor

from trimtab import LinEAS, MeanAcT
from trimtab.lab.grammar import Documents
from trimtab.seeds import derive
from worlds import Judge, documents, judge

WORLD, N = "weak cues", 32
STRENGTHS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""The dial of ours, and the multiplier of steering-vectors, until `ENOUGH`."""
COEFFICIENTS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""The dial of repeng, whose directions have length 1."""
ENOUGH = 0.1
"""KL on clean documents beyond which a curve is not carried on."""
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""The dial of pyreft, which has no strength: how long it is trained, four steps an epoch."""
PAIRED = ", true pairs"

Scores = dict[str, float]
Score = Callable[[float], Scores]
Fit = Callable[[Judge, list[str], list[str]], Score]


def estimated(estimator: Any) -> Fit:
    def fit(judged: Judge, rude: list[str], clean: list[str]) -> Score:
        steering = estimator.fit(judged.model, source=rude, target=clean)
        return lambda strength: scored(judged, steering, strength)

    return fit


def repeng(method: str) -> Fit:
    """Its own training, over all layers that it reads (all but the first block)."""

    def fit(judged: Judge, rude: list[str], clean: list[str]) -> Score:
        package, module = peer("repeng"), copy.deepcopy(judged.model.module)
        pairs = [package.DatasetEntry(positive=c, negative=r) for c, r in zip(clean, rude, strict=True)]
        with quiet():
            vector = package.ControlVector.train(module, judged.model.tokenizer, pairs, method=method)
        control = package.ControlModel(module, sorted(vector.directions))

        def forward(input_ids: Tensor) -> Any:
            # Its batched forward fails without positions for each row.
            return control(
                input_ids=input_ids, position_ids=torch.arange(input_ids.shape[1]).expand_as(input_ids)
            )

        def score(strength: float) -> Scores:
            control.set_control(vector, strength)
            return standing_in(judged, forward).scores()

        return score

    return fit


def steering_vectors(judged: Judge, rude: list[str], clean: list[str]) -> Score:
    """Its defaults: mean difference at the last token, all layers."""
    package, module = peer("steering-vectors"), copy.deepcopy(judged.model.module)
    pairs = list(zip(clean, rude, strict=True))
    vector = package.train_steering_vector(module, judged.model.tokenizer, pairs, batch_size=N)

    def score(strength: float) -> Scores:
        with vector.apply(module, multiplier=strength):
            return standing_in(judged, module).scores()

    return score


def standing_in(judged: Judge, forward: Callable[..., Any]) -> Judge:
    """The judge of another forward pass."""
    return replace(judged, model=SimpleNamespace(module=forward))  # type: ignore[arg-type]


FITS: dict[str, tuple[str, Fit]] = {
    "trimtab LinEAS, residual": ("trimtab", estimated(LinEAS(sites="residual", gamma=0.0))),
    "trimtab LinEAS, pre-MLP norm": ("trimtab", estimated(LinEAS(gamma=0.0))),
    "trimtab MeanAcT, residual": ("trimtab", estimated(MeanAcT(sites="residual"))),
    "repeng, pca_diff": ("repeng", repeng("pca_diff")),
    "repeng, pca_center": ("repeng", repeng("pca_center")),
    "steering-vectors, mean": ("steering-vectors", steering_vectors),
}
REFT = {"pyreft LoReFT, on the prompt": False, "pyreft LoReFT, everywhere": True}
"""Whether it acts at all tokens; by its manual it acts at the first and last token of the prompt."""
ORACLE = "affine oracle, residual"
PAIRABLE = [name for name in FITS if "norm" not in name]


def wanted(packages: list[str], draws: int) -> Iterator[tuple[str, int]]:
    """Names and draws of all fits on one model; those with true pairs are of one draw, the oracle is one."""
    names = [name for name, (package, _) in FITS.items() if package in packages]
    names += list(REFT) if "pyreft" in packages else []
    yield ORACLE, 0
    yield from ((name, draw) for draw in range(draws) for name in names)
    yield from ((name + PAIRED, 0) for name in names if name in PAIRABLE)


def run(name: str, seed: int, draw: int) -> dict[str, Any]:
    """Fit and score one contestant."""
    judged = judge(WORLD, seed)
    try:
        curves = curves_of(name, judged, draw)
    except Exception as error:  # that it cannot run is a result
        curves = {"failed": told(error)}
    return {"contestant": name, "seed": seed, "draw": draw, **curves}


def curves_of(name: str, judged: Judge, draw: int) -> dict[str, Any]:
    if name == ORACLE:
        best = oracle(judged, "residual", draw)
        return {"curve": curve(lambda strength: scored(judged, best, strength))}
    rude, clean = examples(judged, draw, name.endswith(PAIRED))
    base = name.removesuffix(PAIRED)
    if base in REFT:
        return {"curve": reft_curve(judged, rude, clean, REFT[base])}
    package, fit = FITS[base]
    score = fit(judged, rude.texts, clean.texts)
    dial = COEFFICIENTS if package == "repeng" else STRENGTHS
    forwards = {"curve": curve(score, dial)}
    return forwards if package == "trimtab" else forwards | {"reversed": curve(lambda s: score(-s), dial)}


def examples(judged: Judge, draw: int, paired: bool) -> tuple[Documents, Documents]:
    if not paired:
        return tuple(documents(judged.world, style, N, "fit", draw) for style in ("rude", "clean"))  # type: ignore
    seed = derive(draw, "steering peers", "pairs")
    return tuple(
        judged.world.sample(N, generator=torch.Generator().manual_seed(seed), style=style)
        for style in ("rude", "clean")
    )  # type: ignore[return-value]


def curve(score: Score, dial: Sequence[float] = STRENGTHS) -> list[Scores]:
    rows: list[Scores] = []
    for strength in dial:
        rows.append(row(strength, score(strength)))
        if not rows[-1]["kl_moved"] <= ENOUGH:
            break
    return rows


def row(dial: float, scores: Scores) -> Scores:
    return {"dial": dial, **{name: round(value, 5) for name, value in scores.items()}}


# pyreft --------------------------------------------------------------------------------------------------------------


def reft_curve(judged: Judge, rude: Documents, clean: Documents, everywhere: bool) -> list[Scores]:
    """LoReFT of rank 4 after every block, trained by its own trainer: rude heads, clean documents.

    It is supervised: cross-entropy on the words of clean documents after the persona words of rude ones. Settings of
    its manual: learning rate 4e-3, batches of 10, linear schedule. A fresh LoReFT is no identity: acting everywhere it
    moves clean documents by more than .03 nats before it has learned, so that smaller budgets are out of its reach.
    """
    module = copy.deepcopy(judged.model.module)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wrapped = reft(module, module.config.num_hidden_layers, module.config.hidden_size)
    cues = judged.world.grammar.cues
    length = judged.rude.ids.shape[1]
    places = list(range(length)) if everywhere else sorted({0, cues - 1})

    def forward(input_ids: Tensor) -> Any:
        return wrapped({"input_ids": input_ids}, unit_locations={"base": places})[1]

    rows = [row(0, judged.scores())]

    def score(step: int) -> None:
        if step in STEPS and rows[-1]["kl_moved"] <= ENOUGH:
            rows.append(row(step, standing_in(judged, forward).scores()))

    train(wrapped, reft_data(judged, rude, clean, places), score)
    return rows


def reft_data(judged: Judge, rude: Documents, clean: Documents, places: list[int]) -> dict[str, Any]:
    """By its own builder, then with the places where it is to act."""
    tokenizer, cues = copy.deepcopy(judged.model.tokenizer), judged.world.grammar.cues
    tokenizer.model_max_length = 256  # type: ignore[union-attr]
    heads = [" ".join(text.split()[:cues]) for text in rude.texts]
    rest = [" " + " ".join(text.split()[cues:]) for text in clean.texts]
    layers = judged.model.module.config.num_hidden_layers
    data = peer("pyreft").make_multiple_position_supervised_data_module(
        tokenizer,
        judged.model.module,
        heads,
        rest,
        positions="f1+l1",
        num_interventions=layers,
        nonstop=True,
        share_weights=True,
    )
    rows = [{**one, "intervention_locations": [places] * layers} for one in data["train_dataset"].to_list()]
    return {
        **data,
        "train_dataset": type(data["train_dataset"]).from_list(rows),
        "processing_class": tokenizer,
    }


def train(wrapped: Any, data: dict[str, Any], after_step: Callable[[int], None]) -> None:
    from transformers import TrainerCallback, TrainingArguments

    class Trainer(peer("pyreft").ReftTrainerForCausalLM):  # type: ignore[misc]
        # A shim of ours: transformers 5 passes num_items_in_batch, which pyreft 0.1.0 does not take.
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            return super().compute_loss(model, inputs, return_outputs)

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            after_step(state.global_step)

    with tempfile.TemporaryDirectory() as folder, quiet(), torch.random.fork_rng():
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=STEPS[-1],
            per_device_train_batch_size=10,
            learning_rate=4e-3,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            seed=0,
        )
        Trainer(model=wrapped, args=settings, callbacks=[Watch()], **data).train()
