"""Reads raw rows from the bytes of any file."""
