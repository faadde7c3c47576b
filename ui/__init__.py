"""The page: Gradio, and what the browser draws. Only app.py imports this package."""
