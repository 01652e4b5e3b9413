"""The generic parts of a result page: figures, tables, templates."""
