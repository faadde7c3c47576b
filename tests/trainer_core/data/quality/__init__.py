"""Tests of trainer_core/data/quality."""
