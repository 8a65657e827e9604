"""The parts of `cv_bridge` that the nodes use: images between messages and numpy arrays."""

from __future__ import annotations

import array
import sys
from typing import Any

import numpy as np

from dynamic_ofa_ros.rclpy_zenoh.messages import message_class

# encoding: (numpy type, channels)
_ENCODINGS: dict[str, tuple[str, int]] = {
    'rgb8': ('uint8', 3), 'bgr8': ('uint8', 3), 'rgba8': ('uint8', 4), 'bgra8': ('uint8', 4),
    'mono8': ('uint8', 1), 'mono16': ('uint16', 1),
    'rgb16': ('uint16', 3), 'bgr16': ('uint16', 3), 'rgba16': ('uint16', 4),
    'bgra16': ('uint16', 4),
    'bayer_rggb8': ('uint8', 1), 'bayer_bggr8': ('uint8', 1), 'bayer_gbrg8': ('uint8', 1),
    'bayer_grbg8': ('uint8', 1), 'yuv422': ('uint8', 2), 'yuv422_yuy2': ('uint8', 2),
}  # fmt: skip
_DEPTHS = {
    '8U': 'uint8', '8S': 'int8', '16U': 'uint16', '16S': 'int16', '32S': 'int32',
    '32F': 'float32', '64F': 'float64',
}  # fmt: skip
# What OpenCV calls the bayer pattern of an encoding: named after its second row.
_BAYER = {'rggb': 'BG', 'bggr': 'RG', 'gbrg': 'GR', 'grbg': 'GB'}
_COLOURS = {'rgb8': 'RGB', 'bgr8': 'BGR', 'rgba8': 'RGBA', 'bgra8': 'BGRA', 'mono8': 'GRAY'}


class CvBridgeError(TypeError):
    """Raised for an image that cannot be converted."""


def _layout(encoding: str) -> tuple[np.dtype[Any], int]:
    """Return numpy type and channels of an encoding (`rgb8`, `32FC1`)."""
    if encoding in _ENCODINGS:
        name, channels = _ENCODINGS[encoding]
        return np.dtype(name), channels
    depth, _, channels_text = encoding.partition('C')
    if depth in _DEPTHS and (not channels_text or channels_text.isdigit()):
        return np.dtype(_DEPTHS[depth]), int(channels_text or 1)
    raise CvBridgeError(f"Unrecognized image encoding '{encoding}'")


