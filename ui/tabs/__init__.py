"""Layout, handlers and wiring, one file per tab."""
