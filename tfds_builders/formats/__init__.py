"""One module per source format; each turns files into references and references into records."""
