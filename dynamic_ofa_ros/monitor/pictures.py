"""Camera images as small JPEG pictures."""

from __future__ import annotations

import cv2

from dynamic_ofa_ros.errors import ImageError
from dynamic_ofa_ros.runtime.image import ImageSource

JPEG_QUALITY = 75


def jpeg(image: ImageSource, max_width: int) -> bytes:
    """Return an image as JPEG, at most `max_width` px wide; raise ImageError if it is damaged."""
    rgb = image.decode()
    height, width = rgb.shape[:2]
    if width > max_width:
        # Linear interpolation is good enough for a preview, and ten times as fast as by area.
        size = (max_width, max(1, round(height * max_width / width)))
        bgr = cv2.cvtColor(
            cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR), cv2.COLOR_RGB2BGR
        )
    else:
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    is_encoded, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not is_encoded:
        raise ImageError('encoding', 'The picture cannot be encoded as JPEG.')
    return bytes(data)
