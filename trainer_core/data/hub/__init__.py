"""Data sets of the Hugging Face Hub."""
