"""A folder with data and checkpoints for every config, and configs reduced to a few iterations.

The digits scenes replace COCO, ADE20K and ImageNet in their respective layouts, so that datasets, classes
and heads are those of the config.
"""

import json
import os
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from ..conftest import ROOT, authors_checkpoint, load_script
from ..helpers import write_digits_start

CONFIGS = sorted(path for path in (ROOT / 'configs').glob('*/*.py') if path.parent.name != '_base_')
# Folders of untrained recipes, and their configs.
UNTRAINED = {'faster_rcnn', 'fcos', 'rtmdet', 'yolox', 'dino', 'upernet', 'segformer', 'mask2former'}
STARTING_POINTS = [path for path in CONFIGS if path.parent.name in UNTRAINED]
SPLITS = dict(train='training', val='validation')
TRESNET = 'checkpoints/tresnet_v2_l.pth'
SIDE = 128  # px; larger sizes in a config are reduced to it


def make(folder):
    """Fill ``folder`` with 8 training and 4 validation scenes and with checkpoints."""
    make_data(folder)
    make_checkpoints(folder)
    write_digits_start(folder)


def make_data(folder):
    """Write the scenes in their own layout and as COCO, ADE20K and ImageNet."""
    scenes = folder / 'data/digits_scenes'
    load_script('tools/dataset_converters/digits_scenes.py').main([str(scenes), '--train', '8', '--val', '4'])
    for split in SPLITS:
        make_coco(scenes / 'coco', folder / 'data/coco', split)
        make_ade(scenes / 'ade', folder / 'data/ade/ADEChallengeData2016', split)
        make_imagenet(scenes / 'imagenet', folder / 'data/imagenet', split)


def make_coco(scenes, out, split):
    """COCO 2017 with its file names and 80 categories, the first ten of which are the digits."""
    from mmdet.datasets import CocoDataset

    (out / 'annotations').mkdir(parents=True, exist_ok=True)
    os.symlink(scenes / split, out / f'{split}2017')
    content = json.loads((scenes / f'annotations/instances_{split}.json').read_text())
    content['categories'] = [dict(id=i, name=n) for i, n in enumerate(CocoDataset.METAINFO['classes'], 1)]
    (out / f'annotations/instances_{split}2017.json').write_text(json.dumps(content))


def make_ade(scenes, out, split):
    """ADE20K with ``.jpg`` images and unchanged label maps."""
    for kind, suffix in (('images', '.jpg'), ('annotations', '.png')):
        (out / kind / SPLITS[split]).mkdir(parents=True)
        for path in (scenes / kind / SPLITS[split]).iterdir():
            os.symlink(path, out / kind / SPLITS[split] / f'{path.stem}{suffix}')


def make_imagenet(scenes, out, split):
    """ImageNet with file lists, of classes 0 to 9."""
    (out / 'meta').mkdir(parents=True, exist_ok=True)
    os.symlink(scenes / split, out / split)
    paths = sorted((scenes / split).glob('*/*.png'))
    labels = {name: label for label, name in enumerate(sorted({path.parent.name for path in paths}))}
    lines = [f'{path.parent.name}/{path.name} {labels[path.parent.name]}' for path in paths]
    (out / 'meta' / f'{split}.txt').write_text('\n'.join(lines))


def make_checkpoints(folder):
    """Write the authors' checkpoints, rebuilt from names and shapes, and an untrained TResNet-L v2."""
    import timm

    (folder / 'checkpoints').mkdir()
    for arch in ('b1', 'b4'):
        torch.save(authors_checkpoint(arch), folder / f'checkpoints/mobilemamba_{arch}.pth')
    torch.save(timm.create_model('tresnet_v2_l').state_dict(), folder / TRESNET)


def make_teacher(teacher):
    """Write the checkpoint of another of our configs where ``teacher`` expects it."""
    file = Path(teacher.init_cfg.checkpoint)
    if not file.exists():
        init_default_scope('mmpretrain')
        file.parent.mkdir(parents=True)
        torch.save(dict(state_dict=MODELS.build(teacher).state_dict()), file)


def cut(config, side=SIDE):
    """Limit the sizes in a pipeline or preprocessor to ``side`` pixels."""
    if isinstance(config, (list, tuple)):
        return [cut(item, side) for item in config]
    if not isinstance(config, dict):
        return config
    result = {}
    for key, value in config.items():
        if key in ('scale', 'crop_size', 'size'):
            several = isinstance(value, (list, tuple))
            value = tuple(min(v, side) for v in value) if several else min(value, side)
        if key == 'scales':
            value = [cut(dict(scale=scale), side)['scale'] for scale in value]
        result[key] = cut(value, side) if key in ('transforms', 'transform', 'batch_augments') else value
    return result


def small_config(path, work_dir, iterations=1, batch_size=2, processes=1):
    """Reduce a config to a few iterations on small images on a CPU, followed by a test.

    Args:
        path (Path): The config.
        work_dir (Path): The output folder of the run.
        iterations (int): Training iterations, in one epoch unless the loop is iteration-based.
        batch_size (int): Batch size of each process.
        processes (int): Number of processes.

    Returns:
        Config: A config for :meth:`mmengine.runner.Runner.from_cfg`, in the folder filled by :func:`make`.
    """
    config = Config.fromfile(path)
    for split, count in (('train', iterations * batch_size * processes), ('test', 2)):
        loader = config[f'{split}_dataloader']
        loader.update(batch_size=min(batch_size, count), num_workers=0, persistent_workers=False)
        dataset = loader.dataset
        while 'dataset' in dataset:
            if 'times' in dataset:
                dataset.times = 1
            dataset = dataset.dataset
        dataset.update(indices=count, pipeline=cut(dataset.pipeline))
    limit = 'max_iters' if 'max_iters' in config.train_cfg else 'max_epochs'
    config.train_cfg[limit] = iterations if limit == 'max_iters' else 1
    config.update(val_cfg=None, val_dataloader=None, val_evaluator=None)

    if config.optim_wrapper.type == 'AmpOptimWrapper':  # requires a GPU
        config.optim_wrapper.type = 'OptimWrapper'
    for preprocessor in (config.model.get('data_preprocessor'), config.get('data_preprocessor')):
        if preprocessor is not None:
            preprocessor.update(cut(preprocessor))
    if 'teacher' in config.model:
        config.model.teacher_size = min(config.model.teacher_size, SIDE)
        if 'init_cfg' in config.model.teacher:
            make_teacher(config.model.teacher)
        else:
            config.model.teacher.update(pretrained=False, checkpoint_path=TRESNET)
    for test_cfg in (config.model.get('test_cfg'), config.model.get('test_cfg', {}).get('rcnn')):
        if test_cfg and 'score_thr' in test_cfg:
            test_cfg.score_thr = 0.0  # scores are low after such a short training
    if 'rcnn' in (config.model.get('train_cfg') or {}):
        stages = config.model.train_cfg.rcnn
        for stage in stages if isinstance(stages, list) else [stages]:
            stage.sampler.num = 64  # RoIs per image, the largest cost
    config.default_hooks.checkpoint.update(interval=-1, save_last=False)
    config.update(work_dir=str(work_dir), experiment_name=f'{path.stem}-{work_dir.name}', log_level='ERROR')
    config.randomness = dict(seed=0)
    return config
