"""Base models: resolved, downloaded and checked before loading."""
