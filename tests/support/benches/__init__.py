"""Benches for the test of the runner."""
