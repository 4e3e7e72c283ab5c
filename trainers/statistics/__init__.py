"""What a prepared dataset holds, and what is odd about it."""
