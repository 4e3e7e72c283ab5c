"""What every source format is made of: images and annotations looked at, paired, corrected."""
