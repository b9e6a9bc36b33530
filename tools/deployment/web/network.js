// An exported network, ready to run: its file, what it says about itself, and a session of onnxruntime-web.

import { UserError } from './errors.js';
import { describe } from './metadata.js';
import { prepare } from './prepare.js';
import { choose, findAdapter, gpuInWords, PROVIDERS } from './provider.js';
import { found } from './results.js';

const RUNTIMES = { wasm: './ort/ort.wasm.min.mjs', webgpu: './ort/ort.webgpu.min.mjs' };
const FETCH = 'python tools/deployment/web/serve.py --fetch';

/** Threads of WebAssembly, which need memory that they share if there are more than one. */
const THREADS = globalThis.crossOriginIsolated ? Math.min(4, Math.ceil(navigator.hardwareConcurrency / 2)) : 1;

/** onnxruntime-web for a provider, which is fetched once and not part of the repository. */
async function loadRuntime(provider) {
  try {
    const runtime = await import(RUNTIMES[provider]);
    runtime.env.logLevel = 'error';
    runtime.env.wasm.numThreads = THREADS;
    runtime.env.wasm.proxy = true; // a worker, so that the page stays alive while the network runs
    return runtime;
  } catch {
    throw new UserError(`onnxruntime-web is not there yet. Fetch it with "${FETCH}" and reload the page.`);
  }
}

async function openSession(runtime, bytes, name, provider) {
  try {
    // Of the level for sessions, as that of `env` does not reach them in WebGPU.
    const options = { executionProviders: [provider], logSeverityLevel: 3 };
    return await runtime.InferenceSession.create(bytes, options);
  } catch (error) {
    if (provider === 'wasm' && error.message.includes('no available backend')) {
      throw new UserError(
        `onnxruntime-web is incomplete (${error.message}). Fetch it again with "${FETCH}" and reload the page.`
      );
    }
    const where = provider === 'wasm' ? '' : ` in ${PROVIDERS[provider]}`;
    throw new UserError(`onnxruntime-web cannot open ${name}${where}: ${error.message}`);
  }
}

export class Network {
  /**
   * The network in `bytes` (Uint8Array), which are gone afterwards, on what is wished for: a key of PROVIDERS.
   * If that is `auto`, and WebGPU fails, it is WebAssembly.
   */
  static async open(bytes, name, wish) {
    const { about, weights, model } = describe(bytes, name);
    const adapter = wish === 'wasm' ? null : await findAdapter();
    const choice = choose(wish, model, about, adapter);
    const network = new Network();
    Object.assign(network, { about, weights, name, bytes: bytes.length });
    if (choice.provider === 'webgpu') {
      try {
        await network.start(wish === 'auto' ? bytes.slice() : bytes, choice, gpuInWords(adapter));
        return network;
      } catch (error) {
        if (wish !== 'auto') throw error;
        Object.assign(choice, { provider: 'wasm', why: error.message });
      }
    }
    await network.start(bytes, choice, THREADS === 1 ? '1 thread' : `${THREADS} threads`);
    return network;
  }

  async start(bytes, { provider, why }, where) {
    const runtime = await loadRuntime(provider);
    const session = await openSession(runtime, bytes, this.name, provider);
    Object.assign(this, { runtime, session, provider, why, where });
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
      const advice = this.provider === 'webgpu' ? ' Choose WebAssembly, which may run it.' : '';
      throw new UserError(
        `onnxruntime-web cannot run ${this.name} on ${input.dims.join(' x ')}: ${error.message}${advice}`
      );
    }
    const done = performance.now();
    const times = { preparation: prepared - start, network: done - prepared };
    return { found: found(this.about, outputs, placement), times };
  }

  async close() {
    await this.session.release();
  }
}
