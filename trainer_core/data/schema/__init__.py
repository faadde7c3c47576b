"""Raw rows to conversations and preference pairs."""
