"""Tests of ui/payloads."""
