"""How much does a colour word narrow down what is meant, and which one is best here? On simulated names of chips.

python examples/lexicon.py [OUT]        about half a minute; writes OUT/report.html
"""

from __future__ import annotations

import sys
from pathlib import Path

from trimtab import Lexicon, NamingCounts
from trimtab.job import carry_out
from trimtab.lab.naming import chips, colour_names
from trimtab.lab.registry import table
from trimtab.refer.lexicon.job import LexiconConfig


def main(out: Path) -> None:
    counts = NamingCounts.from_frame(colour_names(games=30))
    lexicon = Lexicon.fit(counts, chips(), kind="kl")
    print(lexicon.informativeness().head(5).to_string(index=False))
    print(lexicon.system())
    chip, near, far = 31, 32, 43
    for distractors in ([far], [near]):
        print(f"chip {chip} at distractors {distractors}:")
        print(lexicon.choose(chip, distractors).head(3).round(3).to_string(index=False))
    print(
        lexicon.in_context(counts, "far", "close", cluster="game").comparison.round(3).to_string(index=False)
    )

    config = LexiconConfig(
        counts=str(table("colour-names")),
        features=str(table("colour-chips")),
        context="context",
        easy="far",
        hard="close",
        cluster="game",
        heads="colours-en",
        modifiers="modifiers-en",
        n_boot=500,
    )
    carry_out(config, out)
    print(out / "report.html")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example-lexicon"))
