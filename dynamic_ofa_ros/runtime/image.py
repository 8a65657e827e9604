"""Decode camera images of all common encodings and convert them to a network's input.

`preprocess` is the only implementation of a family's preprocessing. Both the offline evaluation
and the node call it, so their accuracies are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamic_ofa_ros.errors import ImageError

if TYPE_CHECKING:
    from dynamic_ofa_ros.family import Preprocessing

ImageArray = NDArray[np.uint8]
FloatArray = NDArray[np.float32]

MAX_SIDE_PX = 32_768
"""Wider or higher images are rejected as damaged."""

MAX_COMPRESSED_PX = 2**26
"""Compressed images with more pixels (64 million) are rejected before memory is allocated."""

MAX_HEADER_BYTES = 2**20
"""Maximum size of the metadata before a JPEG's frame header (such as an embedded preview)."""

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
JPEG_SIGNATURE = b'\xff\xd8'


class Pixels(NamedTuple):
    """An image in its original channel order, which avoids a conversion.

    values: (H, W, channels) uint8. rgb: the indices of the red, green and blue channels.
    """

    values: ImageArray
    rgb: tuple[int, int, int] = (0, 1, 2)


class ImageSource(Protocol):
    """An image of any format, which is decoded on the worker thread."""

    def pixels(self) -> Pixels:
        """Return the pixels in their original channel order; raise ImageError if invalid."""

    def decode(self) -> ImageArray:
        """Return the pixels as (H, W, 3) uint8, RGB; raise ImageError if the image is invalid."""


@dataclass(frozen=True)
class RawImage:
    """An uncompressed image; the fields are those of sensor_msgs/Image."""

    data: Any
    width: int
    height: int
    encoding: str
    step: int
    is_bigendian: bool = False

    def pixels(self) -> Pixels:
        """Return the pixels, without a copy if possible; raise ImageError if invalid."""
        layout = _LAYOUTS.get(self.encoding)
        if layout is None:
            raise ImageError(
                'encoding',
                f'Encoding {self.encoding[:40]!r} is not supported; docs/nodes.md lists the '
                'supported encodings.',
            )
        rows = self._rows(layout)
        if layout.rgb is not None:
            return Pixels(rows, layout.rgb)
        assert layout.to_rgb is not None
        return Pixels(layout.to_rgb(rows, self.is_bigendian))

    def decode(self) -> ImageArray:
        """Return the pixels as (H, W, 3) uint8, RGB; raise ImageError if the image is invalid."""
        return _in_rgb(self.pixels())

    def _rows(self, layout: _Layout) -> ImageArray:
        """Return a view without the padding of rows, (rows, W, bytes per pixel) uint8."""
        width, height, encoding, step = self.width, self.height, self.encoding, self.step
        _check_size(layout, width, height, encoding)
        row_bytes = width * layout.bytes_per_pixel
        if step < row_bytes:
            raise ImageError(
                'step',
                f'step is {step} bytes, but a row of {width} {encoding} pixels has {row_bytes}.',
            )
        buffer = _as_bytes(self.data)
        rows = height + layout.extra_rows(height)
        if buffer.size < step * rows:
            raise ImageError(
                'buffer',
                f'The buffer has {buffer.size} bytes, but {rows} rows of {step} bytes '
                f'({width}x{height} {encoding}) require {step * rows}.',
            )
        view: ImageArray = np.ndarray(
            (rows, width, layout.bytes_per_pixel),
            dtype=np.uint8,
            buffer=buffer,
            strides=(step, layout.bytes_per_pixel, 1),
        )
        return view


