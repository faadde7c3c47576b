"""The tests of trainer_core, in its own tree."""
