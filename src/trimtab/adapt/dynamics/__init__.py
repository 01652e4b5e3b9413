"""DynaMiCS: constrained fine-tuning with a mixture chosen by measured slopes (arXiv 2605.10770)."""
