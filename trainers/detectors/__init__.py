"""Detectors: backbones, pyramids, heads, the DETR family, and weights from elsewhere."""
