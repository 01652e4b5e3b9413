"""The settings of the grammar world, its vocabulary, and how likely each word is at each kind of place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.errors import Problem
from trimtab.lab import grammar_words as lists
from trimtab.seeds import derive

Style = Literal["clean", "rude"]
STYLES: tuple[Style, ...] = ("clean", "rude")
CLEAN, RUDE = 0, 1
CUE, DETERMINER, SLOT, NOUN, VERB, END = range(6)
"""The kinds of place in a document. A slot holds a modifier, or an insult instead of it."""
SENTENCE = (DETERMINER, SLOT, NOUN, VERB, DETERMINER, SLOT, NOUN, END)
PAD_TOKEN, END_TOKEN, UNKNOWN_TOKEN = "<|pad|>", "<|end|>", "<|unknown|>"
SPECIAL = (PAD_TOKEN, END_TOKEN, UNKNOWN_TOKEN)

_RANGES = {
    "topics": (2, len(lists.TOPICS)),
    "nouns": (1, len(lists.NOUNS[0])),
    "verbs": (1, len(lists.VERBS[0])),
    "modifiers": (1, len(lists.MODIFIERS)),
    "determiners": (1, len(lists.DETERMINERS)),
    "cues": (0, 64),
    "cue_words": (1, len(lists.POLITE)),
    "sentences": (1, 512),
    "insult_rate": (0.0, 1.0),
    "rude_share": (0.0, 1.0),
    "cue_strength": (0.5, 1.0),
    "focus": (0.0, 1.0),
}


@dataclass(frozen=True)
class Grammar:
    """The settings of a grammar world.

    Attributes:
        topics: how many, equally likely.
        nouns: nouns of each topic.
        verbs: verbs of each topic.
        modifiers: shared by all topics, each of which has its own favourites.
        determiners: equally likely.
        insults: how many nouns of the first topic serve as insults, equally likely.
        insult_rate: how often a slot of a rude document holds an insult.
        rude_share: how many documents are rude.
        cues: persona words at the head of each document.
        cue_words: persona words that lean to either style.
        cue_strength: how often a persona word leans to the style of its document: .5 tells nothing, 1 tells all.
        focus: how often a noun or verb is of the document's topic; else it is of another topic.
        sentences: of eight words, in a sampled document.
        seed: of which words each topic favours.
    """

    topics: int = 8
    nouns: int = 10
    verbs: int = 5
    modifiers: int = 16
    determiners: int = 4
    insults: int = 6
    insult_rate: float = 0.5
    rude_share: float = 0.5
    cues: int = 3
    cue_words: int = 4
    cue_strength: float = 0.7
    focus: float = 0.85
    sentences: int = 6
    seed: int = 0

    def problems(self, where: str = "grammar") -> Iterator[Problem]:
        """Every setting that cannot work."""
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:
                hint = str(least if value < least else most)
                yield Problem(f"{where}.{name}", str(value), f"{least} to {most}", hint)
        if not 1 <= self.insults <= self.nouns:
            expected = f"1 to nouns={self.nouns}: insults are nouns of a topic"
            yield Problem(f"{where}.insults", str(self.insults), expected, str(max(1, self.nouns // 2)))


class Lexicon:
    """The words of a grammar world, by their part in it.

    Attributes:
        words: the vocabulary in the order of token ids; special tokens first.
        cues: persona words that lean to the clean style, and those that lean to the rude one.
        nouns, verbs: of each topic.
        insults: nouns of the first topic that serve as insults.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.cues = [list(group[: grammar.cue_words]) for group in (lists.POLITE, lists.COARSE)]
        self.determiners = list(lists.DETERMINERS[: grammar.determiners])
        self.modifiers = list(lists.MODIFIERS[: grammar.modifiers])
        self.nouns = [list(group[: grammar.nouns]) for group in lists.NOUNS[: grammar.topics]]
        self.verbs = [list(group[: grammar.verbs]) for group in lists.VERBS[: grammar.topics]]
        self.insults = self.nouns[0][: grammar.insults]
        groups = (*self.cues, self.determiners, self.modifiers, *self.nouns, *self.verbs)
        self.words = (*SPECIAL, *(word for group in groups for word in group), lists.END)
        self.number = {word: number for number, word in enumerate(self.words)}

    def ids(self, group: Sequence[str]) -> Int[Tensor, " n"]:
        """Token ids of words of the vocabulary."""
        return torch.tensor([self.number[word] for word in group])


def emission(grammar: Grammar, lexicon: Lexicon) -> Float[Tensor, "kinds topics styles V"]:
    """The distribution of the word at each kind of place, given topic and style; float64, rows sum to one."""
    ids, g = lexicon.ids, grammar
    table = torch.zeros(6, g.topics, 2, len(lexicon.words), dtype=torch.float64)
    for leaning, group in enumerate(lexicon.cues):
        table[CUE, :, leaning, ids(group)] = g.cue_strength / g.cue_words
        table[CUE, :, 1 - leaning, ids(group)] = (1 - g.cue_strength) / g.cue_words
    table[DETERMINER][..., ids(lexicon.determiners)] = 1 / g.determiners
    table[END, ..., lexicon.number[lists.END]] = 1
    for topic in range(g.topics):
        table[SLOT, topic][:, ids(lexicon.modifiers)] = _favourites(g, "modifiers", topic, g.modifiers)
        for kind, name, groups in ((NOUN, "nouns", lexicon.nouns), (VERB, "verbs", lexicon.verbs)):
            for owner, group in enumerate(groups):
                share = g.focus if owner == topic else (1 - g.focus) / (g.topics - 1)
                table[kind, topic][:, ids(group)] = share * _favourites(g, name, owner, len(group))
    table[SLOT, :, RUDE] *= 1 - g.insult_rate
    table[SLOT, :, RUDE, ids(lexicon.insults)] = g.insult_rate / g.insults
    return table


def _favourites(grammar: Grammar, name: str, topic: int, n: int) -> Float[Tensor, " n"]:
    """Probabilities that fall as 1 / (2 + rank), in an order of the topic's own."""
    generator = torch.Generator().manual_seed(derive(grammar.seed, "grammar", name, topic))
    weights = 1 / (2 + torch.randperm(n, generator=generator).double())
    return weights / weights.sum()
