"""What is wrong between a config, its data and its checkpoints, and the lines that mend it.

``mim run mmmobilemamba check CONFIG`` runs all of it, and every training with our backbone the part about
the maps of a model, once, before its first step.

===============  ===================================================================
``finding``      one result of a check, and lines of config as text
``maps``         the maps of a model for a blank image, of which only shapes are computed
``strides``      strides and number of the maps against those of anchors, points and RoI extractors
``widths``       channels against those that necks and heads expect
``sides``        sides of images that a neck cannot take
``start``        these four at the start of a training
``data``         files, annotations, classes and masks
``checkpoints``  ``load_from``, ``init_cfg``, and a checkpoint to test
``schedule``     batches, iterations, warm-up, learning rate
``kernels``      what computes the operations of the network here
``whole``        all of them, for a config
===============  ===================================================================

Each imports only from those above it. The backbone imports ``start``, so what is above it imports no network.
"""
