# The authors' teacher, TResNet-L v2 (top-1 83.9 according to its file name), from timm. Its images are RGB
# from 0 to 1. Without access to huggingface.co, set `pretrained=False, checkpoint_path=FILE`.
teacher = dict(
    type='TimmClassifier',
    model_name='tresnet_v2_l',
    pretrained=True,
    data_preprocessor=dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], to_rgb=True),
)
