"""From a bare Python to a working .venv. Standard library only, and readable by Python 3.8, which gets an explanation."""


class SetupError(Exception):
    """Set-up failed; the text says why and what to do."""
