# Digits scenes as ADE20K, for the twins of the segmentors. Made by tools/dataset_converters/digits_scenes.py.
# A twin has its data from here and the rest from its parent, so these names must not be the parent's.
names = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
palette = [
    [64, 64, 64],
    [230, 25, 75],
    [60, 180, 75],
    [255, 225, 25],
    [0, 130, 200],
    [245, 130, 48],
    [145, 30, 180],
    [70, 240, 240],
    [240, 50, 230],
    [210, 245, 60],
    [250, 190, 212],
]
digits = dict(
    type='BaseSegDataset',  # ADE20KDataset knows ADE20K's own classes only
    data_root='data/digits_scenes/ade',
    metainfo=dict(classes=('background', *names), palette=palette),
    img_suffix='.png',
    reduce_zero_label=True,
)
digits_size = (224, 224)  # of scenes of 160 px: the finer the network sees strokes, the sooner it learns them
digits_train = dict(
    **digits,
    indices=2000,  # scenes, of which such a training sees each four times
    # No random change of size or colours, which pay only in a long training, and no flip: a digit has a
    # right way round.
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', reduce_zero_label=True),
        dict(type='Resize', scale=digits_size, keep_ratio=True),
        dict(type='PackSegInputs'),
    ],
)
digits_val = dict(
    **digits,
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=digits_size, keep_ratio=True),
        dict(type='LoadAnnotations', reduce_zero_label=True),
        dict(type='PackSegInputs'),
    ],
)
digits_train_dataloader = dict(batch_size=4, num_workers=1, dataset=digits_train)
digits_val_dataloader = dict(batch_size=8, num_workers=1, dataset=digits_val)

randomness = dict(seed=0)  # so small a training depends on it
