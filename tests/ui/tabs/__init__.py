"""Tests of ui/tabs."""
