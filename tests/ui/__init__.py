"""The tests of ui, in its own tree."""
