"""A run as data: recipe, jobs, changes to a recipe."""
