"""Score an exported network on the test set of its config, and compare it with PyTorch.

    python tools/deployment/evaluate.py CONFIG MODEL.onnx --checkpoint CHECKPOINT
    mim run mmmobilemamba evaluate CONFIG MODEL.onnx --checkpoint CHECKPOINT

Runs the config's test loop, with its data, batches and metrics: first with the file in its runtime, then,
with --checkpoint, in PyTorch. The file may be for any runtime, with the config's test size or dynamic sizes.
All metrics of the codebase are supported: the table shows single numbers and means, and WORK_DIR/scores.json
has all values.
"""

import argparse
import copy
import json
import sys
from pathlib import Path

import choose
import numpy as np
import runtimes
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict, DictAction
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData

from mmmobilemamba.deployment import build
from mmmobilemamba.models.checkpoint import CheckpointError, backbone_part, fetch_checkpoint, is_fused
from mmmobilemamba.utils import codebase_of, config_argument, read_config
from mmmobilemamba.weights import checkpoint_argument

TASKS = dict(mmpretrain='classification', mmdet='detection', mmseg='segmentation')
MOST_COLUMNS = 12  # of a table with a row per engine; with more scores, the table has a row per score
LONGEST_TEXT = 40  # characters of a cell
OUTPUTS = ('out_file_path', 'outfile_prefix', 'output_dir')  # settings of metrics that name output files


@MODELS.register_module(force=True)
class FileModel(BaseModel):
    """An exported file as an OpenMMLab model: adds predictions to data samples.

    Args:
        path (str): The file, for any runtime; its input is normalised images.
        data_preprocessor (dict): The config's.
        threads (int, optional): Number of CPU threads.

    Raises:
        ValueError: If the file cannot be opened, has no metadata, or cannot be evaluated.
    """

    def __init__(self, path, data_preprocessor, threads=None):
        super().__init__(data_preprocessor)
        try:
            self.session = runtimes.open_file(path, threads)
        except runtimes.RuntimeFileError as error:
            raise ValueError(str(error)) from error
        self.about = self.session.about
        if self.about.get('task') not in PREDICT:
            raise ValueError(f'{path} is no classifier, detector or segmentor of export.py.')
        if self.about['preprocessed']:
            raise ValueError(f'{path} normalises inside: export it without --preprocess to evaluate it.')
        if self.about['task'] == 'segmentation' and 'logits' not in self.session.names():
            raise ValueError(
                f'{path} gives classes alone, which are resized by the nearest pixel and so score less than '
                f'PyTorch: export it with --logits to evaluate it.'
            )

    def forward(self, inputs, data_samples=None, mode='predict'):
        """(N, 3, H, W) and samples -> the samples, with predictions at the original size."""
        inputs = self.pad(inputs).numpy()
        if self.about.get('input', {}).get('layout') == 'NHWC':
            inputs = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
        outputs = choose.choose(self.session.run(inputs), self.about)
        found = {name: torch.from_numpy(value) for name, value in outputs.items()}
        for index, sample in enumerate(data_samples):
            PREDICT[self.about['task']](
                sample, {name: value[index] for name, value in found.items()}, self.about
            )
        return data_samples

    def pad(self, images):
        """Pad images with zeros at the right and bottom to the size of the file, if that is fixed."""
        if self.about['size'] is None:
            return images
        below, right = (want - have for want, have in zip(self.about['size'], images.shape[2:]))
        # A classifier would pool over the padding, so its images must have the exact size.
        if min(below, right) < 0 or (self.about['task'] == 'classification' and max(below, right) > 0):
            raise ValueError(
                f'The file takes images of {self.about["size"]}, and the test data are '
                f'{tuple(images.shape[2:])}: export it with --size, or as .onnx with --dynamic.'
            )
        return F.pad(images, (0, right, 0, below))


def predict_class(sample, found, _):
    """Set the scores of all classes and the best class on a sample."""
    scores = found['logits'].softmax(0)
    sample.set_pred_score(scores).set_pred_label(scores.argmax(0, keepdim=True))


