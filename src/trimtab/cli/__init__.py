"""The command trimtab: one thin file per verb."""
