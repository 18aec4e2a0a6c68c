"""COCO's person: 17 keypoints, which of them are joined, and how exactly people place them.

Source: https://cocodataset.org/#keypoints-eval and ``person_keypoints_val2017.json``.
"""

from __future__ import annotations

KEYPOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
#: Pairs of keypoints that are joined: limbs, trunk, face.
SKELETON = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12)),
    *((5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
#: The keypoint that each becomes in a mirrored image.
FLIP_INDEX = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
#: Standard deviation of each keypoint's labels, in parts of the root of the object's area.
SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)


def skeleton(keypoints: int) -> tuple[tuple[int, int], ...]:
    """The joined pairs of a model with so many keypoints; () if they are not COCO's."""
    return SKELETON if keypoints == len(KEYPOINTS) else ()
