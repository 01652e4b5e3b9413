"""ExpertLens: which units detect a concept, and how alike concepts are in their experts."""
