"""What a run's curves mean, and its report."""
