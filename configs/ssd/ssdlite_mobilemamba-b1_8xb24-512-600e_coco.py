# SSDLite with MobileMamba-B1 at 512 pixels, 600 epochs of COCO 2017; authors: box AP 29.5.
_base_ = './ssdlite_mobilemamba-b1_8xb24-320-600e_coco.py'

# The anchors are those for 320 pixels, as in the authors' config.
input_size = 512
train_pipeline = _base_.train_pipeline
train_pipeline[4]['scale'] = (input_size, input_size)
test_pipeline = _base_.test_pipeline
test_pipeline[1]['scale'] = (input_size, input_size)
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
