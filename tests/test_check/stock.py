"""Stock configs of mmdet with MobileMamba as the backbone, on the digits scenes, as small as possible."""

from mmengine.config import Config
from mmengine.runner import Runner

STOCK = dict(
    retinanet='retinanet/retinanet_r50_fpn_1x_coco.py',
    fcos='fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    faster_rcnn='faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    yolox='yolox/yolox_s_8xb8-300e_coco.py',
)
# With start_level: the stock FPNs of RetinaNet and FCOS skip the first map of ResNet.
START = dict(retinanet=', start_level=0', fcos=', start_level=0')
LINES = """
_base_ = 'mmdet::{base}'
custom_imports = dict(imports=['mmmobilemamba'])
backbone = dict(_delete_=True, type='MobileMamba', arch='t2', out_indices=(0, 1, 2))
model = dict(backbone=backbone, neck=dict(in_channels=[144, 272, 368]{start}))
"""
# A user's data instead of COCO.
DATA = """
names = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
steps = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackDetInputs'),
]
digits = dict(type='CocoDataset', data_root={root!r}, metainfo=dict(classes=names), pipeline=steps)
digits.update(serialize_data=False)
train_dataloader = dict(
    _delete_=True,
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **digits, ann_file='annotations/instances_train.json', data_prefix=dict(img='train/'), indices=2
    ),
)
val_dataloader = val_evaluator = val_cfg = test_dataloader = test_evaluator = test_cfg = None
train_cfg = dict(_delete_=True, by_epoch=True, max_epochs=1)
param_scheduler = None
custom_hooks = None
optim_wrapper = dict(optimizer=dict(lr=1e-5))
"""


def swapped(name, folder, scenes, more=()):
    """Write a config with additional lines to a folder; returns its path."""
    text = LINES.format(base=STOCK[name], start=START.get(name, ''))
    path = folder / f'{name}_{len(list(folder.iterdir()))}.py'
    root = str(scenes / 'data/digits_scenes/coco') + '/'
    # Repeated settings are merged, as in a config that inherits another one.
    path.write_text(text + DATA.format(root=root))
    if more:
        base, path = path, path.with_name(f'{path.stem}_mended.py')
        path.write_text('\n'.join([f'_base_ = {str(base)!r}', *more]) + '\n')
    return path


def build_runner(path, **changes):
    """Build the Runner of a config; its work_dir is beside the config."""
    # A run formats its config several times, which takes a second each.
    config = Config(Config.fromfile(path).to_dict(), format_python_code=False)
    config.merge_from_dict(dict(changes))
    config.work_dir = str(path.with_suffix(''))
    config.experiment_name = path.stem
    config.visualizer.name = str(
        path
    )  # otherwise mmengine gives the visualizer of an earlier test, and its folder
    config.log_level = 'ERROR'
    config.default_hooks.checkpoint = None
    return Runner.from_cfg(config)