def predict_boxes(sample, found, _):
    """Set boxes, and masks if any, on a sample, in pixels of the original image."""
    kept = found['scores'] > 0
    height, width = sample.img_shape[:2]  # without padding
    boxes = torch.minimum(found['boxes'][kept], torch.tensor([width, height, width, height]))
    boxes = boxes / torch.tensor(sample.scale_factor, dtype=torch.float32).repeat(2)
    instances = InstanceData(bboxes=boxes, scores=found['scores'][kept], labels=found['labels'][kept])
    if 'masks' in found:
        instances.masks = paste(found['masks'][kept], instances.bboxes, sample.ori_shape)
    sample.pred_instances = instances


def paste(masks, boxes, shape):
    """Paste masks (K, h, w), 0 to 1, into boxes (K, 4); returns bool (K, H, W)."""
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask  # other tasks need no mmdet

    if not len(masks):
        return torch.zeros(0, *shape[:2], dtype=torch.bool)
    return _do_paste_mask(masks[:, None], boxes, *shape[:2], skip_empty=False)[0] >= 0.5


def predict_pixels(sample, found, about):
    """Set logits and classes on a sample, at the size of the original image."""
    height, width = sample.img_shape[:2]
    logits = found['logits'][None, :, :height, :width]
    align_corners = about.get('align_corners', False)
    logits = F.interpolate(logits, sample.ori_shape[:2], mode='bilinear', align_corners=align_corners)
    sample.seg_logits, sample.pred_sem_seg = PixelData(data=logits[0]), PixelData(data=logits.argmax(1))


PREDICT = dict(classification=predict_class, detection=predict_boxes, segmentation=predict_pixels)


class SameClasses(Hook):
    """Stops a test if the data and the ``labels`` (list[str]) of a file differ in the number of classes."""

    def __init__(self, labels):
        self.labels = labels

    def before_test(self, runner):
        metainfo = getattr(runner.test_dataloader.dataset, 'metainfo', {})
        for each in metainfo if isinstance(metainfo, list) else [metainfo]:
            classes = each.get('classes') or ()
            if self.labels and classes and len(classes) != len(self.labels):
                known, there = (', '.join(map(str, names[:3])) for names in (self.labels, classes))
                raise ValueError(
                    f'The file has {len(self.labels)} classes ({known}, ...), and the test data '
                    f'{len(classes)} ({there}, ...): give the config that it was exported with.'
                )


def evaluate(config, work_dir, model=None, checkpoint=None, labels=()):
    """Scores (dict) of a model (dict), or of the config's model with a checkpoint, on the config's test set.

    Every call builds new metrics. Output files of metrics for the config's model get the suffix ``_pytorch``,
    so that they do not overwrite those of ``model``. ``labels`` are the expected classes of the data.
    """
    config = copy.deepcopy(config)
    config.model = model or config.model
    config.work_dir, config.load_from, config.resume = str(work_dir), checkpoint and str(checkpoint), False
    config.custom_hooks = []  # only for training
    if model is None:
        move_outputs(config.test_evaluator)
    runner = Runner.from_cfg(config)
    runner.register_hook(SameClasses(labels))
    return runner.test()


def move_outputs(evaluator):
    """Rename the output files of metrics, in the settings of one evaluator or several."""
    if isinstance(evaluator, (list, tuple)):
        for each in evaluator:
            move_outputs(each)
    elif isinstance(evaluator, dict):
        move_outputs(evaluator.get('metrics'))  # of an evaluator with several metrics
        for key in OUTPUTS:
            if evaluator.get(key):
                path = Path(evaluator[key])
                suffix = path.suffix if key == 'out_file_path' else ''
                evaluator[key] = str(path.with_name(f'{path.name.removesuffix(suffix)}_pytorch{suffix}'))


