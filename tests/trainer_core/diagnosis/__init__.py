"""Tests of trainer_core/diagnosis."""
