"""The command line of trimtab: its verbs, by topic."""
