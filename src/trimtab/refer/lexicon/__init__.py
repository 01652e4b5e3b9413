"""Lexicons: how many bits a word conveys, and complexity against accuracy of a whole lexicon."""
