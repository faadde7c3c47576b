"""What every bench shares."""
