"""Language models that this machine trains itself, once, with their byte-pair tokenizers, on text it already has."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trimtab.data.domains import Domain
from trimtab.data.tokens import tokenise
from trimtab.errors import ConfigError, explain, nearest
from trimtab.lab.corpora import corpus, read_card, write_card
from trimtab.models.devices import device_name
from trimtab.models.load import load
from trimtab.runs.paths import built_once, cache_home, processes
from trimtab.seeds import derive, isolated
from trimtab.train.loop import Loop
from trimtab.train.settings import Fit

END = "<|end|>"
PAD = "<|pad|>"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text goes in and comes back unchanged.

    Args:
        texts: what to count pairs in; the same texts in any order give the same tokenizer.
        vocabulary: number of tokens, at least 258: every byte, an end and a padding token.
    """
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return fast_tokenizer(inner, eos_token=END, pad_token=PAD)


def fast_tokenizer(inner: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer as transformers takes it, with its special tokens by their roles."""
    make: type[Any] = PreTrainedTokenizerFast
    made = make(tokenizer_object=inner, clean_up_tokenization_spaces=False, **special)
    assert isinstance(made, PreTrainedTokenizerFast)
    return made


RECIPE = 1
"""Raised when the same settings would give another model, so that no cache serves the old one."""

Progress = Callable[[int, int, float], None]
"""Told after each step: steps done, steps in all, the loss of this step in nats per token."""

_TOKENIZER_CHARACTERS = 400_000
_DISTRIBUTED = ("WORLD_SIZE", "RANK", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")


@dataclass(frozen=True)
class LabModel:
    """The settings of a lab model: a Llama with tied embeddings, and how it is pretrained.

    Attributes:
        what: one line for people.
        pool: corpora to pretrain on, with their shares of the sequences; they sum to 1.
        fit: the training settings.
        width: size of the residual stream.
        intermediate: size of the MLPs.
        layers: blocks.
        heads: attention heads.
        vocabulary: tokens of the tokenizer, trained on equal parts of the pool.
        positions: longest sequence it is configured for.
        characters: how much of each split of each corpus is used at most.
        seed: of weights and sample order.
    """

    what: str
    pool: Mapping[str, float]
    fit: Fit
    width: int
    intermediate: int
    layers: int = 2
    heads: int = 4
    vocabulary: int = 512
    positions: int = 512
    characters: int = 2_000_000
    seed: int = 0


_FIT = Fit(
    lr=3e-3,
    lr_schedule="cosine",
    betas=(0.9, 0.95),
    weight_decay=0.1,
    eval_sequences=128,
    probe_sequences=64,
    eval_batch_size=32,
)

LAB_MODELS: dict[str, LabModel] = {
    "text-small": LabModel(
        what="half a million parameters, pretrained for about a minute on two cores",
        pool={"python": 0.3, "docstrings": 0.3, "metadata": 0.15, "tests": 0.2, "headers": 0.05},
        fit=replace(_FIT, steps=600, batch_size=16, seq_len=128, warmup_steps=50),
        width=128,
        intermediate=384,
    ),
    **{
        f"family-{name}": LabModel(
            what=f"one of three sizes that differ in nothing else, for laws of size; {steps * 4096} tokens",
            pool={"python": 1.0},
            fit=replace(_FIT, steps=steps, batch_size=32, seq_len=128, warmup_steps=20, lr=6e-3),
            width=width,
            intermediate=3 * width,
        )
        for name, width, steps in (("40k", 32, 150), ("140k", 64, 250), ("330k", 104, 400))
    },
    "text-tiny": LabModel(
        what="for tests: 74 thousand parameters, pretrained for two seconds",
        pool={"python": 0.5, "tests": 0.5},
        fit=replace(_FIT, steps=200, batch_size=8, seq_len=64, warmup_steps=5, lr=1e-2),
        width=64,
        intermediate=128,
        layers=1,
        characters=150_000,
    ),
}


def lab_model(name: str, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """The folder of a small pretrained model, for `load`; trained here on first use, then kept.

    It has never seen a validation or test split of any corpus: only the train splits of its pool.
    `card.json` says what it was made from (settings, corpus fingerprints, versions, threads) and its loss on the
    validation splits of the pool. Weights depend on the machine and on the number of threads.

    Under torchrun each process waits until one has built it.

    Args:
        name: "text-small", "text-tiny", or one of a family of sizes: "family-40k", "family-140k", "family-330k".
        cache: where to keep it and its corpora; None means the cache of this machine.
        progress: called after each training step; never called when the model is there already.

    Raises:
        ConfigError: there is no such model.
        DataError: the installation lacks the files of a corpus.
    """
    if name not in LAB_MODELS:
        expected = f"one of {tuple(LAB_MODELS)}"
        raise ConfigError(f"lab model: {explain(repr(name), expected, nearest(name, LAB_MODELS))}")
    settings = LAB_MODELS[name]
    folders = {kind: corpus(kind, cache) for kind in settings.pool}
    prints = {kind: read_card(folder)["fingerprint"] for kind, folder in folders.items()}
    given = {"settings": asdict(settings), "corpora": prints}
    target = model_folder(name, [RECIPE, *given.values()], cache)
    if not target.is_dir() and processes() > 1:
        # In a process of its own: under torchrun, training here would wait for ranks that wait for us.
        code = "import pathlib, sys; from trimtab.lab.models import lab_model; "
        code += "lab_model(sys.argv[1], pathlib.Path(sys.argv[2]) if sys.argv[2] else None)"
        env = {key: value for key, value in os.environ.items() if not key.startswith(_DISTRIBUTED)}
        command = [sys.executable, "-c", code, name, str(cache or "")]
        subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    about = {"name": name, "recipe": RECIPE, **given}
    return built_model(target, about, lambda folder: pretrain(settings, folders, folder, progress))


def model_folder(name: str, made_from: list[Any], cache: Path | None) -> Path:
    """The cache folder of a lab model: under a hash of all that it is made from."""
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
    return (cache_home() if cache is None else cache) / "lab" / "models" / f"{name}-{key}"


def built_model(target: Path, about: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> Path:
    """The folder of a lab model with its card, made on first use; `make` fills it and returns the card."""

    def build(folder: Path) -> None:
        start = time.monotonic()
        facts = make(folder)
        write_card(folder, {"schema": 1, **about, **facts, "seconds": round(time.monotonic() - start, 1)})

    return built_once(target, build)


def built_with() -> dict[str, Any]:
    """The environment that decides the weights of a lab model: the number of threads, and versions."""
    versions = {one.__name__: one.__version__ for one in (torch, transformers, tokenizers)}
    return {"threads": torch.get_num_threads(), "versions": {"python": platform.python_version(), **versions}}


def pretrain(
    settings: LabModel,
    folders: Mapping[str, Path],
    out: Path,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Train a tokenizer and a model on the train splits of corpora and save both in `out`.

    The caller's random generators are unchanged. Lab models are the same wherever they are made, so that a GPU is used
    only where it is asked for.

    Returns:
        Facts for the card: parameters, losses, device, threads, versions.
    """
    sample = min(settings.characters, _TOKENIZER_CHARACTERS)
    texts = [text for folder in folders.values() for text in read_texts(folder, "train", sample)]
    tokenizer = train_tokenizer(texts, settings.vocabulary)
    with isolated(derive(settings.seed, "lab model")), tempfile.TemporaryDirectory() as scratch:
        special = tokenizer.eos_token_id, tokenizer.pad_token_id
        config = llama(settings, settings.vocabulary, settings.positions, *special)
        network = LlamaForCausalLM(config)
        network.to(device)  # type: ignore[arg-type]
        model = load(network, tokenizer=tokenizer)
        fit, domains = settings.fit, {}
        for kind, folder in folders.items():  # the test split is not even opened
            splits = {name: read_texts(folder, name, settings.characters) for name in ("train", "validation")}
            domains[kind] = tokenise(Domain(kind, **splits), model, seq_len=fit.seq_len, cache=Path(scratch))
        loop = Loop(model, domains, fit, seed=settings.seed)
        for step in range(fit.steps):
            stats = loop.step(list(settings.pool.values()))
            if progress is not None:
                progress(step + 1, fit.steps, stats.loss)
        held_out = {kind: domain.splits["validation"] for kind, domain in domains.items()}
        read = loop.evaluate(held_out, fit.eval_sequences)
    network.train(False)
    network.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "validation_loss_nats": {kind: round(losses.loss, 4) for kind, losses in read.items()},
        "device": device_name(network.device),
        **built_with(),
    }


def llama(
    shape: Any, vocabulary: int, positions: int, end: int | None, pad: int | None, **more: Any
) -> LlamaConfig:
    """A Llama with tied embeddings; `shape` has its width, its MLPs' width (intermediate), layers and heads."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        **more,
    )


def read_texts(folder: Path, split: str, characters: int) -> list[str]:
    """The first documents of a corpus's split, `characters` in all; the last one is cut."""
    texts: list[str] = []
    with (folder / f"{split}.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            if characters <= 0:
                break
            texts.append(json.loads(line)["text"][:characters])
            characters -= len(texts[-1])
    return texts
