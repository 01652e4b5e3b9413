"""Naming bias: whether members of one group are called something else than those of another in the same situation."""
