"""Bytes of any file to raw rows."""
