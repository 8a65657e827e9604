"""Key expressions and attachments as rmw_zenoh writes them."""

import subprocess
import sys

import pytest
from rclpy_zenoh.support import REPOSITORY

from dynamic_ofa_ros.rclpy_zenoh import wire

# The example of rmw_zenoh's design document: a talker in domain 2.
HASH = 'RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18'
NODE_KEY = '@ros2_lv/2/aac3178e146ba6f1fc6e6a4085e77f21/0/0/NN/%/%/talker'
PUBLISHER_KEY = (
    '@ros2_lv/2/aac3178e146ba6f1fc6e6a4085e77f21/0/10/MP/%/%/talker/%chatter/'
    f'std_msgs::msg::dds_::String_/{HASH}/::,10:,:,:,,'
)
TALKER = wire.NodeIdentity(2, 'aac3178e146ba6f1fc6e6a4085e77f21', 0, 'talker', '/')


def test_tokens_are_those_of_the_design_document():
    assert TALKER.token_key() == NODE_KEY
    key = TALKER.endpoint_token_key(
        entity_id=10, kind=wire.PUBLISHER, name='/chatter', type_name='std_msgs/msg/String',
        type_hash=HASH, qos='::,10:,:,:,,',
    )  # fmt: skip
    assert key == PUBLISHER_KEY


def test_data_key():
    key = wire.data_key(2, '/chatter', 'std_msgs/msg/String', HASH)
    assert key == f'2/chatter/std_msgs::msg::dds_::String_/{HASH}'


def test_tokens_are_parsed():
    token = wire.parse_token(PUBLISHER_KEY)
    assert token is not None
    assert (token.kind, token.name, token.type_name) == ('MP', '/chatter', 'std_msgs/msg/String')
    assert (token.node_fqn, token.type_hash, token.qos) == ('/talker', HASH, '::,10:,:,:,,')
    assert len(token.gid) == 16
    node = wire.parse_token(NODE_KEY.replace('%/%/talker', '%/%robot%left/talker'))
    assert node is not None
    assert node.node_fqn == '/robot/left/talker'


@pytest.mark.parametrize(
    'key', ['', 'a/b', '@ros2_lv/0/x', NODE_KEY.replace('NN', 'XX'), 'x' * 99]
)
def test_foreign_keys_are_ignored(key):
    assert wire.parse_token(key) is None


def test_attachment():
    gid = bytes(range(16))
    packed = wire.pack_attachment(3, 5, gid)
    # int64 sequence, int64 nanoseconds, length of the gid, gid; little-endian.
    assert packed == (3).to_bytes(8, 'little') + (5).to_bytes(8, 'little') + b'\x10' + gid
    assert wire.unpack_attachment(packed) == (3, 5, gid)
    with pytest.raises(ValueError, match='short'):
        wire.unpack_attachment(b'123')


def test_nothing_heavy_or_networked_is_imported():
    # zenoh-ros2-sdk's own __init__ would import GitPython and a downloader.
    code = (
        'import sys; from dynamic_ofa_ros.rclpy_zenoh import install; install(); import rclpy\n'
        'from rclpy.node import Node; from sensor_msgs.msg import Image\n'
        "print(sorted({'git', 'tqdm', 'torch', 'cv2', 'zenoh', 'requests'} & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, '-c', code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == '[]'
