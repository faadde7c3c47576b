"""Reads files in a child process with time and memory limits."""
