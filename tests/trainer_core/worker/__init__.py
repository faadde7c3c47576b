"""Tests of trainer_core/worker."""
