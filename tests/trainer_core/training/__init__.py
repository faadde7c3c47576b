"""Tests of trainer_core/training."""
