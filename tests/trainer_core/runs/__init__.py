"""Tests of trainer_core/runs."""
