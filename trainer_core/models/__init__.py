"""Base models: found, fetched and checked before anything is loaded."""
