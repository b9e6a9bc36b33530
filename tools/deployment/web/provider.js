// What a network runs on: WebGPU or WebAssembly, by hand or by itself.

import { UserError } from './errors.js';

export const PROVIDERS = { auto: 'Automatic', webgpu: 'WebGPU', wasm: 'WebAssembly' };
const LOOPS = ['Scan', 'Loop'];
// Of the files that were compared in WebGPU (tests/test_deployment/test_web_gpu.py).
const COMPARED = new Set(
  (
    'Abs Add And ArgMax Cast Clip Concat Conv ConvTranspose DepthToSpace Div Equal Exp Expand Gather ' +
    'GatherElements GatherND Gemm Greater Identity InstanceNormalization LayerNormalization Less Log MatMul ' +
    'Max Mod Mul Neg NonMaxSuppression Pad Reciprocal ReduceMax ReduceMean ReduceMin Relu Reshape Resize ' +
    'ScatterND Shape Sigmoid Slice Softmax Split Sub Tile TopK Transpose Unsqueeze Where'
  ).split(' '),
);

/** The name of a provider that was asked for in the address, `?provider=...`. */
export function providerOf(text) {
  if (text === null) return 'auto';
  if (Object.hasOwn(PROVIDERS, text)) return text;
  throw new UserError(`?provider=${text} must be ${Object.keys(PROVIDERS).join(' or ')}.`);
}

/**
 * Whether the WebGPU of onnxruntime-web 1.30 computes a ConvTranspose wrongly: of groups that each have one
 * channel as output and several as input. Other groups, and one alone, were right.
 */
function isWrong({ operator, inputs, integers }, shapes) {
  const [channels, each] = shapes.get(inputs[1]) ?? [];
  const groups = integers.group ?? 1;
  return operator === 'ConvTranspose' && groups > 1 && !(each > 1 || channels === groups);
}

/**
 * Why WebGPU cannot run a file, or null if it can.
 *
 * `model` and `about` are as in metadata.js, and `adapter` is a GPUAdapter, or null if there is none.
 */
export function obstacle(model, about, adapter) {
  if (!adapter) return 'this browser gives no GPU (navigator.gpu.requestAdapter)';
  const loop = model.nodes.find(({ operator }) => LOOPS.includes(operator));
  if (loop) {
    return `the file has a loop (${loop.operator}), which WebGPU lacks; export it for one size, without --dynamic`;
  }
  const precision = about.precision ?? 'float32';
  if (precision !== 'float32') return `the file is of ${precision}; this page runs float32 alone in WebGPU`;
  if (model.nodes.some((node) => isWrong(node, model.shapes))) {
    return 'the file has a ConvTranspose of groups, which onnxruntime-web computes wrongly in WebGPU';
  }
  const buffers = adapter.limits.maxStorageBuffersPerShaderStage;
  const widest = Math.max(0, ...model.nodes.map((node) => (node.operator === 'Split' ? node.outputs.length : 0)));
  if (widest + 1 > buffers) {
    return `the file has a Split into ${widest}, but this GPU takes ${buffers - 1} at most; export it anew`;
  }
  return null;
}

/** Why a file does not run in WebGPU unless that is chosen by hand, or null if it does. */
function untried(model, about) {
  if (about.preprocessed) return 'files with the normalisation inside were not compared there; choose it by hand';
  const other = model.nodes.find(({ operator }) => !COMPARED.has(operator));
  return other ? `files with ${other.operator} were not compared there; choose it by hand` : null;
}

/** The provider for a wish, with the reason why it is not WebGPU: { provider, why }. */
export function choose(wish, model, about, adapter) {
  if (wish === 'wasm') return { provider: 'wasm', why: 'chosen by hand' };
  let why = obstacle(model, about, adapter);
  if (why && wish === 'webgpu') throw new UserError(`Not in WebGPU: ${why}. Or choose WebAssembly.`);
  if (wish === 'auto') why ??= untried(model, about);
  return { provider: why ? 'wasm' : 'webgpu', why };
}

/** The GPU that the browser gives (a GPUAdapter), or null. */
export async function findAdapter() {
  return (await globalThis.navigator?.gpu?.requestAdapter()) ?? null;
}

/** Maker and kind of a GPU, as far as the browser tells. */
export function gpuInWords({ info }) {
  return [info.vendor, info.architecture].filter(Boolean).join(' ') || 'unnamed GPU';
}
