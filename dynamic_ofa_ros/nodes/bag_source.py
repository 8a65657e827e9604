"""Images of a recorded bag at their recorded times."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from dynamic_ofa_ros.errors import ImageError
from dynamic_ofa_ros.nodes import conversions
from dynamic_ofa_ros.nodes.camera_sources import Picture, SourceError, resized
from dynamic_ofa_ros.recordings.bag import Bag
from dynamic_ofa_ros.recordings.messages import class_id_of, named_labels, stamp_of
from dynamic_ofa_ros.runtime.image import ImageArray

IMAGE, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
ONLY_IMAGE_S = 1.0
"""Repetition period of a bag with a single image."""


class BagSource:
    """Images of one topic of a bag.

    topic: the image topic; empty: the only one in the bag. has_own_stamps: whether the images keep
    their recorded stamps and frame ids. rate: playback speed; 2 = twice as fast as recorded.
    on_problem: called with a message for each damaged image, which is left out. True classes are
    known if the bag contains the topics `ground_truth` and `ground_truth/label_info` in the
    namespace of the images, as camera_node publishes them.
    """

    is_live = False

    def __init__(
        self,
        path: str,
        *,
        topic: str = '',
        has_own_stamps: bool = False,
        rate: float = 1.0,
        width: int = 0,
        height: int = 0,
        loop: bool = True,
        on_problem: Callable[[str], None] = lambda problem: None,
    ) -> None:
        if not path:
            raise SourceError('path is empty: set it to a bag, a folder or a .mcap or .db3 file')
        self._path = path
        self._has_own_stamps = has_own_stamps
        self._rate = rate
        self._size = (width, height)
        self._loop = loop
        self._on_problem = on_problem
        with Bag(path) as bag:
            self.topic = _chosen_topic(bag, topic)
            namespace = self.topic.removesuffix('/compressed').rpartition('/')[0]
            self._truth_topic = f'{namespace}/ground_truth'
            info = bag.first(f'{self._truth_topic}/label_info')
            self.labels: tuple[str, ...] = named_labels(info) if info is not None else ()
            if bag.first(self.topic) is None:
                raise SourceError(f'{path} contains no image on {self.topic}')

    def pictures(self) -> Iterator[Picture]:
        """Yield the decoded images; raise RecordingError if the bag is damaged."""
        begin_s = 0.0
        while True:
            first_ns = last_ns = None
            count = good = 0
            with Bag(self._path) as bag:
                for message, time_ns, class_id in self._images(bag):
                    first_ns = time_ns if first_ns is None else first_ns
                    last_ns = time_ns
                    count += 1
                    try:
                        rgb = resized(_decoded(message), *self._size)
                    except ImageError as error:
                        self._on_problem(str(error))
                        continue
                    good += 1
                    due_s = begin_s + (time_ns - first_ns) / 1e9 / self._rate
                    yield self._picture(rgb, class_id, due_s, message.header)
            if first_ns is None or last_ns is None or not good:
                raise SourceError(f'none of the {count} images on {self.topic} can be decoded')
            if not self._loop:
                return
            length_s = (last_ns - first_ns) / 1e9
            begin_s += (length_s + (length_s / max(1, count - 1) or ONLY_IMAGE_S)) / self._rate

    def _picture(self, rgb: ImageArray, class_id: int, due_s: float, header: Any) -> Picture:
        if not self._has_own_stamps:
            return Picture(rgb, class_id, due_s=due_s)
        return Picture(rgb, class_id, None, due_s, stamp_of(header), header.frame_id)

    def _images(self, bag: Bag) -> Iterator[tuple[Any, int, int]]:
        """Yield each image with its recording time and its class, -1 if unknown.

        The class may be recorded shortly after its image, so each image is held back until the
        next one has been read.
        """
        truths: dict[int, int] = {}
        waiting: Any = None
        for message in itertools.chain(bag.messages({self.topic, self._truth_topic}), [None]):
            if message is not None and message.topic == self._truth_topic:
                truths[stamp_of(message.value.header)] = class_id_of(message.value)
                continue
            if waiting is not None:
                stamp_ns = stamp_of(waiting.value.header)
                yield waiting.value, waiting.time_ns, truths.get(stamp_ns, -1)
                truths = {later: truths[later] for later in truths if later > stamp_ns}
            waiting = message


def _chosen_topic(bag: Bag, topic: str) -> str:
    found = bag.of_type(IMAGE, COMPRESSED)
    if not found:
        raise SourceError(
            f'{bag.path} has no image topic; its topics: {", ".join(sorted(bag.topics)) or "none"}'
        )
    wanted = f'/{topic.lstrip("/")}' if topic else ''
    if wanted in found or (not wanted and len(found) == 1):
        return wanted or found[0]
    problem = f'has no images on {wanted}' if wanted else 'has several image topics'
    raise SourceError(f'{bag.path} {problem}; set bag.topic to one of: {", ".join(found)}')


def _decoded(message: Any) -> ImageArray:
    is_compressed = hasattr(message, 'format')
    convert = conversions.compressed_image if is_compressed else conversions.raw_image
    return convert(message).decode()
