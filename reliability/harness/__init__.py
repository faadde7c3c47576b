"""What every claim shares."""
