"""Exporter of ``export.py`` for all runtimes except ONNX Runtime and torch.export."""

from functools import partial

import torch
from reduced_precision import check_difference, print_gain, warn_of_difference
from runtimes import RuntimeFileError, open_file

from mmmobilemamba.deployment import build, proof, report
from mmmobilemamba.deployment.graphs import graph_of
from mmmobilemamba.deployment.raw_graphs import make_raw_graph


class RuntimeExporter:
    """Exports files for a runtime, of one image size, that end before the post-processing.

    Args:
        args (Namespace): The command line.
        target (Target): The runtime.
    """

    def __init__(self, args, target):
        self.args, self.target = args, target

    def make_graph(self, model, task, about, image):
        """Build the graph to export and an input for it, from a normalised image (N, C, H, W).

        The graph of a segmentor also outputs logits, for the comparison; :meth:`finish` removes them.
        """
        build.check_supported(model, task)
        outputs = self.outputs_of_segmentor(with_logits=True)
        graph = make_raw_graph(model, task, image, outputs)
        if hasattr(graph, 'candidates'):
            about['candidates'] = graph.candidates
        pixels = self.args.preprocess and self.target.takes_pixels
        about['input'] = dict(layout='NHWC' if pixels else 'NCHW', dtype='uint8' if pixels else 'float32')
        self.target.check(graph, build.size_of(image))
        if self.args.preprocess:
            graph = build.with_preprocessing(graph, about, self.target.takes_pixels)
            image = proof.to_pixels(image, self.target.takes_pixels)
        return graph.eval(), image

    def outputs_of_segmentor(self, with_logits):
        """Names of the outputs of a segmentor."""
        if with_logits or self.args.logits:
            return tuple(dict.fromkeys((*self.target.segmentation, 'logits')))
        return self.target.segmentation

    def make(self, graph, about, image, path):
        """Write the files, and return a function that runs them with probes."""
        self.target.write(graph, image, path, about)
        session = self.open(path)

        def run(image):
            found = outputs_of(session, image.numpy())
            return list(found.values()), probes_of(about['task'], found)

        return run

    def open(self, path):
        """Open files in their runtime (Session).

        Raises:
            DeploymentError: If they cannot be opened.
        """
        try:
            return self.target.prove_session(path) or open_file(path, threads=1)
        except RuntimeFileError as error:
            raise build.DeploymentError(str(error)) from error

    def finish(self, graph, about, image, path):
        """Rewrite a segmentor's files without logits, unless ``--logits`` is set, and compare the classes.

        Raises:
            DeploymentError: If a class is not among the best in PyTorch.
        """
        raw = graph_of(graph)
        wanted = list(self.outputs_of_segmentor(with_logits=False))
        if about['task'] != 'segmentation' or raw.output_names == wanted:
            return
        raw.output_names = wanted
        self.target.write(graph, image, path, about)
        session = self.open(path)
        raw.output_names = ['logits']
        for name, batch in proof.test_images(build.size_of(image), about, extreme=False):
            with torch.no_grad():
                logits = graph(batch)
            classes = outputs_of(session, batch.numpy())['classes']
            error = proof.largest_error(graph, batch, logits, [*logits, classes[:, None].long()])
            if not error <= proof.TOLERANCE:
                raise build.DeploymentError(f'For {name} a class without its logits is off by {error:.1e}.')
        raw.output_names = wanted

    def lower_precision(self, graph, about, image, path, images):
        """Replace the files at ``path`` by ones in float16 or int8, and print the loss and the gain.

        Raises:
            DeploymentError: If the loss is too large, or the runtime's tools fail.
        """
        kind = 'float16' if self.args.fp16 else 'int8'
        full, reduced = path, path.with_name(f'{kind}{path.suffix}')
        sets = {'images of the proof': self.proof_batches(about, image)}
        if images:
            sets[f'{len(images)} images of {self.args.int8}'] = images
        self.target.write(graph, image, reduced, dict(about, precision=kind), images or ())
        sessions = [self.open(each) for each in (full, reduced)]
        print(f'{kind} against float32, both in {self.target.name}:')
        for name, batches in sets.items():
            difference = self.difference(about['task'], sessions, batches)
            print(f'  {name}: {difference}')
            check_difference(difference, kind)
        batch = next(iter(batches))[:1]
        times = report.milliseconds([partial(session.run, batch) for session in sessions])
        print_gain(map(self.target.size, (full, reduced)), *times)
        warn_of_difference(difference, kind)
        self.target.move(reduced, full)

    def proof_batches(self, about, image):
        """Test images of the comparison (list[ndarray])."""
        return [x.numpy() for _, x in proof.test_images(build.size_of(image), about, extreme=False)]

    def difference(self, task, sessions, batches):
        """The :class:`~.report.Difference` of two sessions over some batches."""
        total = report.Difference(choices=report.CHOICES.get(task, ''))
        for batch in batches:
            expected, found = (outputs_of(session, batch) for session in sessions)
            total += report.raw_difference(task, expected, found)
        return total

    def check_place(self, path):
        """Check that ``path`` is free or has files of a network.

        Raises:
            DeploymentError: If something else is there.
        """
        self.target.check_place(path)

    def move(self, path, target):
        """Move the files at ``path`` to ``target``, replacing those there."""
        self.target.move(path, target)

    def size(self, path):
        """Size of the files at ``path`` in bytes."""
        return self.target.size(path)


def outputs_of(session, batch):
    """Outputs by name (dict[str, Tensor]) of a session for a batch (ndarray).

    Raises:
        DeploymentError: If the runtime cannot compute them.
    """
    try:
        return {name: torch.from_numpy(value) for name, value in session.run(batch).items()}
    except RuntimeFileError as error:
        raise build.DeploymentError(str(error)) from error


def probes_of(task, found):
    """Values that a graph of :mod:`.raw_graphs` passes to probes, from outputs by name; see proof.Replay."""
    if task != 'segmentation':
        return []
    classes = found.get('classes')
    classes = found['logits'].argmax(1) if classes is None else classes.long()
    return [found['logits'], classes[:, None]]
