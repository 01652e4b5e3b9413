"""ExpertLens: units that detect a concept by average precision, and similarity of concepts by shared experts."""
