from __future__ import annotations

import array
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamic_ofa_ros.errors import ImageError
from dynamic_ofa_ros.family import Preprocessing
from dynamic_ofa_ros.runtime.image import (
    ENCODINGS,
    CompressedImage,
    RawImage,
    RgbImage,
    decode_image,
    preprocess,
)

INTERFACE_ENCODINGS = {
    *('rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8', 'mono16', '8UC1', '8UC3'),
    *('yuv422', 'yuv422_yuy2', 'nv12', 'nv21'),
    *('bayer_rggb8', 'bayer_bggr8', 'bayer_gbrg8', 'bayer_grbg8'),
}

CHANNELS = {
    'rgb8': (0, 1, 2),
    'bgr8': (2, 1, 0),
    '8UC3': (2, 1, 0),
    'rgba8': (0, 1, 2, 3),
    'bgra8': (2, 1, 0, 3),
}
YUV_TOLERANCE = 3  # 8-bit rounding there and back
RED, GREEN, BLUE = 0, 1, 2
BAYER = {
    'bayer_rggb8': ((RED, GREEN), (GREEN, BLUE)),
    'bayer_bggr8': ((BLUE, GREEN), (GREEN, RED)),
    'bayer_gbrg8': ((GREEN, BLUE), (RED, GREEN)),
    'bayer_grbg8': ((GREEN, RED), (BLUE, GREEN)),
}
IDENTITY = Preprocessing(
    mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_fraction=1.0, interpolation='area'
)