@dataclass(frozen=True)
class CompressedImage:
    """A JPEG or PNG image; the fields are those of sensor_msgs/CompressedImage.

    `format` is used in error messages only; the actual format is detected from the first bytes.
    """

    data: Any
    format: str = ''

    def decode(self) -> ImageArray:
        """Return the pixels as (H, W, 3) uint8, RGB; raise ImageError if the image is invalid."""
        return _in_rgb(self.pixels())

    def pixels(self) -> Pixels:
        """Return the decompressed pixels; raise ImageError if the image is invalid."""
        buffer = _as_bytes(self.data)
        width, height = _compressed_size(buffer[:MAX_HEADER_BYTES].tobytes(), self.format)
        if not 0 < width * height <= MAX_COMPRESSED_PX:
            raise ImageError(
                'size',
                f'The compressed image has {width}x{height} pixels; 1 to {MAX_COMPRESSED_PX} '
                'pixels are allowed.',
            )
        try:
            bgr = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
        except cv2.error as error:
            raise ImageError('buffer', f'The image cannot be decompressed: {error.err}.') from None
        if bgr is None:
            raise ImageError(
                'buffer', f'The {buffer.size} bytes are not a complete JPEG or PNG image.'
            )
        return Pixels(np.asarray(bgr, dtype=np.uint8), _BGR)


def _compressed_size(head: bytes, image_format: str) -> tuple[int, int]:
    """Return width and height from the first bytes of a JPEG or PNG."""
    if head.startswith(PNG_SIGNATURE) and len(head) >= 24:
        return int.from_bytes(head[16:20], 'big'), int.from_bytes(head[20:24], 'big')
    if head.startswith(JPEG_SIGNATURE):
        return _jpeg_size(head)
    raise ImageError(
        'encoding',
        f'The compressed image (format {image_format[:40]!r}) is neither JPEG nor PNG.',
    )


def _jpeg_size(head: bytes) -> tuple[int, int]:
    """Return width and height from the frame header of a JPEG; skip the segments before it."""
    position = 2
    while position + 9 <= len(head) and head[position] == 0xFF:
        marker = head[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(head[position + 5 : position + 7], 'big')
            return int.from_bytes(head[position + 7 : position + 9], 'big'), height
        position += 2 + int.from_bytes(head[position + 2 : position + 4], 'big')
    raise ImageError('buffer', 'The JPEG image has no frame header: it is damaged or truncated.')


@dataclass(frozen=True)
class RgbImage:
    """Decoded pixels: (H, W, 3) uint8, RGB."""

    array: ImageArray

    def pixels(self) -> Pixels:
        """Return the pixels; raise ImageError if they are not (H, W, 3) uint8."""
        return Pixels(self.decode())

    def decode(self) -> ImageArray:
        """Return the pixels; raise ImageError if they are not (H, W, 3) uint8."""
        shape = self.array.shape
        if self.array.ndim != 3 or shape[2] != 3 or self.array.dtype != np.uint8:
            raise ImageError(
                'size', f'Expected pixels (H, W, 3) uint8, found {shape} {self.array.dtype}.'
            )
        if not shape[0] or not shape[1]:
            raise ImageError('size', f'The image is empty: {shape[1]}x{shape[0]} pixels.')
        return self.array


_RGB, _BGR, _GREY = (0, 1, 2), (2, 1, 0), (0, 0, 0)
_TO_RGB = {
    (3, _BGR): cv2.COLOR_BGR2RGB,
    (4, _RGB): cv2.COLOR_RGBA2RGB,
    (4, _BGR): cv2.COLOR_BGRA2RGB,
    (1, _GREY): cv2.COLOR_GRAY2RGB,
}


def _in_rgb(pixels: Pixels) -> ImageArray:
    """Return the pixels as (H, W, 3) uint8, RGB, without a copy if they have this format."""
    values, rgb = pixels
    if (values.shape[2], rgb) == (3, _RGB):
        return values
    return np.asarray(cv2.cvtColor(values, _TO_RGB[values.shape[2], rgb]), dtype=np.uint8)


@dataclass(frozen=True)
class _Layout:
    """The memory layout of an encoding; either its RGB channels or a function for conversion."""

    bytes_per_pixel: int
    rgb: tuple[int, int, int] | None = None
    to_rgb: Callable[[ImageArray, bool], ImageArray] | None = None
    """Converts (rows, W, bytes_per_pixel) uint8; the second argument is whether it is big-endian.
    """
    is_width_even: bool = False
    is_height_even: bool = False
    extra_rows: Callable[[int], int] = lambda height: 0
    """Returns the number of rows in addition to the image's height (chroma planes)."""


def _converted(code: int) -> Callable[[ImageArray, bool], ImageArray]:
    def to_rgb(rows: ImageArray, is_bigendian: bool) -> ImageArray:
        image = rows[..., 0] if rows.shape[2] == 1 else rows
        return np.asarray(cv2.cvtColor(image, code), dtype=np.uint8)

    return to_rgb


def _grey_of_16_bits(rows: ImageArray, is_bigendian: bool) -> ImageArray:
    # The upper byte is the image with 8 bits, so no arithmetic is needed for any byte order.
    grey = np.ascontiguousarray(rows[..., 0 if is_bigendian else 1])
    return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), dtype=np.uint8)


