# The authors' teacher, TResNet-L v2 (top-1 83.9 by the name of its file), here by timm. Its images are RGB
# from 0 to 1. Where huggingface.co is out of reach: `pretrained=False, checkpoint_path=FILE`.
teacher = dict(
    type='TimmClassifier',
    model_name='tresnet_v2_l',
    pretrained=True,
    data_preprocessor=dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], to_rgb=True),
)
