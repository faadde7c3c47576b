"""Tests of trainer_core/methods."""
