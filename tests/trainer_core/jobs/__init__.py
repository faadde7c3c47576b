"""Tests of trainer_core/jobs."""