def check_config(config, about, preprocessor):
    """Check that a file and a config have the same task and normalisation.

    Raises:
        ValueError: If they do not.
    """
    task = TASKS.get(codebase_of(config))
    if task not in (None, about['task']):
        raise ValueError(f'The file is for {about["task"]}, and the config for {task}.')
    for key in ('mean', 'std'):
        ours, theirs = preprocessor.get(key), about.get(key)
        if ours and theirs and not np.allclose(ours, theirs):
            raise ValueError(
                f'The file was exported with {key} {list(theirs)}, and the config has {list(ours)}: give the '
                f'config that it was exported with.'
            )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('config', type=config_argument, help='config file of the network')
    parser.add_argument('model', type=Path, help='exported file, for any runtime')
    parser.add_argument(
        '--checkpoint', type=checkpoint_argument, help='weights, to score PyTorch for comparison'
    )
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/evaluate'), help='folder for logs and scores'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, help='changes to the config'
    )
    args = parser.parse_args(argv)
    config = read_config(args.config, args.cfg_options)
    preprocessor = config.model.get('data_preprocessor') or config.get('data_preprocessor') or {}
    preprocessor = copy.deepcopy(ConfigDict(preprocessor))  # keeps classes of pure Python configs lazy
    preprocessor.setdefault('type', 'ClsDataPreprocessor')  # mmpretrain's default
    model = dict(type='FileModel', path=str(args.model), data_preprocessor=preprocessor)
    try:
        file = FileModel(args.model, None)
        about = file.about
        check_config(config, about, preprocessor)
        precision, labels = about.get('precision', 'float32'), about.get('labels')
        if args.checkpoint:
            check_checkpoint(config, args.checkpoint)
        engine = file.session.runtime
        engine = engine if precision == 'float32' else f'{engine}, {precision}'
        scores = {engine: evaluate(config, args.work_dir, model=model, labels=labels)}
    except KeyError as missing:
        sys.exit(
            f'{args.model} was not evaluated. The metrics of the config need {missing}, which the test data '
            f'do not have: they must be labelled.'
        )
    except (CheckpointError, ValueError, OSError, RuntimeError) as error:
        sys.exit(f'{args.model} was not evaluated. {error}')
    report(scores, args.work_dir)
    if args.checkpoint:
        scores['PyTorch'] = evaluate(config, args.work_dir, checkpoint=args.checkpoint)
        report(scores, args.work_dir)


def check_checkpoint(config, path):
    """Check that PyTorch can load a checkpoint completely, before the file is scored.

    Raises:
        CheckpointError, RuntimeError, OSError: If it cannot.
    """
    content = fetch_checkpoint(path)
    if is_fused(backbone_part(content.get('state_dict', content))):
        raise CheckpointError(f'{path} is in the deployed form; give the one that it was made from.')
    build.load_model(config, path)


def report(scores, work_dir):
    """Print a table of ``scores`` (dict by engine), and write all of them to a file."""
    path = Path(work_dir) / 'scores.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {
        engine: {name: plain(each) for name, each in flatten(found)} for engine, found in scores.items()
    }
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False, default=str) + '\n', encoding='utf-8')
    print(table(scores))
    print(f'All numbers: {path.resolve()}')


def table(scores):
    """Table of scores (dict by engine) with a row per engine, or with a row per score if there are many."""
    values = {engine: dict(flatten(each)) for engine, each in scores.items()}
    names = list(dict.fromkeys(name for each in values.values() for name in each))
    if not names:
        return '\nThe metrics of the config give no scores.'
    lines = [['engine', *names]]
    lines += [[engine, *(cell(each.get(name)) for name in names)] for engine, each in values.items()]
    if len(names) > MOST_COLUMNS:
        lines = [['score', *values], *([name, *cells] for name, *cells in list(zip(*lines))[1:])]
    texts = [f'| {" | ".join(str(text).replace("|", "/") for text in line)} |' for line in lines]
    return '\n'.join(['', texts[0], '|---' * len(lines[0]) + '|', *texts[1:]])


def flatten(scores, prefix=''):
    """Pairs of name and value from nested dicts; names are joined as ``a/b``."""
    for name, value in scores.items():
        if isinstance(value, dict):
            yield from flatten(value, f'{prefix}{name}/')
        else:
            yield f'{prefix}{name}', value


def plain(value):
    """Convert a value for JSON: arrays and tensors become lists of numbers."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def cell(value):
    """A value as short text: a number, the mean and count of several numbers, or a shape."""
    value = plain(value)
    if isinstance(value, list):
        try:
            array = np.array(value, float)
        except (TypeError, ValueError):  # strings or ragged lists
            return f'{len(value)} values'
        if array.ndim > 1 or not array.size:
            return f'{" x ".join(map(str, array.shape))} values'
        if array.size != 1:
            mean = array[~np.isnan(array)].mean() if not np.isnan(array).all() else float('nan')
            return f'mean of {array.size}: {mean:.4f}'
        value = array.item()
    if isinstance(value, float):
        return f'{value:.4f}'
    text = ' '.join(str(value).split())
    return text if len(text) <= LONGEST_TEXT else f'{text[:LONGEST_TEXT]}...'


if __name__ == '__main__':
    main()
