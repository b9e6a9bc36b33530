// What an ONNX file says about itself. onnxruntime-web has no access to the metadata of a model, so the few
// fields that the page needs are read from the file, which is a message of Protocol Buffers.
// Sources: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (numbers of the fields),
// https://protobuf.dev/programming-guides/encoding/

import { UserError } from './errors.js';

export const KEY = 'mmmobilemamba';
export const TASKS = ['backbone', 'classification', 'detection', 'segmentation'];
const FIELDS = [
  'task', 'mean', 'std', 'channels', 'pad_divisor', 'labels', 'resize', 'size', 'preprocessed',
];
const MODEL = { irVersion: 1, graph: 7, metadata: 14 };
const GRAPH = { node: 1, initializer: 5 };
const NODE = { input: 1, output: 2, operator: 4, attribute: 5 };
const ATTRIBUTE = { name: 1, integer: 3 };
const TENSOR = { dims: 1, name: 8, dataLocation: 14 };
const ENTRY = { key: 1, value: 2 };
const VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5; // types on the wire

/** Value (a number) and end of the varint at `place`. */
function readVarint(bytes, place, end) {
  let value = 0;
  for (let count = 0; count < 10 && place < end; count++) {
    const byte = bytes[place++];
    value += (byte & 127) * 2 ** (7 * count);
    if (byte < 128) return [value, place];
  }
  throw new RangeError('no varint');
}

/** The fields of the message in `bytes`: [number, type, value], where the value of BYTES is a part of them. */
function* fieldsOf(bytes) {
  let place = 0, tag, value;
  while (place < bytes.length) {
    [tag, place] = readVarint(bytes, place, bytes.length);
    const type = tag % 8;
    if (type === VARINT) {
      [value, place] = readVarint(bytes, place, bytes.length);
    } else if (type === BYTES) {
      let size;
      [size, place] = readVarint(bytes, place, bytes.length);
      value = bytes.subarray(place, place + size);
      place += size;
    } else if (type === FIXED64 || type === FIXED32) {
      value = null;
      place += type === FIXED64 ? 8 : 4;
    } else {
      throw new RangeError(`no type of the wire: ${type}`);
    }
    if (tag < 8 || place > bytes.length) throw new RangeError('no field');
    yield [Math.floor(tag / 8), type, value];
  }
}

const textOf = (bytes) => new TextDecoder().decode(bytes);

/** Name and sides of a TensorProto, and whether its numbers are in another file. */
function readTensor(bytes) {
  const tensor = { name: '', dims: [], external: false };
  for (const [number, type, value] of fieldsOf(bytes)) {
    if (number === TENSOR.name) tensor.name = textOf(value);
    if (number === TENSOR.dims && type === VARINT) tensor.dims.push(value);
    if (number === TENSOR.dims && type === BYTES) {
      for (let place = 0, side; place < value.length; tensor.dims.push(side)) {
        [side, place] = readVarint(value, place, value.length);
      }
    }
    if (number === TENSOR.dataLocation) tensor.external = value === 1;
  }
  return tensor;
}

/** A NodeProto: its operator, the names of its inputs and outputs, and those attributes that are integers. */
function readNode(bytes) {
  const node = { operator: '', inputs: [], outputs: [], integers: {} };
  for (const [number, , value] of fieldsOf(bytes)) {
    if (number === NODE.operator) node.operator = textOf(value);
    if (number === NODE.input) node.inputs.push(textOf(value));
    if (number === NODE.output) node.outputs.push(textOf(value));
    if (number !== NODE.attribute) continue;
    let name = '', integer = null;
    for (const [inner, type, part] of fieldsOf(value)) {
      if (inner === ATTRIBUTE.name) name = textOf(part);
      if (inner === ATTRIBUTE.integer && type === VARINT) integer = part;
    }
    if (integer !== null) node.integers[name] = integer;
  }
  return node;
}

/** Key and value of a StringStringEntryProto. */
function readEntry(bytes) {
  const entry = { key: '', value: '' };
  for (const [number, , value] of fieldsOf(bytes)) {
    if (number === ENTRY.key) entry.key = textOf(value);
    if (number === ENTRY.value) entry.value = textOf(value);
  }
  return [entry.key, entry.value];
}

/**
 * What a ModelProto says: its metadata (Map), how many weights it holds, whether others are in a file beside
 * it, its nodes, and the sides of its weights by their names (Map). Throws a RangeError if `bytes` (Uint8Array)
 * is none.
 */
export function readModel(bytes) {
  const model = { metadata: new Map(), weights: 0, external: false, nodes: [], shapes: new Map() };
  let irVersion = 0, hasGraph = false;
  for (const [number, , value] of fieldsOf(bytes)) {
    if (number === MODEL.irVersion) irVersion = value;
    if (number === MODEL.metadata) model.metadata.set(...readEntry(value));
    if (number !== MODEL.graph) continue;
    hasGraph = true;
    for (const [inner, , part] of fieldsOf(value)) {
      if (inner === GRAPH.node) model.nodes.push(readNode(part));
      if (inner !== GRAPH.initializer) continue;
      const { name, dims, external } = readTensor(part);
      model.shapes.set(name, dims);
      model.weights += dims.reduce((count, side) => count * side, 1);
      model.external ||= external;
    }
  }
  if (!irVersion || !hasGraph) throw new RangeError('no graph');
  return model;
}

/** What `export.py` has written about the network in `bytes`, how many weights it has, and the file (`model`). */
export function describe(bytes, name) {
  let model;
  try {
    model = readModel(bytes);
  } catch {
    throw new UserError(`${name} is not an ONNX file, or it is cut off.`);
  }
  if (model.external) {
    throw new UserError(`${name} has its weights in a file beside it, which a browser cannot load.`);
  }
  let about;
  try {
    about = JSON.parse(model.metadata.get(KEY) ?? '{}');
  } catch {
    about = {};
  }
  const missing = FIELDS.filter((field) => !(field in about));
  if (missing.length) {
    throw new UserError(
      `${name} is an ONNX file, but its metadata ${KEY} lacks ${missing.join(', ')}. Export the network with ` +
      'tools/deployment/export.py, which writes it.'
    );
  }
  if (!TASKS.includes(about.task)) {
    throw new UserError(`${name} has the task ${about.task}; it must be ${TASKS.join(' or ')}.`);
  }
  if ('custom_ops' in about) {
    throw new UserError(`${name} has operators that a browser does not have. Export the network without --custom-ops.`);
  }
  return { about, weights: model.weights, model };
}
