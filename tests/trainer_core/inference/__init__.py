"""Tests of trainer_core/inference."""
