"""Exporters of ``export.py`` for files that contain the post-processing: ONNX and torch.export."""

import json
import shutil

try:
    import onnx
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401
except ImportError as missing:
    raise SystemExit(
        f'export.py: error: {missing}. It needs: python -m pip install onnx onnxruntime onnxscript'
    ) from None

import torch
from reduced_precision import check_difference, print_gain, warn_of_difference
from runtimes import library_of

from mmmobilemamba.deployment import build, onnx_file, precision, probes, proof, report
from mmmobilemamba.deployment.graphs import graph_of
from mmmobilemamba.ops.cpu.build import BuildError, find_library
from mmmobilemamba.utils.quiet import quietly

TOPK = 5


class OnnxExporter:
    """Exports ONNX files with post-processing, for any batch size and optionally any image size.

    Args:
        args (Namespace): The command line.
    """

    def __init__(self, args):
        self.args = args
        self.library = None  # of custom operators

    def make_graph(self, model, task, about, image):
        """Build the graph to export and an input for it, from a normalised image (N, C, H, W)."""
        graph = build.make_graph(model, task, self.args.topk or TOPK, self.args.logits)
        if self.args.dynamic and getattr(graph, 'slides', False):
            raise build.DeploymentError(
                "test_cfg.mode is 'slide', whose windows depend on the size: give --size HEIGHT WIDTH "
                'instead of --dynamic, or --cfg-options model.test_cfg.mode=whole.'
            )
        if self.args.preprocess:
            graph, image = build.with_preprocessing(graph, about), proof.to_pixels(image)
        return graph.eval(), image

    def make(self, graph, about, image, path):
        """Write a file, print its operators, and return a function that runs it with its probes."""
        custom = 'custom_ops' in about
        probed = onnx_file.to_onnx(probes.Recorded(graph), image, about['size'] is None, custom)
        count = len(graph_of(graph).output_names)
        proto = onnx_file.without_probes(probed, count)
        counts = onnx_file.operators(proto, custom)
        print(f'{sum(counts.values())} nodes: {", ".join(f"{n} {name}" for name, n in counts.most_common())}')
        onnx_file.write(proto, path, about)
        session = onnx_file.open_session(path, library=self.library)
        if len(probed.graph.output) > count:
            session = onnx_file.open_session(probed.SerializeToString(), library=self.library)

        def run(image):
            found = [torch.from_numpy(x) for x in onnx_file.run(session, image)]
            return found[:count], found[count:]

        return run

    def finish(self, graph, about, image, path):
        """Do nothing: the compared file is already final."""

    def lower_precision(self, graph, about, image, path, images):
        """Replace the file at ``path`` by one in float16 or int8, and print the loss and the gain.

        Raises:
            DeploymentError: If the loss is too large.
        """
        full = onnx.load(str(path))
        proofs = proof.test_images(build.size_of(image), about, extreme=False)
        sets = {'images of the proof': [image.numpy() for _, image in proofs]}
        if images:
            sets[f'{len(images)} images of {self.args.int8}'] = images
            kind, reduced = 'int8', precision.to_int8(full, images, self.library)
        else:
            kind, reduced = 'float16', precision.to_float16(full)
        print(f'{kind} against float32, both in ONNX Runtime:')
        pair = report.Pair(about['task'], full, reduced, self.library)
        for name, batches in sets.items():
            difference = pair.difference(batches)
            print(f'  {name}: {difference}')
            check_difference(difference, kind)
        before, after = pair.milliseconds(next(iter(batches)))
        print_gain([proto.ByteSize() for proto in (full, reduced)], before, after)
        warn_of_difference(difference, kind)
        onnx_file.remove(path)
        onnx_file.write(reduced, path, dict(about, precision=kind))

    def check_place(self, path):
        """Check that there is no folder at ``path``, or where the library of custom operators will be.

        Raises:
            DeploymentError: If there is.
        """
        for place in (path, library_of(path)) if self.args.custom_ops else (path,):
            if place.is_dir():
                raise build.DeploymentError(f'{place} is a folder: choose another OUT.')

    def find_operators(self):
        """Find or build the library of custom operators.

        Raises:
            DeploymentError: If it cannot be built.
        """
        try:
            self.library = find_library()
        except BuildError as error:
            raise build.DeploymentError(f'The custom operators cannot be built: {error}.') from error

    def move(self, path, target):
        """Move the file at ``path`` to ``target``, with the library beside it, replacing what is there."""
        if self.library:
            copy = library_of(path)
            shutil.copyfile(self.library, copy)
            copy.replace(library_of(target))  # a program that uses the former one keeps it
        onnx_file.move(path, target)

    def size(self, path):
        """Size of the file at ``path`` in bytes."""
        return path.stat().st_size


class ProgramExporter(OnnxExporter):
    """Exports programs of torch.export, for one image size and any batch size."""

    def make(self, graph, about, image, path):
        """Write a program, read it back, and return a function that runs it with its probes."""
        program = onnx_file.to_program(graph, image, dynamic_sizes=False)
        with quietly():
            torch.export.save(program, path, extra_files={'mmmobilemamba.json': json.dumps(about)})
            program = probed = torch.export.load(path).module()
        if probes.has_probes(graph, image):  # a second program has them, only for the comparison
            probed = onnx_file.to_program(probes.Recorded(graph), image, dynamic_sizes=False).module()

        def run(image):
            with torch.no_grad():
                outputs = program(image)
                return outputs, probed(image)[len(outputs) :]

        return run
