"""Compare: many adapters on one base in one batch. Imported by the worker alone."""
