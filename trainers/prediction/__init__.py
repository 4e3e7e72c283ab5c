"""What a run detects in every image of a split."""
