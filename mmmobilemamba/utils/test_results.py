"""Reads the test data of a config and the results written by ``mim test ... --out``."""

from __future__ import annotations

import copy
import pickle
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.dataset import ClassBalancedDataset, RepeatDataset
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from .codebase import codebase_of

BYTE = 2**8  # mmseg writes 8-bit labels


class ResultsError(RuntimeError):
    """Data or results cannot be used; the message says why and what to do."""


class Sample(NamedTuple):
    """One image of a test set."""

    dataset: Any  # the innermost dataset, inside any wrappers
    info: dict[str, Any]  # from the dataset's get_data_info

    @property
    def path(self) -> str | None:
        """Path of the image, or None if the dataset stores the pixels itself."""
        return self.info.get('img_path')

    def read(self) -> Image.Image:
        """Read the image as 8-bit RGB, with the loader of the test pipeline (PIL.Image).

        Size and orientation are those of the image passed to the model's pipeline.

        Raises:
            ResultsError: If it cannot be read.
        """
        results = copy.deepcopy(self.info)
        own = 'img' in results  # RGB, for example CIFAR's; files are read as BGR
        for step in (*_steps(self.dataset), LoadImageFromFile()):
            if 'img' in results:
                break
            try:
                results = step(results)
            except Exception as error:  # the type depends on the loader's decoder
                raise ResultsError(f'{self.path} cannot be read: {error}') from error
            if results is None:
                raise ResultsError(f'{self.path} cannot be read.')
        return to_picture(np.asarray(results['img']), reverse=not own)


def to_picture(pixels: np.ndarray, reverse: bool = True) -> Image.Image:
    """Convert an array to an 8-bit RGB image for display.

    Of several channels, the first three are used, or the first one if there are two. Values outside the 8-bit
    range are rescaled to it.

    Args:
        pixels (ndarray): (H, W) or (H, W, C), with any number of channels.
        reverse (bool): Whether the first three channels are BGR. Defaults to True.
    """
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    pixels = pixels[..., :3] if pixels.shape[2] > 2 else np.repeat(pixels[..., :1], 3, axis=2)
    if pixels.dtype != np.uint8:
        pixels = np.nan_to_num(pixels.astype(np.float32), posinf=0, neginf=0)
        low, high = pixels.min(), pixels.max()
        if low < 0 or high > 255 or high <= 1:
            pixels = (pixels - low) * (255 / max(high - low, 1e-6))
        pixels = pixels.astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels[..., ::-1] if reverse else pixels))


def check_codebase(config: Config, known: Sequence[str]) -> str:
    """Return the codebase of a config (str).

    Raises:
        ResultsError: If it is not one of ``known``.
    """
    codebase = codebase_of(config)
    if codebase is None or codebase not in known:
        raise ResultsError(
            f'The config has default_scope {config.get("default_scope")!r}; known are {", ".join(known)}.'
        )
    return codebase


def build_test_data(config: Config, codebase: str) -> Any:
    """Build the test dataset of a config.

    Raises:
        ResultsError: If the config has no test data, files are missing, or there are no images.
    """
    init_default_scope(codebase)
    try:
        dataset = DATASETS.build(_test_dataset(config))
    except OSError as error:
        raise ResultsError(f'The test data of the config cannot be read: {error}') from error
    if not len(dataset):
        raise ResultsError('The test data of the config have no images.')
    return dataset


def samples_of(dataset: Any) -> list[Sample]:
    """Return all samples of a dataset, with wrappers resolved (list[Sample])."""
    return [_locate(dataset, index) for index in range(len(dataset))]


def load_predictions(path: Path) -> list[dict[str, Any]]:
    """Load a file of DumpResults or DumpDetResults (list[dict]).

    The file is a pickle, which can execute code: only load files that you trust.

    Raises:
        ResultsError: If the file does not exist, or has another content.
    """
    if not path.is_file():
        raise ResultsError(f'There is no file {path}; `mim test ... --out {path}` writes it.')
    try:
        predictions = pickle.loads(path.read_bytes())
    except (pickle.UnpicklingError, EOFError, ValueError, UnicodeDecodeError) as error:
        raise ResultsError(f'{path} is no file of `mim test ... --out`: {error}') from error
    if not isinstance(predictions, list) or not all(isinstance(each, dict) for each in predictions):
        raise ResultsError(f'{path} is no file of `mim test ... --out`: it is no list of predictions.')
    return predictions


