"""Tiny tokenizers, built in process."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<eos>", "<bos>", "<pad>", "<|start|>", "<|end|>"]
CORPUS = [
    "the cat sat on the mat, and the dog sat too.",
    "User: Assistant: 2 + 2 = 4",
    "def f(x):\n    return x",
]

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


@pytest.fixture(scope="session")
def make_tokenizer() -> MakeTokenizer:
    """Byte-level BPE whose decoding gives back every text exactly."""

    def make(
        *, template: str | None = None, with_bos: bool = False, **special: str | None
    ) -> PreTrainedTokenizerFast:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator(CORPUS, trainer)
        backend.post_processor = processors.ByteLevel(trim_offsets=True)
        if with_bos:
            backend.post_processor = processors.TemplateProcessing(
                single="<bos> $A", special_tokens=[("<bos>", backend.token_to_id("<bos>"))]
            )
        names = {"eos_token": "<eos>", "bos_token": "<bos>" if with_bos else None, **special}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, **{key: value for key, value in names.items() if value is not None}
        )
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer: MakeTokenizer) -> PreTrainedTokenizerFast:
    return make_tokenizer()
