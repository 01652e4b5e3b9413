"""Mixers beside DynaMiCS: fixed mixtures, controllers of losses, and rivals from other papers."""
