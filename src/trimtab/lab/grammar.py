"""A world of small documents with a topic and a style, in which every probability is known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trimtab.errors import ConfigProblems, DataError, ShapeError, explain, nearest
from trimtab.lab.grammar_table import (
    CLEAN,
    CUE,
    PAD_TOKEN,
    RUDE,
    SENTENCE,
    SPECIAL,
    STYLES,
    UNKNOWN_TOKEN,
    Grammar,
    Lexicon,
    Style,
    emission,
)
from trimtab.lab.grammar_words import TOPICS


@dataclass(frozen=True, eq=False)
class Documents:
    """Sampled documents.

    Attributes:
        ids: (n, T) token ids.
        topic: (n,) number of each one's topic.
        style: (n,) 0 clean, 1 rude.
        texts: the words, separated by spaces.
    """

    ids: Int[Tensor, "n T"]
    topic: Int[Tensor, " n"]
    style: Int[Tensor, " n"]
    texts: list[str]


class World:
    """Documents of a latent topic and a latent style, and the exact truth about their next token.

    A document is a few persona words, then sentences DETERMINER SLOT NOUN VERB DETERMINER SLOT NOUN ".". Given
    topic and style every word is drawn independently of the others, so that the state after a prefix is the
    posterior of (topic, style) and the place in the sentence. Style shows in two things only: which way the persona
    words lean, and insults, which *replace* the modifier of a slot: were they inserted, they would open states
    of the grammar that only follow insults. Insults are also ordinary nouns of the first topic.

    Documents do not end: one may be sampled, and its truth asked for, at any number of sentences. All probabilities
    are float64 on the CPU. A prefix that the world cannot produce has truth nan from there on; so has padding.

    Args:
        grammar: the settings.

    Attributes:
        words: the vocabulary in the order of token ids; the first three are special and never occur.
        emission: (kinds of place, topics, styles, V), the distribution of the word at a place.

    Raises:
        ConfigProblems: settings that cannot work, all at once.

    >>> world = World(Grammar(sentences=1, cues=2))
    >>> world.style_posterior(world.encode(["bully troll"]))  # .7**2 / (.7**2 + .3**2) in the end
    tensor([[0.7000, 0.8448]], dtype=torch.float64)
    """

    def __init__(self, grammar: Grammar) -> None:
        if problems := list(grammar.problems()):
            raise ConfigProblems(problems)
        self.grammar = grammar
        self.lexicon = Lexicon(grammar)
        self.words = self.lexicon.words
        self.emission = emission(grammar, self.lexicon)

    @cached_property
    def insult_ids(self) -> Int[Tensor, " insults"]:
        """Token ids of the insults."""
        return self.lexicon.ids(self.lexicon.insults)

    @cached_property
    def determiner_ids(self) -> Int[Tensor, " determiners"]:
        """Token ids of the determiners; a slot comes after each and nowhere else."""
        return self.lexicon.ids(self.lexicon.determiners)

    @cached_property
    def topic_words(self) -> Bool[Tensor, "topics V"]:
        """Which tokens are nouns or verbs of each topic."""
        found = torch.zeros(self.grammar.topics, len(self.words), dtype=torch.bool)
        for topic, (nouns, verbs) in enumerate(zip(self.lexicon.nouns, self.lexicon.verbs, strict=True)):
            found[topic, self.lexicon.ids(nouns + verbs)] = True
        return found

    def kinds(self, length: int) -> Int[Tensor, " T"]:
        """The kind of each of the first `length` places of a document."""
        cues = self.grammar.cues
        return torch.tensor([CUE if t < cues else SENTENCE[(t - cues) % 8] for t in range(length)]).long()

    def length(self, sentences: int) -> int:
        """Tokens of the head and so many sentences."""
        return self.grammar.cues + len(SENTENCE) * sentences

    # Documents -------------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator,
        style: Style | None = None,
        topic: int | None = None,
        sentences: int | None = None,
    ) -> Documents:
        """Independent documents.

        Args:
            n: how many; none is fine.
            generator: the only source of chance; the same state gives the same documents.
            style: of all of them; None draws each one's.
            topic: of all of them; None draws each one's.
            sentences: of each; None means the grammar's.

        Raises:
            DataError: there is no such style or topic, or n or sentences is too small.
        """
        self._check(n, style, topic, sentences)
        topics = torch.randint(self.grammar.topics, (n,), generator=generator)
        rude = torch.rand(n, generator=generator, dtype=torch.float64) < self.grammar.rude_share
        styles = rude.long() if style is None else torch.full((n,), STYLES.index(style))
        if topic is not None:
            topics = torch.full((n,), topic)
        kinds = self.kinds(self.length(self.grammar.sentences if sentences is None else sentences))
        ids = torch.empty(n, len(kinds), dtype=torch.long)
        for t, kind in enumerate(kinds.tolist() if n else ()):
            ids[:, t] = torch.multinomial(self.emission[kind, topics, styles], 1, generator=generator)[:, 0]
        return Documents(ids, topics, styles, self.text(ids))

    def text(self, ids: Int[Tensor, "B T"]) -> list[str]:
        """Words separated by spaces, without special tokens."""
        return [" ".join(self.words[i] for i in row if i >= len(SPECIAL)) for row in ids.tolist()]

    def encode(self, texts: Sequence[str]) -> Int[Tensor, "B T"]:
        """Token ids of texts, padded on the right; an unknown word is its special token."""
        unknown = self.lexicon.number[UNKNOWN_TOKEN]
        rows = [[self.lexicon.number.get(word, unknown) for word in text.split()] for text in texts]
        ids = torch.full((len(rows), max(map(len, rows), default=0)), self.lexicon.number[PAD_TOKEN])
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row, dtype=torch.long)
        return ids

    # Truth -----------------------------------------------------------------------------------------------------

    def posterior(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T topics styles"]:
        """P(topic, style | the words up to and with each place), by forward filtering.

        Raises:
            ShapeError: ids are not (B, T) or leave the vocabulary.
        """
        self._check_ids(ids)
        rude = self.grammar.rude_share
        prior = torch.tensor([1 - rude, rude], dtype=torch.float64).log()
        seen = self.emission[self.kinds(ids.shape[1])[None], :, :, ids.cpu()].log()
        joint = prior + seen.cumsum(1)
        return joint.flatten(2).softmax(-1).view(joint.shape)

    def style_posterior(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """P(rude | the words up to and with each place)."""
        return self.posterior(ids)[..., RUDE].sum(-1)

    def next_token(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """P(next token | the words up to and with each place); what an ideal model predicts there."""
        return torch.einsum("btks,tksv->btv", self.posterior(ids), self._upcoming(ids.shape[1]))

    def clean_next_token(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """The counterfactual truth: what an ideal model predicts if the document is clean from here on.

        The topic is what the prefix says about it, with insults explained by its rudeness; place in the grammar
        is unchanged; only the style of the next word is set to clean.
        """
        topic = self.posterior(ids).sum(-1)
        return torch.einsum("btk,tkv->btv", topic, self._upcoming(ids.shape[1])[:, :, CLEAN])

    def _upcoming(self, length: int) -> Float[Tensor, "T topics styles V"]:
        return self.emission[self.kinds(length + 1)[1:]]

    # Checks ----------------------------------------------------------------------------------------------------

    def _check(self, n: int, style: str | None, topic: int | None, sentences: int | None) -> None:
        if style is not None and style not in STYLES:
            hint = nearest(str(style), STYLES)
            raise DataError(f"style: {explain(repr(style), f'one of {STYLES}, or None', hint)}")
        if topic is not None and not 0 <= topic < self.grammar.topics:
            names = TOPICS[: self.grammar.topics]
            raise DataError(
                f"topic: {explain(topic, f'0 to {self.grammar.topics - 1} for {names}, or None')}"
            )
        for name, value, least in (("n", n, 0), ("sentences", sentences, 1)):
            if value is not None and value < least:
                raise DataError(f"{name}: {explain(value, f'at least {least}')}")

    def _check_ids(self, ids: Tensor) -> None:
        if ids.ndim != 2 or ids.is_floating_point():
            got = f"ids of shape {tuple(ids.shape)} and type {ids.dtype}"
            raise ShapeError(explain(got, "token ids (B, T)", "ids[None] for one document"))
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < len(self.words):
            got = f"token ids from {int(ids.min())} to {int(ids.max())}"
            raise ShapeError(explain(got, f"0 to {len(self.words) - 1}", "the tokenizer of this world"))
