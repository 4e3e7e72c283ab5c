"""A before and an after frame: aligned, lit alike, and what differs."""
