"""Source formats to records, and the TFDS builders over them."""
