"""Tests of trainer_core/evaluation."""
