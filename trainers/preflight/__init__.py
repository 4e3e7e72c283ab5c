"""What would go wrong in a long training, found before it."""
