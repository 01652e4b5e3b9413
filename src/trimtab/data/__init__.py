"""Domains of text and the stream that mixes them."""
