"""Open files of ``export.py`` in their runtimes. Needs only NumPy and the runtime.

    session = open_file('network.mnn', threads=1)
    outputs = session.run(batch)

Part of ``infer.py``, which runs without the rest of the repository.
"""

import hashlib
import json
import platform
import sys
from importlib import import_module
from pathlib import Path

import numpy as np

KEY = 'mmmobilemamba'  # of the metadata in an ONNX file
DOMAIN = 'mmmobilemamba'  # of the operators that `export.py --custom-ops` writes
SHARED_BATCH = ('.onnx', '.xml')  # files with any batch size


class RuntimeFileError(RuntimeError):
    """A file cannot be opened or run; the message says why and what to do."""


class Session:
    """A file in its runtime.

    Args:
        path (Path): The file.
        threads (int, optional): Number of CPU threads; the runtime's default if not given.

    Attributes:
        runtime (str): Name of the runtime.
        packages (str): Packages to install for it.
        about (dict): Metadata of the file.
    """

    runtime: str
    packages: str

    def __init__(self, path, threads=None):
        self.path = path
        try:
            self.open(threads)
        except RuntimeFileError:
            raise
        except ImportError as error:
            raise RuntimeFileError(
                f'{path.name} is for {self.runtime}: {error}. It needs: python -m pip install {self.packages}'
            ) from error
        except Exception as error:  # errors of the runtimes have no common class
            raise RuntimeFileError(
                f'{self.runtime} cannot open {path}, which is damaged, incomplete or of another kind: {error}'
            ) from error
        self.about = self.read_about()
        self.check_parts()

    def open(self, threads):
        """Load the file."""
        raise NotImplementedError

    def compute(self, batch):
        """The outputs (list[ndarray]), in order, for a batch; one image, unless the file accepts more."""
        raise NotImplementedError

    def read_about(self):
        """Metadata of the network (dict); empty for an ONNX file without metadata."""
        path = self.path.with_name(f'{self.path.name}.json')
        try:
            about = json.loads(path.read_text(encoding='utf-8'))
        except (OSError, ValueError) as error:
            raise RuntimeFileError(
                f'{path}, which belongs beside {self.path.name} and describes it, cannot be read: {error}'
            ) from error
        if not isinstance(about, dict) or not isinstance(about.get('outputs'), list):
            raise RuntimeFileError(f'{path} does not describe {self.path.name}: export the network again.')
        return about

    def parts(self):
        """The files of the network (list[Path])."""
        return [self.path]

    def check_parts(self):
        """Check that no file has changed since the export, or belongs to another network.

        Raises:
            RuntimeFileError: If one does.
        """
        for part, expected in zip(self.parts(), self.about.get('sha256', ())):
            if part.is_file() and hashlib.sha256(part.read_bytes()).hexdigest() != expected:
                raise RuntimeFileError(
                    f'{part} is not the file that {self.path.name}.json describes: it has been changed, or '
                    f'is of another export. Copy all files of one export together.'
                )

    def check_batch(self, batch):
        """Check shape and dtype of a batch; not every runtime does.

        Raises:
            RuntimeFileError: If they do not match the file's.
        """
        kind, size = self.about.get('input'), self.about.get('size')
        if kind is None or size is None:
            return
        channels = len(self.about['mean'])
        shape = (channels, *size) if kind['layout'] == 'NCHW' else (*size, channels)
        if batch.shape[1:] != shape or batch.dtype != kind['dtype']:
            raise RuntimeFileError(
                f'{self.path.name} takes batches of {kind["dtype"]}, (N, {", ".join(map(str, shape))}), and '
                f'not of {batch.dtype}, {batch.shape}.'
            )

    def run(self, batch):
        """Outputs by name (dict[str, ndarray]) for a batch; the first axis of both is the image."""
        self.check_batch(batch)
        whole = self.path.suffix in SHARED_BATCH
        try:
            parts = [self.compute(part) for part in ([batch] if whole else np.split(batch, len(batch)))]
        except Exception as error:  # see __init__
            raise RuntimeFileError(
                f'{self.runtime} cannot run {self.path.name} on {batch.shape}: {error}'
            ) from error
        return dict(zip(self.names(), map(np.concatenate, zip(*parts))))

    def names(self):
        """Names of the outputs, in order."""
        return self.about['outputs']


