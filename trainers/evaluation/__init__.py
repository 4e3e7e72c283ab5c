"""How good predictions are, which run is better, and where the errors are."""
