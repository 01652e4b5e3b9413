"""What a small vision-language model learns from: rows of a picture and several independent blocks of text about it.

A block is a prompt, its answer and an end. The blocks of a row see the picture and themselves, under a 4-D mask, and
the positions of each go on from the picture's: what a block computes is what it would compute alone. A row of eight
blocks gives eight times the supervision for one picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from trimtab.lab.models import fast_tokenizer
from trimtab.lab.scene_questions import (
    ADJECTIVES,
    ASKED,
    Choice,
    QuestionScenes,
    ask,
    describe,
    descriptions,
    question,
)
from trimtab.lab.scenes import Scene, SceneWorld, Thing

SPECIAL = ("<pad>", "<image>", "<unknown>", "</s>")
PAD, IMAGE, UNKNOWN, END = range(4)
WORDS = ("yes", "no", "is", "there", "a", "?", "where", "what", "colour", "the", "and", "describe")
UNLABELLED = -100
"""Label of a token that nothing is to be predicted at."""


def numbers(world: SceneWorld, size: int) -> dict[str, int]:
    """Word -> token; `<spare-0>` and so on, which no text has, fill the vocabulary up to a size."""
    words = (*SPECIAL, *WORDS, *(value for name in (*ASKED, "position") for value in getattr(world, name)))
    spare = (f"<spare-{number}>" for number in range(size - len(words)))
    return {word: number for number, word in enumerate((*words, *spare))}


def block_tokenizer(world: SceneWorld, size: int) -> PreTrainedTokenizerFast:
    """One token per word, with blanks between; nothing is added at either end."""
    pad, image, unknown, end = SPECIAL
    inner = Tokenizer(models.WordLevel(numbers(world, size), unk_token=unknown))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = fast_tokenizer(inner, pad_token=pad, unk_token=unknown, eos_token=end, image_token=image)
    tokenizer.padding_side = "left"
    return tokenizer


Block = tuple[str, str]
"""A prompt and its answer, words apart."""


def caption(scene: Scene) -> str:
    """Where everything is: `north small shiny red circle and centre large matte blue square`, in reading order."""
    return " and ".join(f"{thing.position} {describe(thing, ASKED)}" for thing in scene.objects)


def easy_question(scene: Scene, world: SceneWorld, rng: np.random.Generator) -> Block:
    """Whether there is a shape with one adjective: an object's, or with equal chance what no object has.

    Which adjective is drawn first; all its values and all shapes are as likely in either case.
    """
    form = (ADJECTIVES[rng.integers(len(ADJECTIVES))], "shape")
    true = {tuple(getattr(thing, name) for name in form) for thing in scene.objects}
    known = [getattr(world, name) for name in form]
    yes, thing = rng.random() < 0.5, scene.objects[rng.integers(len(scene.objects))]
    values = tuple(getattr(thing, name) for name in form)
    while values in true and not yes and len(true) < len(known[0]) * len(known[1]):
        values = tuple(one[rng.integers(len(one))] for one in known)
    return question(" ".join(values)), "yes" if values in true else "no"


@dataclass(frozen=True)
class Blocks:
    """Blocks about scenes at random.

    Attributes:
        scenes: what they are about.
        colour_questions: whether `what colour is the large circle ?` is among them.
    """

    scenes: QuestionScenes
    colour_questions: bool = True

    KINDS = ("hard", "easy", "where", "colour", "caption")

    def draw(self, row: int, shares: Sequence[float], number: int, rng: np.random.Generator) -> list[Block]:
        """Some blocks about a scene, of each kind as many as its share says, rounded up or down.

        Args:
            row: number of the scene.
            shares: share of each of `KINDS`; they sum to 1.
            number: how many.
            rng: of the blocks.
        """
        points = (rng.random() + np.arange(number)) / number  # systematic sampling
        kinds = np.searchsorted(np.cumsum(shares[:-1]), points)
        return [getattr(self, self.KINDS[kind])(row, rng) for kind in kinds]

    def hard(self, row: int, rng: np.random.Generator) -> Block:
        """A yes/no question whose words all occur in the scene."""
        asked = ask(self.scenes.scenes[row], rng, self.scenes.choices[row])
        return asked.text, asked.answer

    def easy(self, row: int, rng: np.random.Generator) -> Block:
        """A yes/no question of a shape and an adjective."""
        return easy_question(self.scenes.scenes[row], self.scenes.world, rng)

    def where(self, row: int, rng: np.random.Generator) -> Block:
        """Where an object is, by a minimal unique description."""
        thing, words = self._picked(row, self._unique[row], rng)
        return f"where is the {words} ?", thing.position

    def colour(self, row: int, rng: np.random.Generator) -> Block:
        """What colour an object has, by a minimal unique description without it; where it is, if none has one."""
        if not self.colour_questions or not self._colourless[row]:
            return self.where(row, rng)
        thing, words = self._picked(row, self._colourless[row], rng)
        return f"what colour is the {words} ?", thing.colour

    def caption(self, row: int, rng: np.random.Generator) -> Block:  # noqa: ARG002
        """The caption of a scene."""
        return "describe ?", caption(self.scenes.scenes[row])

    def _picked(self, row: int, options: list[Choice], rng: np.random.Generator) -> tuple[Thing, str]:
        choice = options[rng.integers(len(options))]
        thing = self.scenes.scenes[row].objects[choice.target]
        return thing, describe(thing, choice.mentioned)

    @cached_property
    def _unique(self) -> list[list[Choice]]:
        return [descriptions(scene) for scene in self.scenes.scenes]

    @cached_property
    def _colourless(self) -> list[list[Choice]]:
        return [descriptions(scene, ("size", "material")) for scene in self.scenes.scenes]


@dataclass(frozen=True)
class Packed:
    """Rows of blocks behind a picture, as a language model reads them.

    Attributes:
        ids: tokens; those of the picture first, padding last.
        labels: the token to predict at each place, the one after it in an answer; `UNLABELLED` elsewhere.
        positions: they go on from the picture's in each block.
        mask: what each token sees; with a dimension for the attention heads.
        blocks: number of the block of each token; 0 for the picture, -1 for padding.
    """

    ids: Int[Tensor, "rows T"]
    labels: Int[Tensor, "rows T"]
    positions: Int[Tensor, "rows T"]
    mask: Bool[Tensor, "rows 1 T T"]
    blocks: Int[Tensor, "rows T"]


def packed(rows: Sequence[Sequence[Block]], words: Mapping[str, int], patches: int) -> Packed:
    """Rows of independent blocks behind pictures of some patches."""
    columns: list[list[Tensor]] = [[], [], [], []]
    for row in rows:
        read, told = [IMAGE] * patches, [UNLABELLED] * patches
        places, owners = [*range(patches)], [0] * patches
        for number, (prompt, answer) in enumerate(row, 1):
            asked = [words[word] for word in prompt.split()]
            said = [*(words[word] for word in answer.split()), END]
            read += [*asked, *said[:-1]]
            told += [*[UNLABELLED] * (len(asked) - 1), *said]
            places += range(patches, patches + len(asked) + len(said) - 1)
            owners += [number] * (len(asked) + len(said) - 1)
        for column, values in zip(columns, (read, told, places, owners), strict=True):
            column.append(torch.tensor(values))
    ids, labels, positions, blocks = (
        nn.utils.rnn.pad_sequence(column, batch_first=True, padding_value=fill)
        for column, fill in zip(columns, (PAD, UNLABELLED, 0, -1), strict=True)
    )
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    seen = (blocks[:, :, None] == blocks[:, None, :]) | (blocks[:, None, :] == 0)
    return Packed(ids, labels, positions, (seen & causal)[:, None], blocks)
