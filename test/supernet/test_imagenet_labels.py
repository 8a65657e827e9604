"""The 1,000 classes: their number, uniqueness, and order (that of the networks' outputs)."""

from __future__ import annotations

import re

from dynamic_ofa_ros.supernet.published.imagenet_labels import imagenet_labels, imagenet_wnids


def test_there_are_a_thousand_different_names():
    labels = imagenet_labels()
    assert len(labels) == 1000
    assert len({label.lower() for label in labels}) == 1000
    assert all(label == label.strip() and len(label) <= 32 for label in labels)


def test_labels_are_in_the_order_of_the_wordnet_ids():
    wnids = imagenet_wnids()
    assert all(re.fullmatch(r'n\d{8}', wnid) for wnid in wnids)
    assert list(wnids) == sorted(set(wnids))
    assert len(wnids) == 1000


def test_labels_have_the_index_of_the_network_output():
    labels = imagenet_labels()
    known = {0: 'tench', 207: 'golden retriever', 504: 'coffee mug', 985: 'daisy'}
    assert {index: labels[index] for index in known} == known
    assert labels[999] == 'toilet tissue'


def test_classes_with_the_same_wordnet_name_have_different_labels():
    labels = imagenet_labels()
    assert labels[134] == 'crane (bird)'
    assert labels[517] == 'crane (machine)'
    assert (labels[264], labels[474]) == ('Cardigan Welsh corgi', 'cardigan')
    assert (labels[638], labels[639]) == ('maillot', 'tank suit')
