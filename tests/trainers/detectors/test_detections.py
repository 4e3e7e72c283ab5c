"""Units on tensors are those of `dataflow.boxes`."""

import numpy as np
import torch

from dataflow import boxes
from trainers.detectors.detections import cxcywh_to_xyxy, xyxy_to_cxcywh


def test_units_on_tensors_equal_those_on_arrays() -> None:
    size, tensor_size = (48, 97), torch.tensor([48, 97])
    relative = np.random.default_rng(0).uniform(0.1, 0.9, (20, 4)).astype(np.float32)
    corners = cxcywh_to_xyxy(torch.from_numpy(relative), tensor_size)
    np.testing.assert_allclose(corners.numpy(), boxes.cxcywh_to_xyxy(relative, size), rtol=0, atol=1e-4)
    np.testing.assert_allclose(xyxy_to_cxcywh(corners, tensor_size).numpy(), relative, rtol=0, atol=1e-5)
