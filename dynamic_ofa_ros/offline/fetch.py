"""Fetch a published backbone: download, verify and convert it into a folder for `build`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dynamic_ofa_ros.errors import CheckpointError, DatasetError, DownloadError
from dynamic_ofa_ros.family import Preprocessing
from dynamic_ofa_ros.family.new_folder import check_new_folder
from dynamic_ofa_ros.files import cache_directory, creating_folder
from dynamic_ofa_ros.offline.accuracy.accuracy_predictor import write_arrays
from dynamic_ofa_ros.offline.data.folders import class_folders, find_splits
from dynamic_ofa_ros.space.spaces import search_space
from dynamic_ofa_ros.supernet.published.checkpoints import (
    PREDICTOR_FILE,
    PublishedCheckpoint,
    load_published,
    read_published_predictor,
)
from dynamic_ofa_ros.supernet.published.checksums import CHECKSUMS_FILE, Checksums
from dynamic_ofa_ros.supernet.published.download import OnProgress, alone, download
from dynamic_ofa_ros.supernet.trained import TrainedBackbone, open_backbone

DOWNLOADS_FOLDER = 'downloads'

# The evaluation of ofa (ofa/imagenet_classification/data_providers/imagenet.py): the shorter side
# is resized to ceil(resolution / 0.875), and the centre is cropped. Its bilinear filter averages
# when it shrinks, which OpenCV calls `area`.
PREPROCESSING = Preprocessing(crop_fraction=0.875, interpolation='area')


@dataclass(frozen=True)
class FetchSettings:
    """The source of a backbone, if it is not the publisher; see `dynamic-ofa fetch --help`.

    url: a mirror; file: a local checkpoint; sha256: the expected checksum; predictor_file: a local
    accuracy predictor; labels: one per class, in order.
    """

    url: str = ''
    file: Path | None = None
    sha256: str = ''
    predictor: bool = True
    predictor_file: Path | None = None
    labels: tuple[str, ...] = ()

    def wants_predictor(self, checkpoint: PublishedCheckpoint) -> bool:
        """Whether to fetch the predictor: from its file, or if no other source is a local file."""
        online = self.predictor and self.file is None and bool(checkpoint.predictor_url)
        return self.predictor_file is not None or online


@dataclass(frozen=True)
class FetchReport:
    """A fetched backbone, its source, and whether its checksum was recorded for the first time."""

    trained: TrainedBackbone
    source: str
    sha256: str
    is_first_use: bool
    predictor_path: Path | None


def fetch_backbone(
    checkpoint: PublishedCheckpoint,
    output: Path,
    settings: FetchSettings | None = None,
    *,
    cache: Path | None = None,
    on_progress: OnProgress | None = None,
) -> FetchReport:
    """Write a published backbone into the new folder `output`, in the format of `train`.

    Raise FamilyError if `output` exists or is in a family, CheckpointError if the checkpoint does
    not match, and DownloadError if the file cannot be downloaded or is not the expected one.
    Partial downloads are in `cache`.
    """
    settings = settings or FetchSettings()
    cache = cache or cache_directory()
    name = checkpoint.backbone.name
    check_new_folder(output)
    labels = settings.labels or placeholder_labels(checkpoint.backbone.classes)
    if len(labels) != checkpoint.backbone.classes:
        raise DatasetError(
            f'{len(labels)} labels were given; {name} has {checkpoint.backbone.classes} classes'
        )
    with alone(cache / DOWNLOADS_FOLDER / name):
        return _fetch(checkpoint, output, settings, labels, _Shelf(cache, on_progress))


def placeholder_labels(classes: int) -> tuple[str, ...]:
    """Return `class 0`, `class 1`, ..., the labels of a checkpoint without labels."""
    return tuple(f'class {index}' for index in range(classes))


def with_labels_of(trained: TrainedBackbone, classes: Sequence[str]) -> TrainedBackbone:
    """Return the backbone with the class names of the data if it has no labels.

    The classes of published backbones are in the order of ImageNet's sorted class folders, which
    is also the order of the classes of the data.
    """
    count = len(trained.labels)
    if len(classes) != count or trained.labels != placeholder_labels(count):
        return trained
    return replace(trained, labels=tuple(classes))


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Read labels from a file, one per line, or the sorted class folders of a folder.

    The class folders may also be in its train/. Raise DatasetError.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        folders = class_folders(find_splits(path).training or path)
        labels = tuple(folder.name for folder in folders)
        kind = 'class folders'
    else:
        try:
            lines = path.read_text(encoding='utf-8').splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f'{path} cannot be read as a list of labels: {error}') from None
        labels = tuple(line.strip() for line in lines if line.strip())
        kind = 'labels'
    if not labels:
        raise DatasetError(f'{path} contains no {kind}')
    return labels


@dataclass(frozen=True)
class _Obtained:
    """A file with the expected checksum; `is_download`: it is a temporary download."""

    name: str
    path: Path
    sha256: str
    is_download: bool

    def forget(self) -> None:
        """Delete a download that is converted or cannot be used."""
        if self.is_download:
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Shelf:
    """Return the default folder for downloads and their checksums."""

    cache: Path
    on_progress: OnProgress | None

    @property
    def checksums(self) -> Checksums:
        """Return the checksums of all files fetched before."""
        return Checksums(self.cache / CHECKSUMS_FILE)

    def obtain(self, name: str, url: str, file: Path | None, sha256: str) -> _Obtained:
        """Download a file unless it is given, and verify its checksum."""
        path = file or self.cache / DOWNLOADS_FOLDER / name
        if file is not None and not file.is_file():
            raise CheckpointError(f'there is no file {file}')
        if not path.is_file():
            download(url, path, self.on_progress)
        try:
            found = self.checksums.check(name, path, sha256)
        except DownloadError:
            _Obtained(name, path, '', file is None).forget()
            raise
        return _Obtained(name, path, found, file is None)


def _fetch(
    checkpoint: PublishedCheckpoint,
    output: Path,
    settings: FetchSettings,
    labels: tuple[str, ...],
    shelf: _Shelf,
) -> FetchReport:
    name = checkpoint.backbone.name
    url = settings.url or checkpoint.url
    weights = shelf.obtain(name, url, settings.file, settings.sha256 or checkpoint.sha256)
    with _of_no_use_when_it_fails(weights):
        supernet = load_published(checkpoint.backbone, weights.path)
    fetched, predictor = [weights], None
    if settings.wants_predictor(checkpoint):
        fetched.append(
            shelf.obtain(
                f'{name}.accuracy_predictor',
                checkpoint.predictor_url,
                settings.predictor_file,
                checkpoint.predictor_sha256,
            )
        )
        with _of_no_use_when_it_fails(fetched[-1]):
            predictor = read_published_predictor(fetched[-1].path)
    source = settings.file.name if settings.file else url
    with creating_folder(output) as folder:
        TrainedBackbone(
            directory=folder,
            backbone=checkpoint.backbone,
            preprocessing=PREPROCESSING,
            labels=labels,
            resolutions=search_space(checkpoint.backbone.kind).resolutions,
            training={'published_as': name, 'source': source, 'sha256': weights.sha256},
        ).save(supernet)
        if predictor is not None:
            write_arrays(folder / PREDICTOR_FILE, predictor)
    # Recorded only now, after the file has proved usable.
    is_new = [shelf.checksums.record(item.name, item.sha256) for item in fetched]
    for item in fetched:
        item.forget()
    return FetchReport(
        trained=open_backbone(output),
        source=source,
        sha256=weights.sha256,
        is_first_use=is_new[0],
        predictor_path=None if predictor is None else output / PREDICTOR_FILE,
    )


@contextmanager
def _of_no_use_when_it_fails(obtained: _Obtained) -> Iterator[None]:
    """Delete a download that is not the expected file, so that it is downloaded again."""
    try:
        yield
    except CheckpointError:
        obtained.forget()
        raise
