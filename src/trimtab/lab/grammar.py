"""Grammar world: a synthetic source of documents with a latent topic and style, whose probabilities are exact.

No word stands in two lists, so that a word other than an insult names its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trimtab.errors import ConfigProblems, DataError, Problem, ShapeError, explain, nearest
from trimtab.seeds import derive

DETERMINERS = ("the", "a", "every", "some", "this", "my")
_MODIFIERS = (
    "old new small large quiet bright cold warm heavy light red green "
    "round narrow plain famous hidden gentle busy fresh distant wooden broken hollow"
)
MODIFIERS = tuple(_MODIFIERS.split())
POLITE = ("host", "nurse", "monk", "tutor", "butler", "vicar")
"""Persona words that lean towards the clean style."""
COARSE = ("bully", "troll", "lout", "heckler", "thug", "brute")
"""Persona words that lean towards the rude style; they are no insults, and stand at the head only."""
END = "."

_NOUNS = {
    "animals": "pig rat toad donkey worm snake sheep horse goose otter hare crow",
    "kitchen": "soup bread butter kettle spoon oven onion pepper plate recipe pie salt",
    "music": "violin drum flute singer chorus melody piano trumpet concert rhythm cello ballad",
    "sea": "ship sailor harbour anchor wave tide captain island lighthouse net reef ferry",
    "school": "pupil teacher lesson book pencil exam essay classroom library desk poem map",
    "sport": "runner goal racket coach match team ball stadium referee medal sprint trophy",
    "garden": "rose hedge spade seed lawn pond tulip orchard fence weed compost trellis",
    "money": "bank coin trader loan invoice market wallet debt stock budget tax broker",
}
_VERBS = {
    "animals": "chases bites feeds herds grooms hunts",
    "kitchen": "bakes boils stirs slices tastes roasts",
    "music": "plays hums tunes conducts sings rehearses",
    "sea": "sails rows moors floats docks steers",
    "school": "teaches reads studies grades writes explains",
    "sport": "kicks throws scores wins trains tackles",
    "garden": "plants waters prunes digs mows harvests",
    "money": "buys sells lends pays invests audits",
}
TOPICS = tuple(_NOUNS)
"""The topics; nouns of the first are what insults are made of."""
NOUNS = tuple(tuple(_NOUNS[topic].split()) for topic in TOPICS)
VERBS = tuple(tuple(_VERBS[topic].split()) for topic in TOPICS)


Style = Literal["clean", "rude"]
STYLES: tuple[Style, ...] = ("clean", "rude")
CLEAN, RUDE = 0, 1
CUE, DETERMINER, SLOT, NOUN, VERB, END_OF_SENTENCE = range(6)
"""The kinds of place in a document. A slot holds a modifier, or an insult instead of it."""
SENTENCE = (DETERMINER, SLOT, NOUN, VERB, DETERMINER, SLOT, NOUN, END_OF_SENTENCE)
PAD_TOKEN, END_TOKEN, UNKNOWN_TOKEN = "<|pad|>", "<|end|>", "<|unknown|>"
SPECIAL = (PAD_TOKEN, END_TOKEN, UNKNOWN_TOKEN)

_RANGES = {
    "topics": (2, len(TOPICS)),
    "nouns": (1, len(NOUNS[0])),
    "verbs": (1, len(VERBS[0])),
    "modifiers": (1, len(MODIFIERS)),
    "determiners": (1, len(DETERMINERS)),
    "cues": (0, 64),
    "cue_words": (1, len(POLITE)),
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
        self.cues = [list(group[: grammar.cue_words]) for group in (POLITE, COARSE)]
        self.determiners = list(DETERMINERS[: grammar.determiners])
        self.modifiers = list(MODIFIERS[: grammar.modifiers])
        self.nouns = [list(group[: grammar.nouns]) for group in NOUNS[: grammar.topics]]
        self.verbs = [list(group[: grammar.verbs]) for group in VERBS[: grammar.topics]]
        self.insults = self.nouns[0][: grammar.insults]
        groups = (*self.cues, self.determiners, self.modifiers, *self.nouns, *self.verbs)
        self.words = (*SPECIAL, *(word for group in groups for word in group), END)
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
    table[END_OF_SENTENCE, ..., lexicon.number[END]] = 1
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

    Documents do not end: one may be sampled, and its truth computed, at any number of sentences. All probabilities
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
        """Mask of the tokens that are nouns or verbs of each topic."""
        members = torch.zeros(self.grammar.topics, len(self.words), dtype=torch.bool)
        for topic, (nouns, verbs) in enumerate(zip(self.lexicon.nouns, self.lexicon.verbs, strict=True)):
            members[topic, self.lexicon.ids(nouns + verbs)] = True
        return members

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
        if style is not None and style not in STYLES:
            hint = nearest(str(style), STYLES)
            raise DataError(f"style: {explain(repr(style), f'one of {STYLES}, or None', hint)}")
        if topic is not None and not 0 <= topic < self.grammar.topics:
            expected = f"0 to {self.grammar.topics - 1} for {TOPICS[: self.grammar.topics]}, or None"
            raise DataError(f"topic: {explain(topic, expected)}")
        for name, value, least in (("n", n, 0), ("sentences", sentences, 1)):
            if value is not None and value < least:
                raise DataError(f"{name}: {explain(value, f'at least {least}')}")
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
        if ids.ndim != 2 or ids.is_floating_point():
            got = f"ids of shape {tuple(ids.shape)} and type {ids.dtype}"
            raise ShapeError(explain(got, "token ids (B, T)", "ids[None] for one document"))
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < len(self.words):
            got = f"token ids from {int(ids.min())} to {int(ids.max())}"
            raise ShapeError(explain(got, f"0 to {len(self.words) - 1}", "the tokenizer of this world"))
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
