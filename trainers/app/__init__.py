"""Datasets, predictions and errors in FiftyOne."""
