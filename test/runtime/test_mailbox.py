from __future__ import annotations

import threading

import numpy as np

from dynamic_ofa_ros.runtime.image import RgbImage
from dynamic_ofa_ros.runtime.mailbox import Frame, Mailbox

DEADLINE_S = 10.0
PIXELS = RgbImage(np.zeros((2, 2, 3), dtype=np.uint8))


def test_the_newest_frame_is_held_and_replaced_ones_are_counted():
    mailbox = Mailbox()
    replaced = [mailbox.put(Frame(PIXELS, header=index)) for index in range(4)]
    assert replaced == [False, True, True, True]
    frame = mailbox.get(0.0)
    assert frame is not None
    assert frame.header == 3
    assert mailbox.get(0.0) is None
    assert (mailbox.received, mailbox.replaced) == (4, 3)


def test_a_taken_frame_is_not_replaced():
    mailbox = Mailbox()
    for index in range(5):
        mailbox.put(Frame(PIXELS, header=index))
        assert mailbox.get(0.0).header == index  # type: ignore[union-attr]
    assert mailbox.replaced == 0


def test_a_waiting_reader_gets_the_frame():
    mailbox = Mailbox()
    taken: list[object] = []
    reader = threading.Thread(target=lambda: taken.append(mailbox.get(DEADLINE_S)))
    reader.start()
    frame = Frame(PIXELS)
    mailbox.put(frame)
    reader.join(DEADLINE_S)
    assert taken == [frame]


def test_closing_wakes_the_reader_and_ignores_new_frames():
    mailbox = Mailbox()
    taken: list[object] = ['nothing yet']
    reader = threading.Thread(target=lambda: taken.append(mailbox.get(DEADLINE_S)))
    reader.start()
    mailbox.close()
    reader.join(DEADLINE_S)
    assert taken == ['nothing yet', None]
    assert not mailbox.put(Frame(PIXELS))
    assert mailbox.received == 0


def test_a_cleared_frame_is_not_counted():
    mailbox = Mailbox()
    mailbox.put(Frame(PIXELS))
    mailbox.clear()
    assert mailbox.get(0.0) is None
    assert mailbox.replaced == 0


def test_all_frames_are_counted_with_concurrent_writers():
    mailbox = Mailbox()
    each, writers = 300, 3
    taken: list[Frame] = []

    def read() -> None:
        while True:
            frame = mailbox.get(DEADLINE_S)
            if frame is None:
                return
            taken.append(frame)

    reader = threading.Thread(target=read)
    threads = [
        threading.Thread(target=lambda: [mailbox.put(Frame(PIXELS)) for _ in range(each)])
        for _ in range(writers)
    ]
    reader.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = mailbox.get(0.0)
    mailbox.close()
    reader.join(DEADLINE_S)
    assert mailbox.received == each * writers
    assert len(taken) + (last is not None) + mailbox.replaced == mailbox.received