def library_of(path):
    """Path of the library, for this platform, of the operators in an ONNX file: beside the file."""
    return path.with_name(f'mmmobilemamba_ops-{platform.system()}-{platform.machine()}.so'.lower())


def names_operator(error):
    """Whether ONNX Runtime does not know an operator of this package (bool); its message names it."""
    return f'{DOMAIN}:' in str(error)


class OnnxSession(Session):
    runtime, packages = 'ONNX Runtime', 'onnxruntime'

    def open(self, threads):
        onnxruntime = import_module('onnxruntime')
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        arguments = dict(sess_options=options, providers=['CPUExecutionProvider'])
        try:
            self.session = onnxruntime.InferenceSession(str(self.path), **arguments)
        except Exception as error:  # see Session
            if not names_operator(error):
                raise
            self.load_library(options)
            self.session = self.open_with_library(onnxruntime.InferenceSession, arguments)

    def open_with_library(self, session, arguments):
        """Open the file with the library of its operators (onnxruntime.InferenceSession).

        Raises:
            RuntimeFileError: If the library lacks one of them.
        """
        try:
            return session(str(self.path), **arguments)
        except Exception as error:  # see Session
            if not names_operator(error):
                raise
            raise RuntimeFileError(
                f'{library_of(self.path)} lacks an operator of {self.path.name}, so it is of another '
                f'release. Copy the library that was written with this file: {error}'
            ) from error

    def load_library(self, options):
        """Load the library of the operators in this file.

        Raises:
            RuntimeFileError: If it is not beside the file or cannot be loaded.
        """
        library = library_of(self.path)
        if not library.is_file():
            raise RuntimeFileError(
                f'{self.path.name} has operators of the domain {DOMAIN}, and there is no {library}, their '
                f'library for this platform. Copy it from where the file was exported, or build it here (see '
                f'"Custom operators" in docs/runtimes.md).'
            )
        try:
            options.register_custom_ops_library(str(library.resolve()))  # a bare name is searched elsewhere
        except Exception as error:  # see Session
            raise RuntimeFileError(f'{library} cannot be loaded for {self.path.name}: {error}') from error

    def read_about(self):
        return json.loads(self.session.get_modelmeta().custom_metadata_map.get(KEY, '{}'))

    def names(self):
        return [output.name for output in self.session.get_outputs()]

    def compute(self, batch):
        return self.session.run(None, {'image': batch})


class NcnnSession(Session):
    runtime, packages = 'ncnn', 'ncnn'

    def open(self, threads):
        self.ncnn = import_module('ncnn')
        self.network = self.ncnn.Net()
        if threads is not None:
            self.network.opt.num_threads = threads
        # Weights may be float16; computation stays in float32.
        self.network.opt.use_fp16_packed = self.network.opt.use_fp16_storage = False
        self.network.opt.use_fp16_arithmetic = False
        for load, part in zip((self.network.load_param, self.network.load_model), self.parts()):
            if not part.is_file():
                raise FileNotFoundError(f'there is no file {part}')
            if load(str(part)):
                raise ValueError(f'{part.name} cannot be loaded')

    def parts(self):
        return [self.path.with_name(f'{self.path.name}.{suffix}') for suffix in ('param', 'bin')]

    def compute(self, batch):
        extractor = self.network.create_extractor()
        extractor.input('in0', self.ncnn.Mat(np.ascontiguousarray(batch[0])).clone())
        outputs = []
        for index, shape in enumerate(self.about['shapes']):
            status, found = extractor.extract(f'out{index}')
            if status:
                raise RuntimeError(f'it has no output out{index}')
            outputs.append(np.array(found).reshape(1, *shape))
        return outputs