def match(
    predictions: Sequence[Mapping[str, Any]], samples: Sequence[Sample], strangers: bool = False
) -> list[Sample]:
    """Find the image of each prediction.

    Matches by both path and id, because concatenated datasets can share ids or images.

    Args:
        predictions (Sequence[dict]): Predictions from :func:`load_predictions`.
        samples (Sequence[Sample]): Samples of the test data.
        strangers (bool): Whether to accept images outside the test data, if their files exist. Defaults to
            False.

    Returns:
        list[Sample]: One sample per prediction.

    Raises:
        ResultsError: If the image of a prediction is not found.
    """
    if len(predictions) == len(samples) and all(map(_is_of, predictions, samples)):
        return list(samples)
    places: dict[tuple, list[Sample]] = defaultdict(list)
    for sample in samples:
        number = sample.info.get('img_id')
        for key in {(sample.path, number), (sample.path, None), (None, number)}:
            places[key].append(sample)
    found = []
    for each in predictions:
        path, number = each.get('img_path'), each.get('img_id')
        keys = ((path, number), (path, None), (None, number))
        alike = next((places[key] for key in keys if key != (None, None) and key in places), [])
        if alike:
            found.append(alike.pop(0) if len(alike) > 1 else alike[0])
        elif strangers and path and Path(path).is_file():
            found.append(Sample(samples[0].dataset, dict(img_path=path)))
        else:
            raise ResultsError(
                f'The predictions have the image {path or number}, which is not in the test data of the '
                f'config: give the config that they were made with.'
            )
    return found


def label_map_reader(dataset: Any) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
    """Return the step of a dataset's test pipeline that loads the ground truth, or None."""
    names = ((step, type(step).__name__) for step in _steps(dataset))
    return next((step for step, name in names if name.endswith('LoadAnnotations')), None)


class LabelMaps:
    """Label maps predicted by a segmentor.

    Args:
        path (Path): Folder written by mmseg's IoUMetric, or file of mmengine's DumpResults.
        config (Config): A config of mmseg.
        samples (Sequence[Sample]): Samples of the test data.

    Attributes:
        samples (list[Sample]): Samples with a prediction.
        absent (list[str]): Missing files, or paths of images without a prediction.

    Raises:
        ResultsError: If the path does not exist, has no label maps, or a file is ambiguous.
    """

    def __init__(self, path: Path, config: Config, samples: Sequence[Sample]) -> None:
        self.path = path
        self.samples: list[Sample] = []
        self.absent: list[str] = []
        self._maps: list[Any] = []
        if path.suffix in ('.pkl', '.pickle'):
            predictions = load_predictions(path)
            if not all('pred_sem_seg' in each for each in predictions):
                raise ResultsError(f'{path} has no label maps (pred_sem_seg).')
            self.samples = match(predictions, samples)
            self._maps = [each['pred_sem_seg']['data'] for each in predictions]
            found = {id(sample) for sample in self.samples}
            self.absent = [str(sample.path) for sample in samples if id(sample) not in found]
            return
        if not path.is_dir():
            raise ResultsError(f'There is no folder {path}; `mim test ... --out {path}` makes it.')
        _check_written(path, config, samples)
        for sample in samples:
            file = path / f'{Path(sample.path or "").stem}.png'
            if file.is_file():
                self.samples.append(sample)
                self._maps.append(file)
            else:
                self.absent.append(file.name)

    def read(self, index: int) -> np.ndarray:
        """Return the labels of ``samples[index]``, int (H, W); -1 marks pixels without a class."""
        labels = self._maps[index]
        if not isinstance(labels, Path):
            return np.asarray(labels).astype(int).reshape(labels.shape[-2:])
        labels = np.asarray(Image.open(labels)).astype(int)
        # With reduce_zero_label, mmseg writes labels that start at 1.
        return labels - 1 if self.samples[index].info.get('reduce_zero_label') else labels

    def name(self, index: int) -> str:
        """Return the source of the labels of ``samples[index]``, for messages (str)."""
        place = self._maps[index]
        return str(place) if isinstance(place, Path) else f'{self.path}, {self.samples[index].path}'


