"""One claim a file, each with a control that must fail."""
