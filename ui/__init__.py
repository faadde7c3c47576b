"""The page: Gradio and what is drawn in the browser. Nothing but app.py imports this package."""
