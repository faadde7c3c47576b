"""What is wrong with a data set, and what can be done about it."""
