"""Where a workspace's files lie, what space they take, and how they move to another drive."""
