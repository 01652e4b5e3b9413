"""The command trimtab: its verbs, by what they are about."""
