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

# Gentle forms of what leaves a digit the digit that it is: no flips, no solarised colours.
policies = [
    dict(type='Rotate', magnitude_range=(0, 20)),
    dict(type='Shear', magnitude_range=(0, 0.25), direction='horizontal'),
    dict(type='Shear', magnitude_range=(0, 0.25), direction='vertical'),
    dict(type='Translate', magnitude_range=(0, 0.15), direction='horizontal'),
    dict(type='Translate', magnitude_range=(0, 0.15), direction='vertical'),
    dict(type='Contrast', magnitude_range=(0, 0.5)),
    dict(type='Brightness', magnitude_range=(0, 0.5)),
    dict(type='ColorTransform', magnitude_range=(0, 0.5)),
]
digits_train = dict(
    **digits,
    data_prefix='train',
    pipeline=[
        dict(type='LoadImageFromFile'),
        # No flip and no tight crop: a digit has a right way round, and all of it counts.
        dict(type='RandomResizedCropAndInterpolation', scale=digits_size, crop_ratio_range=(0.6, 1.0)),
        dict(
            type='RandAugment',
            policies=policies,
            num_policies=2,
            total_level=10,
            magnitude_level=5,
            magnitude_std=0.5,
        ),
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
