"""Tests of trainer_core/cli."""
