"""The core of Tunebench: recipes, runs, training, comparing. Nothing here imports Gradio."""
