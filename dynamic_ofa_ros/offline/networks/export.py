"""Export the levels of a family as ONNX files with metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import onnx
from onnx import helper

from dynamic_ofa_ros.family import FREE_SIDE, Family, Level, OnnxNetwork
from dynamic_ofa_ros.family.new_folder import check_new_folder
from dynamic_ofa_ros.files import creating_folder
from dynamic_ofa_ros.offline.networks.onnx_metadata import LABELS_KEY, PREPROCESSING_KEY
from dynamic_ofa_ros.supernet.onnx_levels import LevelWriter

LEVEL_KEY = 'dynamic_ofa.level'


def export_family(family: Family, output: Path, indices: Sequence[int] = ()) -> list[Path]:
    """Write levels, by default all, into the new folder `output`.

    The files `level_<index>_<resolution>px.onnx` map (1, 3, side, side) float32 to (1, classes)
    float32 logits. Their metadata contain labels, preprocessing, and the level's entry in the
    family. Raise FamilyError if `output` exists or is in a family, or a level does not exist.
    """
    check_new_folder(output)
    levels = [family.level(i) for i in indices] or list(family.levels)
    names = []
    with creating_folder(output) as folder:
        for level, model in _models(family, levels):
            helper.set_model_props(model, metadata(family, level, model))
            onnx.checker.check_model(model)
            name = f'level_{level.index}_{level.resolution}px.onnx'
            (folder / name).write_bytes(model.SerializeToString())
            names.append(name)
    return [output / name for name in names]


def metadata(family: Family, level: Level, model: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata of a level's file that `model` does not contain yet."""
    about = {
        'family': family.name,
        'checksum': family.checksum,
        'index': level.index,
        'name': level.name,
        'accuracy': level.accuracy,
        'accuracy_source': level.accuracy_source,
        'resolution': level.resolution,
        'macs': level.macs,
        'parameters': level.parameters,
    }
    return {
        **{entry.key: entry.value for entry in model.metadata_props},
        'task': 'classify',
        LABELS_KEY: json.dumps(list(family.labels)),
        PREPROCESSING_KEY: json.dumps(asdict(family.preprocessing_of(level.index))),
        LEVEL_KEY: json.dumps(about),
    }


def _models(family: Family, levels: Sequence[Level]) -> Iterator[tuple[Level, onnx.ModelProto]]:
    if family.is_supernet:
        writer = LevelWriter(family)
        for level in levels:
            yield level, writer.network(level)
        return
    for level in levels:
        assert isinstance(level.network, OnnxNetwork)
        model = onnx.load(str(family.network_path(level.network)))
        for value in model.graph.input:  # a variable input size becomes that of the level
            for dimension in value.type.tensor_type.shape.dim:
                if dimension.dim_param == FREE_SIDE:
                    dimension.dim_value = level.resolution
        yield level, model
