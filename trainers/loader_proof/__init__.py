"""What the loader promises, proved on one dataset."""
