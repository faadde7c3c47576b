"""Tests of trainer_core/system."""
