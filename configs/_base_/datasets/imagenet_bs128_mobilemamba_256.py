# ImageNet-1k at 256 pixels, with the transforms that the authors use through timm's create_transform.
dataset_type = 'ImageNet'
data_preprocessor = dict(
    num_classes=1000,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
bgr_mean = data_preprocessor['mean'][::-1]
bgr_std = data_preprocessor['std'][::-1]

# Decoded with Pillow, ignoring EXIF orientation, as in timm. 16-bit greyscale is reduced to its upper 8 bits.
load = dict(type='PillowLoadImageFromFile', color_type='color_ignore_orientation')


def rand_augment(interpolation):
    return dict(
        type='RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[round(x) for x in bgr_mean], interpolation=interpolation),
    )


train_pipeline = [
    load,
    dict(type='RandomResizedCropAndInterpolation', scale=256),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    # Random interpolation, as in timm; mmpretrain's RandAugment supports only one at a time.
    dict(type='RandomChoice', transforms=[[rand_augment('bilinear')], [rand_augment('bicubic')]]),
    dict(
        type='RandomErasing',
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=bgr_mean,
        fill_std=bgr_std,
    ),
    dict(type='PackInputs'),
]
test_pipeline = [
    load,
    dict(type='ResizeEdge', scale=int(256 / 0.875), edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=256),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    drop_last=True,
    dataset=dict(type=dataset_type, data_root='data/imagenet', split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=125,
    num_workers=8,
    dataset=dict(type=dataset_type, data_root='data/imagenet', split='val', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
