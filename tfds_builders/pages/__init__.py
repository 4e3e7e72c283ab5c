"""What every page for people is made of: markup that escapes text, one skeleton with one style, and tables."""
