"""Detectors, training, prediction, evaluation, the FiftyOne store and the command line."""
