"""From a bare Python to a working .venv. Standard library only, and read by Python 3.8 too: that one must be told why."""


class SetupError(Exception):
    """Set-up cannot go on; the text says what failed and what to do."""
