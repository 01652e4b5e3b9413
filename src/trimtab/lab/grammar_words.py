"""The words of the grammar world; no word stands in two lists, so that a word other than an insult names its place."""

from __future__ import annotations

DETERMINERS = ("the", "a", "every", "some", "this", "my")
MODIFIERS = (
    "old",
    "new",
    "small",
    "large",
    "quiet",
    "bright",
    "cold",
    "warm",
    "heavy",
    "light",
    "red",
    "green",
    "round",
    "narrow",
    "plain",
    "famous",
    "hidden",
    "gentle",
    "busy",
    "fresh",
    "distant",
    "wooden",
    "broken",
    "hollow",
)
POLITE = ("host", "nurse", "monk", "tutor", "butler", "vicar")
"""Persona words that lean towards the clean style."""
COARSE = ("bully", "troll", "lout", "heckler", "thug", "brute")
"""Persona words that lean towards the rude style; they are no insults, and stand at the head only."""
END = "."

_TOPICS = {
    "animals": (
        "pig rat toad donkey worm snake sheep horse goose otter hare crow",
        "chases bites feeds herds grooms hunts",
    ),
    "kitchen": (
        "soup bread butter kettle spoon oven onion pepper plate recipe pie salt",
        "bakes boils stirs slices tastes roasts",
    ),
    "music": (
        "violin drum flute singer chorus melody piano trumpet concert rhythm cello ballad",
        "plays hums tunes conducts sings rehearses",
    ),
    "sea": (
        "ship sailor harbour anchor wave tide captain island lighthouse net reef ferry",
        "sails rows moors floats docks steers",
    ),
    "school": (
        "pupil teacher lesson book pencil exam essay classroom library desk poem map",
        "teaches reads studies grades writes explains",
    ),
    "sport": (
        "runner goal racket coach match team ball stadium referee medal sprint trophy",
        "kicks throws scores wins trains tackles",
    ),
    "garden": (
        "rose hedge spade seed lawn pond tulip orchard fence weed compost trellis",
        "plants waters prunes digs mows harvests",
    ),
    "money": (
        "bank coin trader loan invoice market wallet debt stock budget tax broker",
        "buys sells lends pays invests audits",
    ),
}
TOPICS = tuple(_TOPICS)
"""The topics; nouns of the first are what insults are made of."""
NOUNS = tuple(tuple(nouns.split()) for nouns, _ in _TOPICS.values())
VERBS = tuple(tuple(verbs.split()) for _, verbs in _TOPICS.values())
