"""What ``zoo_demo.py`` runs: the small twins, the scores that they have to reach, and their time limits."""

from typing import NamedTuple, Optional


class Metric(NamedTuple):
    """One score: its key in the file of ``mim test``, its name in the table, and the least it has to be."""

    key: str
    name: str
    target: float


class Task(NamedTuple):
    """One twin.

    ``needs`` names the task whose checkpoint it reads, ``option`` the config's key for that. ``limit`` is the
    most that training and testing may take together, in minutes on two CPU cores; None for what is no task
    of its own in the paper. ``on_demand`` tasks run only by name.
    """

    name: str
    title: str
    package: str
    config: str  # pattern below configs/, of one file
    metrics: tuple
    needs: Optional[str] = None
    option: Optional[str] = None
    limit: Optional[float] = 12.0
    on_demand: bool = False


TOP1 = (Metric('accuracy/top1', 'top-1', 95.0),)
BOX, MASK = Metric('coco/bbox_mAP', 'bbox mAP', 0.50), Metric('coco/segm_mAP', 'segm mAP', 0.45)
MIOU = (Metric('mIoU', 'mIoU', 60.0),)
START = dict(needs='pretraining', option='model.backbone.init_cfg.checkpoint')
POINT = dict(START, on_demand=True)  # the twin of a starting point, which is no task of the paper
TASKS = (  # a task stands behind the one that it needs
    Task('classification', 'Classification', 'mmpretrain', 'mobilemamba/mobilemamba-t2_*e_digits*.py', TOP1),
    Task(
        'pretraining',
        'Classification, one epoch',
        'mmpretrain',
        'mobilemamba/mobilemamba-t2_*-pretrain_digits*.py',
        (TOP1[0]._replace(target=85.0),),
        limit=None,
    ),
    Task(
        'teacher',
        'Classification, teacher',
        'mmpretrain',
        'mobilemamba/mobilemamba-b1_*e_digits*.py',
        TOP1,
        limit=None,
    ),
    Task(
        'distillation',
        'Classification, taught',
        'mmpretrain',
        'mobilemamba/mobilemamba-t2_*-kd_digits*.py',
        TOP1,
        needs='teacher',
        option='model.teacher.init_cfg.checkpoint',
        limit=None,
    ),
    Task(
        'retinanet', 'RetinaNet', 'mmdet', 'retinanet/*2e_digits*.py', (BOX._replace(target=0.65),), **START
    ),
    Task('mask_rcnn', 'Mask R-CNN', 'mmdet', 'mask_rcnn/*digits*.py', (BOX, MASK), **START),
    Task('ssdlite', 'SSDLite', 'mmdet', 'ssd/*digits*.py', (BOX._replace(target=0.35),), **START),
    Task('deeplabv3', 'DeepLabv3', 'mmseg', 'deeplabv3/*digits*.py', MIOU, **START),
    Task('sem_fpn', 'Semantic FPN', 'mmseg', 'sem_fpn/*1k_digits*.py', MIOU, **START),
    Task('pspnet', 'PSPNet', 'mmseg', 'pspnet/*digits*.py', MIOU, **START),
    Task('faster_rcnn', 'Faster R-CNN', 'mmdet', 'faster_rcnn/*digits*.py', (BOX,), **POINT),
    Task('fcos', 'FCOS', 'mmdet', 'fcos/*digits*.py', (BOX,), **POINT),
    Task('rtmdet', 'RTMDet', 'mmdet', 'rtmdet/*digits*.py', (BOX,), **POINT),
    Task('yolox', 'YOLOX', 'mmdet', 'yolox/*digits*.py', (BOX,), **POINT),
    Task('segformer', 'SegFormer', 'mmseg', 'segformer/*digits*.py', MIOU, **POINT),
    Task('upernet', 'UperNet', 'mmseg', 'upernet/*digits*.py', MIOU, **POINT),
)
