"""Votes, judge verdicts, scores, and what they allow one to say."""
