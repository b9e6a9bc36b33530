# Crops of the digits scenes, in ImageNet's layout. Made by tools/dataset_converters/digits_scenes.py.
# A twin has its data from here and the rest from its parent, so these names must not be the parent's.
# In the order of the folders' names, by which CustomDataset numbers them.
names = ('eight', 'five', 'four', 'nine', 'one', 'seven', 'six', 'three', 'two', 'zero')
digits = dict(
    _delete_=True,  # the parent's ImageNet knows ImageNet's own classes only
    type='CustomDataset',
    data_root='data/digits_scenes/imagenet',
    metainfo=dict(classes=names),
)
digits_size = 64
digits_train = dict(
    **digits,
    data_prefix='train',
    pipeline=[
        dict(type='LoadImageFromFile'),
        # No flip and no tight crop: a digit has a right way round, and all of it counts.
        dict(type='RandomResizedCropAndInterpolation', scale=digits_size, crop_ratio_range=(0.6, 1.0)),
        dict(type='PackInputs'),
    ],
)
digits_val = dict(
    **digits,
    data_prefix='val',
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(digits_size, digits_size), backend='pillow', interpolation='bicubic'),
        dict(type='PackInputs'),
    ],
)