def ignored_labels(config: Config, dataset: Any) -> list[int]:
    """Return the ``ignore_index`` values of a dataset and the config's evaluators (list[int])."""
    evaluators = config.get('test_evaluator') or {}
    evaluators = [evaluators] if isinstance(evaluators, Mapping) else evaluators
    owners = [each.get('ignore_index') for each in evaluators if isinstance(each, Mapping)]
    return sorted({label for label in (*owners, getattr(dataset, 'ignore_index', None)) if label is not None})


def _test_dataset(config: Config) -> Mapping[str, Any]:
    """Return the config of the test dataset."""
    settings = config.get('test_dataloader') or {}
    if not isinstance(settings, Mapping) or not settings.get('dataset'):
        raise ResultsError('The config has no test_dataloader with a dataset.')
    return settings['dataset']


def _locate(dataset: Any, index: int) -> Sample:
    """Return sample ``index`` of a dataset, with wrappers resolved."""
    if hasattr(dataset, 'datasets'):
        place, index = dataset._get_ori_dataset_idx(index)
        return _locate(dataset.datasets[place], index)
    if hasattr(dataset, 'dataset'):
        if isinstance(dataset, (RepeatDataset, ClassBalancedDataset)):
            index = dataset._get_ori_dataset_idx(index)
        return _locate(dataset.dataset, index)
    return Sample(dataset, dataset.get_data_info(index))


def _steps(dataset: Any) -> Sequence[Any]:
    """Return the steps of a dataset's pipeline."""
    return getattr(getattr(dataset, 'pipeline', None), 'transforms', ())


def _is_of(prediction: Mapping[str, Any], sample: Sample) -> bool:
    """Whether path and id of a prediction, as far as it has them, match a sample."""
    pairs = ((prediction.get(key), sample.info.get(key)) for key in ('img_path', 'img_id'))
    return all(one == other for one, other in pairs if one is not None and other is not None)


def _check_written(path: Path, config: Config, samples: Sequence[Sample]) -> None:
    """Check that the files written by mmseg can be assigned to images and classes.

    Raises:
        ResultsError: If they cannot.
    """
    evaluators = config.get('test_evaluator') or {}
    for each in [evaluators] if isinstance(evaluators, Mapping) else evaluators:
        kind = each.get('type') if isinstance(each, Mapping) else type(each)
        if getattr(kind, '__name__', str(kind)).rpartition('.')[2] == 'CityscapesMetric':
            raise ResultsError(
                f"CityscapesMetric writes Cityscapes' label ids into {path}, which are not the labels of the "
                f'classes: test with IoUMetric, and give --cfg-options test_evaluator.type=IoUMetric here.'
            )
    help_text = (
        "Test with test_evaluator = dict(_delete_=True, type='DumpResults', out_file_path='maps.pkl') in the "
        'config, and give maps.pkl here.'
    )
    twice = [
        stem for stem, number in Counter(Path(each.path or '').stem for each in samples).items() if number > 1
    ]
    if twice:
        paths = [each.path for each in samples if Path(each.path or '').stem == twice[0]]
        raise ResultsError(
            f'mmseg writes the maps of {paths[0]} and {paths[1]} into the same file, {path / twice[0]}.png, '
            f'one over the other. {help_text}'
        )
    classes = len(samples[0].dataset.metainfo.get('classes') or ())
    room = BYTE - any(each.info.get('reduce_zero_label') for each in samples)
    if classes > room:
        raise ResultsError(f'mmseg writes labels of 8 bits, and {classes} classes need more. {help_text}')
