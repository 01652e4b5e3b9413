"""Tiny models of every family and a tokenizer that needs no file."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import transformers as hf
from torch import nn

import tiny_models


@pytest.fixture
def make() -> Callable[..., nn.Module]:
    """Build a fresh model of a family."""
    return tiny_models.build


@pytest.fixture(scope="session")
def tokenizer() -> hf.PreTrainedTokenizerFast:
    """One token per character; no padding token, padding on the right."""
    return tiny_models.tokenizer()
