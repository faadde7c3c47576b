"""Tests of trainer_core/planning."""
