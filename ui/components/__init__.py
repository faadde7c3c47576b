"""The parts of tabs."""
