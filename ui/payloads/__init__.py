"""JSON for the browser. Nothing here knows Gradio."""
