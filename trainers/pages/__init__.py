"""Pages that people read, and the JSON beside them: each one file that needs no network."""
