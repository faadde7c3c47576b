"""Votes, judge verdicts, scores and their statistics."""