OPENCV = {
    # channels or rows per row of pixels, and OpenCV's conversion; None: no conversion
    'rgb8': (3, None),
    'bgr8': (3, cv2.COLOR_BGR2RGB),
    '8UC3': (3, cv2.COLOR_BGR2RGB),
    'rgba8': (4, cv2.COLOR_RGBA2RGB),
    'bgra8': (4, cv2.COLOR_BGRA2RGB),
    'mono8': (1, cv2.COLOR_GRAY2RGB),
    '8UC1': (1, cv2.COLOR_GRAY2RGB),
    'yuv422': (2, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422_yuy2': (2, cv2.COLOR_YUV2RGB_YUYV),
    'nv12': (1.5, cv2.COLOR_YUV2RGB_NV12),
    'nv21': (1.5, cv2.COLOR_YUV2RGB_NV21),
    'bayer_rggb8': (1, cv2.COLOR_BayerRGGB2RGB),
    'bayer_bggr8': (1, cv2.COLOR_BayerBGGR2RGB),
    'bayer_gbrg8': (1, cv2.COLOR_BayerGBRG2RGB),
    'bayer_grbg8': (1, cv2.COLOR_BayerGRBG2RGB),
}


def padded(rows: np.ndarray, padding: int) -> bytes:
    """Return the rows, each with padding bytes."""
    rows = rows.reshape(rows.shape[0], -1).view(np.uint8)
    return np.pad(rows, ((0, 0), (0, padding)), constant_values=77).tobytes()


def test_all_documented_encodings_are_supported():
    assert set(ENCODINGS) >= INTERFACE_ENCODINGS


@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding', sorted(OPENCV))
def test_every_encoding_is_decoded_as_by_opencv(encoding, padding):
    width, height = 34, 22
    channels, code = OPENCV[encoding]
    rows, depth = (height * 3 // 2, 1) if channels == 1.5 else (height, channels)
    raw = np.random.default_rng(5).integers(0, 256, (rows, width, depth), np.uint8)
    data, step = padded(raw, padding), width * depth + padding
    decoded = decode_image(data, width=width, height=height, encoding=encoding, step=step)
    image = raw[..., 0] if depth == 1 else raw
    expected = image if code is None else cv2.cvtColor(np.ascontiguousarray(image), code)
    assert decoded.shape == (height, width, 3)
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize(('is_bigendian', 'dtype'), [(False, '<u2'), (True, '>u2')])
def test_mono16_is_decoded_as_by_opencv(is_bigendian, dtype):
    grey = np.random.default_rng(5).integers(0, 2**16, (22, 34), np.uint16)
    data = padded(grey.astype(dtype), 4)
    decoded = decode_image(
        data, width=34, height=22, encoding='mono16', step=72, is_bigendian=is_bigendian
    )
    expected = cv2.cvtColor(cv2.convertScaleAbs(grey, alpha=255.0 / 65535.0), cv2.COLOR_GRAY2RGB)
    assert np.abs(decoded.astype(int) - expected).max() <= 1  # rounded down, not to the nearest


def test_the_comparison_includes_all_documented_encodings():
    assert {*OPENCV, 'mono16'} == INTERFACE_ENCODINGS


@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    padding=st.integers(0, 9),
    encoding=st.sampled_from(sorted(CHANNELS)),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_packed_colours_equal_the_reference(width, height, padding, encoding, seed):
    order = CHANNELS[encoding]
    rgba = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    data = padded(np.ascontiguousarray(rgba[..., list(order)]), padding)
    decoded = decode_image(
        data, width=width, height=height, encoding=encoding, step=width * len(order) + padding
    )
    np.testing.assert_array_equal(decoded, rgba[..., :3])


@pytest.mark.parametrize('encoding', ['mono8', '8UC1'])
def test_grey_is_expanded(encoding):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    decoded = decode_image(padded(grey, 2), width=4, height=3, encoding=encoding, step=6)
    np.testing.assert_array_equal(decoded, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize(('is_bigendian', 'dtype'), [(False, '<u2'), (True, '>u2')])
def test_mono16_uses_the_endianness(is_bigendian, dtype):
    grey = np.array([[0, 0x1234, 0xFFFF], [0x0100, 0x00FF, 0x8000]], dtype=dtype)
    decoded = decode_image(
        padded(grey, 3), width=3, height=2, encoding='mono16', step=9, is_bigendian=is_bigendian
    )
    np.testing.assert_array_equal(decoded[..., 1], [[0, 0x12, 0xFF], [1, 0, 0x80]])


def smooth_rgb(width: int, height: int) -> np.ndarray:
    """Return an image of blocks of equal colour, so that chroma subsampling loses nothing."""
    coarse = np.random.default_rng(3).integers(30, 220, (height // 4, width // 4, 3))
    return np.kron(coarse, np.ones((4, 4, 1))).astype(np.uint8)


@pytest.mark.parametrize(
    ('encoding', 'order'),
    [
        ('yuv422', 'uyvy'),
        ('uyvy', 'uyvy'),
        ('yuv422_yuy2', 'yuyv'),
        ('yuyv', 'yuyv'),
    ],
)
def test_yuv422_is_decoded_in_every_byte_order(encoding, order):
    rgb = smooth_rgb(16, 8)
    y, u, v = limited_range_yuv(rgb)
    planes = {'u': u[:, ::2], 'v': v[:, ::2]}
    luma = iter((y[:, ::2], y[:, 1::2]))
    packed = np.stack([next(luma) if c == 'y' else planes[c] for c in order], axis=-1)
    data = padded(packed.reshape(8, 32), 6)
    decoded = decode_image(data, width=16, height=8, encoding=encoding, step=38)
    assert np.abs(decoded.astype(int) - rgb).max() <= YUV_TOLERANCE


@pytest.mark.parametrize(('encoding', 'first'), [('nv12', 'u'), ('nv21', 'v')])
def test_nv12_and_nv21_are_decoded(encoding, first):
    rgb = smooth_rgb(16, 8)
    y, u, v = limited_range_yuv(rgb)
    chroma = [u[::2, ::2], v[::2, ::2]]
    interleaved = np.stack(chroma if first == 'u' else chroma[::-1], axis=-1).reshape(4, 16)
    data = padded(np.vstack([y, interleaved]), 4)
    decoded = decode_image(data, width=16, height=8, encoding=encoding, step=20)
    assert np.abs(decoded.astype(int) - rgb).max() <= YUV_TOLERANCE


def limited_range_yuv(rgb: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return Y, U and V of ITU-R BT.601, limited range, as cameras send them."""
    r, g, b = (rgb[..., i].astype(float) for i in range(3))
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    return tuple(np.clip(np.rint(p), 0, 255).astype(np.uint8) for p in (y, u, v))


@pytest.mark.parametrize('encoding', sorted(BAYER))
def test_bayer_images_are_decoded_to_the_original_colours(encoding):
    colour = np.array([200, 120, 40], dtype=np.uint8)
    mosaic = np.tile(colour[np.array(BAYER[encoding])], (6, 8))
    decoded = decode_image(padded(mosaic, 5), width=16, height=12, encoding=encoding, step=21)
    np.testing.assert_array_equal(decoded[2:-2, 2:-2], np.broadcast_to(colour, (8, 12, 3)))


def test_rgb8_is_not_copied():
    data = array.array('B', range(12))
    decoded = decode_image(data, width=2, height=2, encoding='rgb8', step=6)
    data[0] = 99
    assert decoded[0, 0, 0] == 99


@pytest.mark.parametrize('kind', [bytes, bytearray, memoryview, np.frombuffer, 'array'])
def test_any_buffer_is_accepted(kind):
    raw = bytes(range(12))
    if kind is np.frombuffer:
        data = np.frombuffer(raw, dtype=np.uint8)
    else:
        data = array.array('B', raw) if kind == 'array' else kind(raw)
    decoded = decode_image(data, width=2, height=2, encoding='bgr8', step=6)
    assert decoded[1, 1].tolist() == [11, 10, 9]


BAD_IMAGES = [
    ({'encoding': 'nv24'}, 'encoding', 'nv24'),
    ({'encoding': ''}, 'encoding', "''"),
    ({'encoding': 'RGB8'}, 'encoding', 'RGB8'),
    ({'step': 29}, 'step', '29.*30'),
    ({'step': 0}, 'step', '0'),
    ({'step': -30}, 'step', '-30'),
    ({'data': b''}, 'buffer', '0 bytes.*240'),
    ({'data': bytes(239)}, 'buffer', '239 bytes.*240'),
    ({'data': [1, 2, 3]}, 'buffer', 'not a contiguous buffer'),
    ({'data': np.zeros((8, 60), np.uint8)[:, ::2]}, 'buffer', 'not a contiguous buffer'),
    ({'step': 31}, 'buffer', '240 bytes.*248'),
    ({'width': 0}, 'size', '0x8'),
    ({'height': 0}, 'size', '10x0'),
    ({'width': 4_000_000_000, 'step': 4_000_000_000 * 3}, 'size', '4000000000'),
    ({'encoding': 'yuv422', 'width': 9}, 'size', 'even width, found 9'),
    ({'encoding': 'nv12', 'height': 7}, 'size', 'even height, found 7'),
    ({'encoding': 'bayer_rggb8', 'width': 9}, 'size', 'even width'),
    ({'encoding': 'nv12', 'step': 20, 'height': 12}, 'buffer', '18 rows of 20 bytes.*360'),
]


@pytest.mark.parametrize(('changes', 'cause', 'message'), BAD_IMAGES)
def test_invalid_images_are_rejected_with_their_cause(changes, cause, message):
    image = {'data': bytes(240), 'width': 10, 'height': 8, 'encoding': 'rgb8', 'step': 30}
    with pytest.raises(ImageError, match=message) as caught:
        RawImage(**{**image, **changes}).decode()
    assert caught.value.cause == cause


def test_decoded_pixels_are_checked():
    with pytest.raises(ImageError, match='uint8'):
        RgbImage(np.zeros((4, 4), dtype=np.uint8)).decode()
    with pytest.raises(ImageError, match='image is empty'):
        RgbImage(np.zeros((0, 4, 3), dtype=np.uint8)).decode()


def test_preprocess_normalises_by_channel():
    contract = Preprocessing(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0), crop_fraction=1.0)
    rgb = np.full((10, 10, 3), (255, 0, 51), dtype=np.uint8)
    tensor = preprocess(rgb, 4, contract)
    assert tensor.shape == (1, 3, 4, 4)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    np.testing.assert_allclose(tensor[0, :, 2, 2], [1.0, -1.0, 0.1], atol=1e-6)


@pytest.mark.parametrize('interpolation', ['area', 'bilinear'])
@pytest.mark.parametrize('size', [(480, 640), (300, 300), (64, 48), (1080, 1920)])
def test_preprocess_equals_resizing_before_cropping(size, interpolation):
    """On a smooth image, cropping first shifts the result by less than a source pixel."""
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width]
    rgb = np.stack([255 * rows / height, 255 * columns / width, 0 * rows], -1).astype(np.uint8)
    contract = Preprocessing((0, 0, 0), (1, 1, 1), 0.875, interpolation)
    resolution = 56
    scale = 64 / min(height, width)
    method = cv2.INTER_AREA if interpolation == 'area' and scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(rgb, (round(width * scale), round(height * scale)), interpolation=method)
    top, left = (resized.shape[0] - 56) // 2, (resized.shape[1] - 56) // 2
    expected = resized[top : top + 56, left : left + 56].transpose(2, 0, 1) / 255.0
    found = preprocess(rgb, resolution, contract)[0]
    pixel = 1.0 / min(height, width)
    assert np.abs(found - expected).max() <= 2.0 * pixel + 0.5 / 64


def test_preprocess_keeps_the_centre():
    rgb = np.zeros((100, 200, 3), dtype=np.uint8)
    rgb[30:70, 80:120] = 255  # a square in the very centre
    tensor = preprocess(rgb, 50, IDENTITY)[0, 0]
    np.testing.assert_allclose(tensor, tensor[::-1], atol=1 / 255)
    np.testing.assert_allclose(tensor, tensor[:, ::-1], atol=1 / 255)
    assert tensor[25, 25] == 1.0
    assert tensor[0, 0] == 0.0


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    resolution=st.sampled_from([16, 64, 224]),
)
@settings(max_examples=40, deadline=None)
def test_preprocess_accepts_any_size(height, width, resolution):
    tensor = preprocess(np.full((height, width, 3), 51, np.uint8), resolution, IDENTITY)
    assert tensor.shape == (1, 3, resolution, resolution)
    np.testing.assert_allclose(tensor, 0.2, atol=1e-6)


def test_grey_and_colour_of_the_same_scene_agree():
    grey = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=2)
    from_grey = decode_image(grey.tobytes(), width=64, height=48, encoding='mono8', step=64)
    np.testing.assert_array_equal(
        preprocess(from_grey, 32, IDENTITY), preprocess(colour, 32, IDENTITY)
    )


@pytest.mark.parametrize('channels', ['rgb', 'bgr'])
@pytest.mark.parametrize('resize', ['crop', 'stretch', 'pad'])
@pytest.mark.parametrize('encoding', sorted(INTERFACE_ENCODINGS))
def test_channel_order_does_not_change_the_result_of_resizing(encoding, resize, channels):
    width, height = 60, 44
    depth = 2 if encoding == 'mono16' else OPENCV[encoding][0]
    data = np.random.default_rng(7).integers(0, 256, int(width * height * depth), np.uint8)
    source = RawImage(data, width, height, encoding, width * int(depth))
    contract = Preprocessing((0, 0, 0), (1, 1, 1), 0.875, 'area', resize, channels)
    late = preprocess(source.pixels(), 32, contract)
    early = preprocess(source.decode(), 32, contract)
    np.testing.assert_allclose(late, early, atol=1.01 / 255)
    assert late.std() > 0.01


def test_only_the_cropped_region_is_processed():
    raw = RawImage(bytes(3000 * 4000 * 3), 4000, 3000, 'rgb8', 4000 * 3)
    rgb = raw.decode()
    tracemalloc.start()
    preprocess(rgb, 224, Preprocessing())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 10 * 224 * 224 * 3 * 4


def compressed(suffix, pixels=None):
    rgb = np.full((40, 60, 3), (200, 30, 90), np.uint8) if pixels is None else pixels
    is_good, encoded = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert is_good
    return encoded.tobytes()


def huge_png():
    """Return a PNG whose header claims 40,000x40,000 pixels."""
    data = bytearray(compressed('.png'))
    data[16:24] = (40_000).to_bytes(4, 'big') * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, 'big')
    return bytes(data)


def huge_jpeg():
    data = bytearray(compressed('.jpg'))
    frame_header = data.index(b'\xff\xc0')
    data[frame_header + 5 : frame_header + 9] = b'\xff\xff\xff\xff'
    return bytes(data)


def test_png_is_decompressed_exactly_and_jpeg_nearly():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    assert (CompressedImage(compressed('.png', pixels)).decode() == pixels).all()
    even = np.full((40, 60, 3), (200, 30, 90), np.uint8)
    assert np.abs(CompressedImage(compressed('.jpg')).decode().astype(int) - even).max() <= 6


def test_grey_and_16_bit_pngs_become_rgb():
    grey = np.full((4, 6), 0x1234, np.uint16)
    data = cv2.imencode('.png', grey)[1].tobytes()
    assert (CompressedImage(data).decode() == 0x12).all()


@pytest.mark.parametrize(
    ('data', 'cause'),
    [
        (b'', 'encoding'),
        (b'RIFF....WEBP', 'encoding'),
        (compressed('.jpg')[:20], 'buffer'),
        (b'\xff\xd8\xff\xe0\x00\x00' * 50, 'buffer'),
        (compressed('.png')[:60], 'buffer'),
        (huge_png(), 'size'),
        (huge_jpeg(), 'size'),
    ],
)
def test_damaged_compressed_images_are_rejected_with_their_cause(data, cause):
    with pytest.raises(ImageError) as error:
        CompressedImage(array.array('B', data), 'jpeg').decode()
    assert error.value.cause == cause


@pytest.mark.parametrize(
    'image',
    [CompressedImage(b'garbage', 9999 * 'x'), RawImage(b'', 2, 2, 9999 * 'x', 6)],
    ids=['compressed', 'raw'],
)
def test_a_long_name_of_a_format_is_truncated_in_the_message(image):
    with pytest.raises(ImageError) as error:
        image.decode()
    assert len(str(error.value)) <= 120
