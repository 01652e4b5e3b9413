"""Scores of captions against references: n-gram overlap, METEOR and CLIPScore, without Java."""
