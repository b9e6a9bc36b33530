// An exported network, ready to run: its file, what it says about itself, and a session of onnxruntime-web.

import { UserError } from './errors.js';
import { describe } from './metadata.js';
import { prepare } from './prepare.js';
import { found } from './results.js';

const RUNTIME = './ort/ort.wasm.min.mjs';
const FETCH = 'python tools/deployment/web/serve.py --fetch';

/** Threads of the runtime, which needs memory that they share for more than one. */
export const THREADS = globalThis.crossOriginIsolated
  ? Math.min(4, Math.ceil(navigator.hardwareConcurrency / 2))
  : 1;

/** onnxruntime-web, which is fetched once and not part of the repository. */
async function loadRuntime() {
  try {
    const runtime = await import(RUNTIME);
    runtime.env.logLevel = 'error';
    runtime.env.wasm.numThreads = THREADS;
    runtime.env.wasm.proxy = true; // a worker, so that the page stays alive while the network runs
    return runtime;
  } catch {
    throw new UserError(`onnxruntime-web is not there yet. Fetch it with "${FETCH}" and reload the page.`);
  }
}

export class Network {
  /** The network in `bytes` (Uint8Array), which are gone afterwards. */
  static async open(bytes, name) {
    const { about, weights } = describe(bytes, name);
    const network = new Network();
    Object.assign(network, { about, weights, name, bytes: bytes.length, runtime: await loadRuntime() });
    try {
      const options = { executionProviders: ['wasm'] };
      network.session = await network.runtime.InferenceSession.create(bytes, options);
    } catch (error) {
      if (error.message.includes('no available backend')) {
        throw new UserError(
          `onnxruntime-web is incomplete (${error.message}). Fetch it again with "${FETCH}" and reload the page.`
        );
      }
      throw new UserError(`onnxruntime-web cannot open ${name}: ${error.message}`);
    }
    return network;
  }

  /** What is found in `pixels`, and how long it took: milliseconds to prepare it and to run the network. */
  async run(pixels) {
    const start = performance.now();
    const { input, placement } = prepare(this.about, this.name, pixels);
    const image = new this.runtime.Tensor(input.type, input.data, input.dims);
    const prepared = performance.now();
    let outputs;
    try {
      outputs = await this.session.run({ image });
    } catch (error) {
      throw new UserError(`onnxruntime-web cannot run ${this.name} on ${input.dims.join(' x ')}: ${error.message}`);
    }
    const done = performance.now();
    const times = { preparation: prepared - start, network: done - prepared };
    return { found: found(this.about, outputs, placement), times };
  }

  async close() {
    await this.session.release();
  }
}
