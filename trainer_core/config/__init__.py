"""A run as data: recipe, jobs, changed settings."""