class CvBridge:
    """Converts between sensor_msgs/Image and numpy arrays as OpenCV has them."""

    def encoding_to_dtype_with_channels(self, encoding: str) -> tuple[str, int]:
        """Return the numpy type's name and the number of channels."""
        dtype, channels = _layout(encoding)
        return dtype.name, channels

    def imgmsg_to_cv2(self, img_msg: Any, desired_encoding: str = 'passthrough') -> Any:
        """Return the pixels: (H, W) or (H, W, channels), in the desired encoding."""
        dtype, channels = _layout(img_msg.encoding)
        dtype = dtype.newbyteorder('>' if img_msg.is_bigendian else '<')
        row_bytes = img_msg.width * channels * dtype.itemsize
        if img_msg.step < row_bytes or len(img_msg.data) < img_msg.step * img_msg.height:
            raise CvBridgeError(
                f'Image is wrongly formed: {img_msg.width}x{img_msg.height} {img_msg.encoding} '
                f'with step {img_msg.step} and {len(img_msg.data)} bytes'
            )
        shape = (img_msg.height, img_msg.width, channels)[: 2 if channels == 1 else 3]
        strides = (img_msg.step, channels * dtype.itemsize, dtype.itemsize)[: len(shape)]
        pixels: Any = np.ndarray(shape, dtype, buffer=img_msg.data, strides=strides)
        if dtype.byteorder == ('>' if sys.byteorder == 'little' else '<'):
            pixels = pixels.astype(dtype.newbyteorder('='))
        if desired_encoding in ('passthrough', img_msg.encoding):
            return pixels
        return self._converted(pixels, img_msg.encoding, desired_encoding)

    def _converted(self, pixels: Any, source: str, target: str) -> Any:
        import cv2

        _, target_channels = _layout(target)
        if source.startswith('bayer_'):
            source_name = f'Bayer{_BAYER[source[6:10]]}'
        elif source.startswith('yuv422'):
            source_name = 'YUV_YUY2' if source.endswith('yuy2') else 'YUV_UYVY'
        else:
            source_name = _COLOURS.get(source.replace('16', '8').replace('mono8', 'mono8'), '')
            if not source_name and pixels.ndim == 2 and target_channels == 1:
                return pixels.astype(_layout(target)[0])
        target_name = _COLOURS.get(target.replace('16', '8'), '')
        if not source_name or not target_name:
            raise CvBridgeError(f'[{source}] is not convertible to [{target}]')
        # 16-bit to 8-bit and back as cv_bridge does: by the ratio of full scales.
        if source_name != target_name:
            code = getattr(cv2, f'COLOR_{source_name}2{target_name}', None)
            if code is None:
                raise CvBridgeError(f'[{source}] is not convertible to [{target}]')
            pixels = cv2.cvtColor(pixels, code)
        wanted = _layout(target)[0]
        if pixels.dtype == np.uint16 and wanted == np.uint8:
            return np.round(pixels / 257.0).astype(np.uint8)
        if pixels.dtype == np.uint8 and wanted == np.uint16:
            return pixels.astype(np.uint16) * 257
        return pixels

    def cv2_to_imgmsg(self, cvim: Any, encoding: str = 'passthrough', header: Any = None) -> Any:
        """Return a sensor_msgs/Image of the pixels."""
        if not isinstance(cvim, np.ndarray):
            raise TypeError('Your input type is not a numpy array')
        channels = 1 if cvim.ndim == 2 else cvim.shape[2]
        if encoding == 'passthrough':
            depth = next((name for name, kind in _DEPTHS.items() if kind == cvim.dtype.name), '')
            encoding = f'{depth}C{channels}'
        dtype, expected = _layout(encoding)
        if dtype != cvim.dtype or expected != channels:
            raise CvBridgeError(
                f'encoding specified as {encoding}, but image has incompatible type '
                f'{cvim.dtype.name} with {channels} channels'
            )
        message = message_class('sensor_msgs/msg/Image')(
            height=cvim.shape[0],
            width=cvim.shape[1],
            encoding=encoding,
            is_bigendian=int(cvim.dtype.byteorder == '>'),
            step=cvim.shape[1] * channels * cvim.dtype.itemsize,
        )
        data = array.array('B')
        data.frombytes(np.ascontiguousarray(cvim).tobytes())
        message.data = data
        if header is not None:
            message.header = header
        return message

    def compressed_imgmsg_to_cv2(
        self, cmprs_img_msg: Any, desired_encoding: str = 'passthrough'
    ) -> Any:
        """Return the pixels of a sensor_msgs/CompressedImage, BGR by default."""
        import cv2

        flag = cv2.IMREAD_UNCHANGED if desired_encoding == 'passthrough' else cv2.IMREAD_ANYCOLOR
        pixels = cv2.imdecode(np.frombuffer(cmprs_img_msg.data, np.uint8), flag)
        if pixels is None:
            raise CvBridgeError('The compressed image could not be decoded')
        if desired_encoding == 'passthrough':
            return pixels
        return self._converted(pixels, 'mono8' if pixels.ndim == 2 else 'bgr8', desired_encoding)

    def cv2_to_compressed_imgmsg(self, cvim: Any, dst_format: str = 'jpg') -> Any:
        """Return a sensor_msgs/CompressedImage of BGR or grey pixels."""
        import cv2

        is_encoded, data = cv2.imencode(f'.{dst_format}', cvim)
        if not is_encoded:
            raise CvBridgeError(f'The image could not be encoded as {dst_format}')
        return message_class('sensor_msgs/msg/CompressedImage')(
            format=dst_format, data=array.array('B', data.tobytes())
        )
