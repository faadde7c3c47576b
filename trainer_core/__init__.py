"""Everything Tunebench does without a page: recipes, runs, training, comparing. Nothing here imports Gradio."""
