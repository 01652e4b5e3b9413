"""Tiny models and domains that tests share; everything is built in process, from seeds."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trimtab import Domain, Fit, load
from trimtab.data.tokens import tokenise
from trimtab.models.load import Model
from trimtab.train.evaluation import evaluation_rows

LETTERS = {"math": "abcd ", "code": "efgh ", "web": "ijkl ", "safety": "mnop ", "facts": "qrst "}
TRAIN = ("math", "code", "web")
EVALUATE = ("safety", "facts")

QUICK = Fit(
    steps=12,
    batch_size=4,
    seq_len=16,
    lr=3e-3,
    eval_sequences=8,
    probe_sequences=4,
    test_sequences=8,
    eval_batch_size=8,
    eval_points=4,
    checkpoint_every=5,
)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with no merges worth the name."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=258, special_tokens=["<eos>"], initial_alphabet=alphabet)
    bpe.train_from_iterator(["ab"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>")


def llama(seed: int = 0, dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> LlamaForCausalLM:
    """A one-block Llama of about 20k parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_dropout=dropout,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).to(dtype)


def model(seed: int = 0, **options: object) -> Model:
    """A handle on `llama(seed)`; options go to `load`."""
    dtype = options.pop("dtype", torch.float32)
    dropout = options.pop("dropout", 0.0)
    return load(llama(seed, dtype, dropout), tokenizer=tokenizer(), **options)  # type: ignore[arg-type]


def texts(name: str, split: str, n: int) -> list[str]:
    """Random words over the domain's own letters."""
    draw = random.Random(f"{name}/{split}")
    return ["".join(draw.choice(LETTERS[name]) for _ in range(60)) for _ in range(n)]


def domain(name: str, *, trainable: bool = True) -> Domain:
    """A domain whose letters no other domain uses."""
    splits = {"validation": texts(name, "validation", 8), "test": texts(name, "test", 8)}
    if trainable:
        splits["train"] = texts(name, "train", 40)
    return Domain(name, **splits)


def trainable() -> Mapping[str, Domain]:
    """Three domains to train on."""
    return {name: domain(name) for name in TRAIN}


def evaluated() -> Mapping[str, Domain]:
    """Two domains to evaluate only."""
    return {name: domain(name, trainable=False) for name in EVALUATE}


def plain_losses(network: Any, domains: Mapping[str, Domain]) -> dict[str, float]:
    """Test losses of a network of transformers or peft on the sequences that a `QUICK` run reads, computed by hand."""
    found = {}
    for name, each in domains.items():
        rows = tokenise(each, tokenizer(), seq_len=QUICK.seq_len).splits["test"]
        batch = rows.batch(list(evaluation_rows(name, len(rows), QUICK.test_sequences)))
        with torch.no_grad():
            logits = network(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
        lost = torch.nn.functional.cross_entropy(logits.double().flatten(0, 1), batch.labels[:, 1:].flatten())
        found[name] = float(lost)
    return found


def saved_model(folder: str, width: int = 16) -> None:
    """Write a tiny language model of these letters, with its tokenizer."""
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
