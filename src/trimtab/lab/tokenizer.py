"""Small byte-pair tokenizers, trained on text that is at hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

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
    make: type[Any] = PreTrainedTokenizerFast
    made = make(tokenizer_object=inner, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False)
    assert isinstance(made, PreTrainedTokenizerFast)
    return made
