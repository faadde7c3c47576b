"""What tabs are built of."""
