"""Converts raw rows to conversations and preference pairs."""