def _chroma_rows(height: int) -> int:
    return height // 2


def _yuv422(code: int) -> _Layout:
    return _Layout(2, to_rgb=_converted(code), is_width_even=True)


def _nv(code: int) -> _Layout:
    return _Layout(1, None, _converted(code), True, True, _chroma_rows)


def _bayer(code: int) -> _Layout:
    return _Layout(1, None, _converted(code), True, True)


_LAYOUTS = {
    'rgb8': _Layout(3, _RGB),
    'bgr8': _Layout(3, _BGR),
    '8UC3': _Layout(3, _BGR),  # the order is undefined; ROS assumes OpenCV's order
    'rgba8': _Layout(4, _RGB),
    'bgra8': _Layout(4, _BGR),
    'mono8': _Layout(1, _GREY),
    '8UC1': _Layout(1, _GREY),
    'mono16': _Layout(2, to_rgb=_grey_of_16_bits),
    'yuv422': _yuv422(cv2.COLOR_YUV2RGB_UYVY),
    'uyvy': _yuv422(cv2.COLOR_YUV2RGB_UYVY),  # the name of yuv422 in newer distributions
    'yuv422_yuy2': _yuv422(cv2.COLOR_YUV2RGB_YUY2),
    'yuyv': _yuv422(cv2.COLOR_YUV2RGB_YUY2),
    'nv12': _nv(cv2.COLOR_YUV2RGB_NV12),
    'nv21': _nv(cv2.COLOR_YUV2RGB_NV21),
    # ROS names a mosaic by its first pixels, OpenCV by the second and third pixel of the second
    # row.
    'bayer_rggb8': _bayer(cv2.COLOR_BayerBG2RGB),
    'bayer_bggr8': _bayer(cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg8': _bayer(cv2.COLOR_BayerGR2RGB),
    'bayer_grbg8': _bayer(cv2.COLOR_BayerGB2RGB),
}

ENCODINGS = tuple(_LAYOUTS)
"""The encodings that `decode_image` supports."""


def decode_image(
    data: Any,
    *,
    width: int,
    height: int,
    encoding: str,
    step: int,
    is_bigendian: bool = False,
) -> ImageArray:
    """Decode an image message's buffer.

    data: any object with the buffer protocol (array.array, bytes, memoryview, ndarray). step:
    length of a row in bytes, including padding. Return (H, W, 3) uint8, RGB; for rgb8 this is a
    view of `data`, valid as long as the buffer is not changed. Raise ImageError with the cause
    encoding, size, step or buffer.
    """
    return RawImage(data, width, height, encoding, step, is_bigendian).decode()


def _as_bytes(data: Any) -> ImageArray:
    """Return a flat view of the buffer; raise ImageError if it is not contiguous."""
    try:
        view = memoryview(data)
        return np.frombuffer(view, dtype=np.uint8) if view.nbytes else np.empty(0, dtype=np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise ImageError('buffer', f'The pixels are not a contiguous buffer: {error}.') from None


def _check_size(layout: _Layout, width: int, height: int, encoding: str) -> None:
    if width <= 0 or height <= 0:
        raise ImageError('size', f'The image is empty: {width}x{height} pixels.')
    if max(width, height) > MAX_SIDE_PX:
        raise ImageError(
            'size',
            f'The image has {width}x{height} pixels; at most {MAX_SIDE_PX} per side are allowed.',
        )
    if layout.is_width_even and width % 2:
        raise ImageError('size', f'{encoding} requires an even width, found {width}.')
    if layout.is_height_even and height % 2:
        raise ImageError('size', f'{encoding} requires an even height, found {height}.')


def preprocess(
    image: ImageArray | Pixels,
    resolution: int,
    preprocessing: Preprocessing,
    out: FloatArray | None = None,
) -> FloatArray:
    """Convert an image to a network's input as described by `Preprocessing`.

    image: (H, W, 3) uint8, RGB, or Pixels. Return (1, 3, resolution, resolution) float32,
    contiguous; this is `out` if given. An image is cropped before it is resized, so that fewer
    pixels are resized; the result differs by less than a source pixel from resizing first.
    """
    values, rgb = image if isinstance(image, Pixels) else Pixels(image)
    planes = cv2.split(_square(values, resolution, preprocessing))
    order = rgb if preprocessing.channels == 'rgb' else rgb[::-1]
    shape = (1, 3, resolution, resolution)
    tensor = np.empty(shape, dtype=np.float32) if out is None else out
    normalisation = _normalisation(preprocessing.mean, preprocessing.std)
    for place, channel, (scale, offset) in zip(tensor[0], order, normalisation, strict=True):
        np.multiply(planes[channel], scale, out=place, dtype=np.float32)
        place -= offset
    return tensor


def _square(values: ImageArray, resolution: int, preprocessing: Preprocessing) -> ImageArray:
    """Return the image cropped and resized, (resolution, resolution, channels) uint8."""
    height, width, channels = values.shape
    if preprocessing.resize == 'crop':
        shorter_target = round(resolution / preprocessing.crop_fraction)
        side = max(1, min(height, width, round(min(height, width) * resolution / shorter_target)))
        top, left = (height - side) // 2, (width - side) // 2
        values = values[top : top + side, left : left + side]
    if preprocessing.resize != 'pad':
        return _resized(values, resolution, resolution, preprocessing.interpolation)
    longer = max(height, width)
    rows = max(1, round(height * resolution / longer))
    columns = max(1, round(width * resolution / longer))
    top, left = (resolution - rows) // 2, (resolution - columns) // 2
    square = np.zeros((resolution, resolution, channels), dtype=np.uint8)
    square[top : top + rows, left : left + columns] = _resized(
        values, columns, rows, preprocessing.interpolation
    )
    return square


def _resized(values: ImageArray, width: int, height: int, interpolation: str) -> ImageArray:
    if values.shape[:2] == (height, width):
        return values
    is_smaller = values.shape[0] > height and values.shape[1] > width
    averages = interpolation == 'area' and is_smaller
    resized = _averaged(values, width, height) if averages else _scaled(values, width, height)
    return resized.reshape(height, width, -1)


def _averaged(values: ImageArray, width: int, height: int) -> ImageArray:
    """Shrink an image by approximate area averaging.

    OpenCV's exact averaging takes up to five times as long, because only averages of 2x2 pixels
    are fast (benchmarks/preprocessing.py). So the image is halved while it is at least four times
    too large, then scaled bilinearly to twice the target size and halved again.
    """
    while values.shape[0] >= 4 * height and values.shape[1] >= 4 * width:
        rows, columns = values.shape[0] // 2, values.shape[1] // 2
        values = _halved(values[: 2 * rows, : 2 * columns])
    return _halved(_scaled(values, 2 * width, 2 * height))


def _halved(values: ImageArray) -> ImageArray:
    size = (values.shape[1] // 2, values.shape[0] // 2)
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.uint8)


def _scaled(values: ImageArray, width: int, height: int) -> ImageArray:
    scaled = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(scaled, np.uint8)


@lru_cache
def _normalisation(
    mean: tuple[float, float, float], std: tuple[float, float, float]
) -> tuple[tuple[np.float32, np.float32], ...]:
    """Return scale and offset of each channel: normalised = pixel * scale - offset."""
    return tuple(
        (np.float32(1.0 / (255.0 * deviation)), np.float32(middle / deviation))
        for middle, deviation in zip(mean, std, strict=True)
    )
