"""Tests of trainer_core/config."""
