"""Objects of a pair whose camera moved: those of the before frame go along, the others stay."""

import numpy as np

from dataflow.pairs.aligned_pair import carry_objects
from dataflow.pairs.camera_motion import Movement
from dataflow.pairs.motion_models import carry_boxes
from dataflow.records import Objects

SIZE = (240, 320)
MOVED = Movement(5, -3, rotation=1).homography(SIZE)
BOXES = np.array([[20, 30, 60, 90], [0, 40, 2, 44]], np.float32)


def objects(*in_before: bool) -> Objects:
    return Objects(BOXES, np.zeros(2, np.int64), in_before=np.array(in_before), segmentations=("[[1]]", "[[2]]"))


def test_objects_of_the_after_frame_stay_as_they_are() -> None:
    found = objects(False, False)
    assert carry_objects(found, MOVED, SIZE) is found


def test_objects_of_the_before_frame_are_carried_without_their_masks() -> None:
    carried = carry_objects(objects(True, False), MOVED, SIZE)
    np.testing.assert_allclose(carried.boxes[0], carry_boxes(BOXES[:1], MOVED)[0])
    np.testing.assert_array_equal(carried.boxes[1], BOXES[1])
    assert carried.segmentations == ("", "[[2]]")


def test_what_the_camera_lost_from_view_is_left_out() -> None:
    carried = carry_objects(objects(True, True), Movement(shift_x=-5).homography(SIZE), SIZE)
    np.testing.assert_allclose(carried.boxes, [[15, 30, 55, 90]])


def test_where_the_camera_stood_still_nothing_changes() -> None:
    found = objects(True, True)
    assert carry_objects(found, np.eye(3), SIZE) is found
