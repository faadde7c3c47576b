"""Tests of ui/components."""
