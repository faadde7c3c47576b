"""JSON for the browser. Nothing here imports Gradio."""
