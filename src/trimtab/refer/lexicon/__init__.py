"""Lexicons: how much a word narrows down what is meant, and why several names per thing are good."""
