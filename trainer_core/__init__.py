"""Everything Tunebench can do without a page: recipes, runs, training, comparing. No gradio below this line."""
