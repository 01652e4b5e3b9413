"""Whether each package imports, and fits as its manual says, with the versions that are installed."""

from __future__ import annotations

import tempfile

import torch
from peer_attempt import LAYERS, WIDTH, build, demand, tokenizer
from peer_packages import peer, plain_import, reft
from transformers import TrainingArguments

from trimtab import LinEAS, Model

RUDE, CLEAN = ["you fool", "go away, fool", "no"], ["you friend", "do stay, friend", "yes"]


def imports(name: str) -> str:
    """Without any shim."""
    said = "ok" if name == "trimtab" else plain_import(name)
    return demand(said == "ok", said, said)


def fits(name: str) -> str:
    """From three texts of each side; the packages that ask for pairs get them in order."""
    FITTED[name]()
    return "fitted"


def trimtab() -> None:
    LinEAS(sites="residual", steps=2).fit(Model(build("llama"), tokenizer(), "tiny"), RUDE, CLEAN)


def repeng() -> None:
    package = peer("repeng")
    pairs = [package.DatasetEntry(positive=c, negative=r) for c, r in zip(CLEAN, RUDE, strict=True)]
    package.ControlVector.train(build("llama"), tokenizer(pad_token="<unk>"), pairs)


def steering_vectors() -> None:
    pairs = list(zip(CLEAN, RUDE, strict=True))
    peer("steering-vectors").train_steering_vector(
        build("llama"), tokenizer(pad_token="<unk>"), pairs, batch_size=3
    )


def pyreft() -> None:
    """Its own builder of data and trainer, two steps."""
    package, network, words = peer("pyreft"), build("llama"), tokenizer(pad_token="<unk>")
    words.model_max_length = 64
    data = package.make_last_position_supervised_data_module(words, network, RUDE, CLEAN, LAYERS)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=2,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        wrapped = reft(network, LAYERS, WIDTH)
        package.ReftTrainerForCausalLM(model=wrapped, processing_class=words, args=settings, **data).train()


FITTED = {"trimtab": trimtab, "repeng": repeng, "steering-vectors": steering_vectors, "pyreft": pyreft}