class MnnSession(Session):
    runtime, packages = 'MNN', 'MNN'

    def open(self, threads):
        self.mnn = import_module('MNN')
        self.interpreter = self.mnn.Interpreter(str(self.path))
        settings = {'backend': 'CPU', 'precision': 'high', 'numThread': threads or 4}
        self.session = self.interpreter.createSession(settings)
        self.image = self.interpreter.getSessionInput(self.session)

    def compute(self, batch):
        batch = np.ascontiguousarray(batch)
        kind = self.mnn.Halide_Type_Uint8 if batch.dtype == np.uint8 else self.mnn.Halide_Type_Float
        layout = self.mnn.Tensor_DimensionType_Caffe
        self.image.copyFrom(self.mnn.Tensor(batch.shape, kind, batch, layout))
        self.interpreter.runSession(self.session)
        outputs = []
        for index in range(len(self.names())):
            found = self.interpreter.getSessionOutput(self.session, f'out{index}')
            shape = found.getShape()
            whole = found.getDataType() == self.mnn.Halide_Type_Int
            values = np.empty(shape, np.int32 if whole else np.float32)
            target = self.mnn.Tensor(shape, found.getDataType(), values, layout)
            found.copyToHostTensor(target)
            outputs.append(np.array(target.getNumpyData()).reshape(shape))
        return outputs


class OpenVinoSession(Session):
    runtime, packages = 'OpenVINO', 'openvino'

    def open(self, threads):
        core = import_module('openvino').Core()
        settings = {'INFERENCE_PRECISION_HINT': 'f32'}
        if threads is not None:
            settings['INFERENCE_NUM_THREADS'] = threads
        self.network = core.compile_model(self.path, 'CPU', settings)

    def parts(self):
        return [self.path, self.path.with_suffix('.bin')]

    def compute(self, batch):
        return list(self.network(batch).values())


class LiteRtSession(Session):
    runtime, packages = 'LiteRT', 'ai-edge-litert'

    def open(self, threads):
        litert = import_module('ai_edge_litert.interpreter')
        self.network = litert.Interpreter(str(self.path), num_threads=threads).get_signature_runner()
        ((self.image, _),) = self.network.get_input_details().items()

    def compute(self, batch):
        found = self.network(**{self.image: batch})
        return [found[f'output_{index}'] for index in range(len(found))]


class ExecuTorchSession(Session):
    runtime, packages = 'ExecuTorch', 'executorch'

    def open(self, threads):
        self.torch = import_module('torch')  # inputs are tensors
        if threads is not None:
            import_module('executorch.extension.pybindings.portable_lib')._unsafe_reset_threadpool(threads)
        self.program = import_module('executorch.runtime').Runtime.get().load_program(self.path)
        self.method = self.program.load_method('forward')

    def compute(self, batch):
        image = self.torch.from_numpy(np.ascontiguousarray(batch))
        return [np.array(found) for found in self.method.execute([image])]


class CoreMlSession(Session):
    runtime, packages = 'Core ML', 'coremltools'

    def open(self, threads):
        if sys.platform != 'darwin':
            raise OSError('it runs on macOS alone')
        self.network = import_module('coremltools').models.MLModel(str(self.path))

    def compute(self, batch):
        found = self.network.predict({'image': batch})
        return [found[name] for name in self.names()]


SESSIONS = {
    '.onnx': OnnxSession,
    '.ncnn': NcnnSession,
    '.mnn': MnnSession,
    '.xml': OpenVinoSession,
    '.tflite': LiteRtSession,
    '.pte': ExecuTorchSession,
    '.mlpackage': CoreMlSession,
}


def open_file(path, threads=None):
    """Open a file of ``export.py`` in the runtime of its suffix (Session).

    Args:
        path (str | Path): The file; for ncnn NAME.ncnn, or one of the two files with that name.
        threads (int, optional): Number of CPU threads; the runtime's default if not given.

    Raises:
        RuntimeFileError: If it cannot be opened.
    """
    path = Path(path)
    if path.suffix in ('.param', '.bin') and path.with_suffix('').suffix == '.ncnn':
        path = path.with_suffix('')
    if path.suffix not in SESSIONS:
        raise RuntimeFileError(f'{path} must end in {", ".join(SESSIONS)}.')
    first = path.with_name(f'{path.name}.param') if path.suffix == '.ncnn' else path
    if not first.exists():
        raise RuntimeFileError(f'There is no file {first}.')
    return SESSIONS[path.suffix](path, threads)
