"""What developers run: all checks, pinned files, a browser for both."""
