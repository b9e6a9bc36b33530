# Digits scenes as COCO, for the twins of the detectors. Made by tools/dataset_converters/digits_scenes.py.
# A twin has its data from here and the rest from its parent, so these names must not be the parent's.
digits_root = 'data/digits_scenes/coco/'
names = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
digits = dict(data_root=digits_root, metainfo=dict(classes=names))
digits_train = dict(
    **digits,
    ann_file='annotations/instances_train.json',
    data_prefix=dict(img='train/'),
    indices=2000,  # scenes; all of them take longer than such a training may
)
digits_val = dict(
    **digits,
    ann_file='annotations/instances_val.json',
    data_prefix=dict(img='val/'),
)
digits_evaluator = dict(ann_file=digits_root + 'annotations/instances_val.json')

randomness = dict(seed=0)  # so small a training depends on it
