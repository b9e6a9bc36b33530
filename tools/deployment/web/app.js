// The page: a network and a picture come in from files, by drag and drop, from the clipboard or the camera, and
// whenever there are both, the network runs.

import { draw } from './draw.js';
import { UserError } from './errors.js';
import { Network } from './network.js';
import { Camera, readPicture } from './picture.js';
import { PROVIDERS, providerOf } from './provider.js';
import { summary } from './results.js';
import { factsOf, inWords, providerInWords, showFacts, showFound, timesInWords } from './view.js';

const element = (id) => document.getElementById(id);
const state = { network: null, source: null, file: null, picture: null, result: null, camera: null };
const WIDE = '(min-width: 52rem)'; // a window with room for what is not always wanted
let queue = Promise.resolve(); // one thing after the other: a session cannot run twice at a time

const threshold = () => Number(element('threshold').value);

function showError(error) {
  if (error && !(error instanceof UserError)) console.error(error);
  element('message').textContent = error?.message ?? '';
  element('message').hidden = !error;
}

/** Do what is asked for after all that was asked for before; the page says that it is busy with `what`. */
function enqueue(what, task) {
  if (what) showError(null);
  const begin = () => {
    element('stage').setAttribute('aria-busy', 'true');
    if (what) element('status').textContent = what;
    return task();
  };
  const end = () => {
    element('stage').setAttribute('aria-busy', 'false');
    show();
  };
  queue = queue.then(begin).catch(showError).then(end).catch(showError);
  return queue;
}

/** The picture and what was found in it, as they are now. */
function show() {
  const { network, picture, result } = state;
  const about = network?.about;
  element('threshold-field').hidden = about?.task !== 'detection';
  element('threshold-value').textContent = threshold().toFixed(2);
  element('empty').hidden = Boolean(picture);
  element('canvas').hidden = !picture;
  element('results').hidden = !result;
  const words = result ? inWords(about, result.found, threshold()) : '';
  const missing = [network ? '' : 'a network', picture ? '' : 'a picture'].filter(Boolean).join(' and ');
  element('status').textContent = missing ? `Choose ${missing}.` : words;
  element('times').textContent = result ? timesInWords(result.times) : '';
  if (picture) {
    draw(element('canvas'), element('figure').clientWidth, picture, about, result?.found, threshold());
    element('canvas').setAttribute('aria-label', `${picture.name}${words && `: ${words}`}`);
  }
  if (!result) return;
  showFound(element('found'), about, result.found, threshold());
  element('json').textContent = JSON.stringify(summary(about, result.found, threshold()), null, 1);
}

/** How pictures are read for a network, as text to be compared. */
const loaderOf = (network) => JSON.stringify(network?.about.load);

/** Read a picture as the network wants it, if there is one. */
async function readFile(file) {
  state.picture = await readPicture(file, state.network?.about.load);
  Object.assign(state, { file, loader: loaderOf(state.network) });
}

async function run() {
  state.result = null;
  if (state.file && state.network && loaderOf(state.network) !== state.loader) await readFile(state.file);
  if (state.network && state.picture) state.result = await state.network.run(state.picture.pixels);
}

function useModel(name, read) {
  return enqueue(`Loading ${name} …`, async () => {
    const network = await Network.open(await read(), name, element('provider').value);
    await state.network?.close();
    Object.assign(state, { network, source: { name, read }, result: null });
    showFacts(element('facts'), factsOf(network));
    element('provider-name').textContent = providerInWords(network);
    element('model-name').textContent = name;
    element('about').hidden = false;
    await run();
  });
}

function useModelFile(file) {
  return useModel(file.name, async () => new Uint8Array(await file.arrayBuffer()));
}

function usePicture(file) {
  return enqueue(`Looking at ${file.name} …`, async () => {
    stopCamera();
    await readFile(file);
    element('picture-name').textContent = file.name;
    await run();
  });
}

/** Files that were chosen, dropped or pasted: a network, a picture or both. */
function useFiles(files) {
  for (const file of files) (file.name.toLowerCase().endsWith('.onnx') ? useModelFile : usePicture)(file);
}

/** The same network on what is chosen now. */
function useProvider() {
  if (state.source) useModel(state.source.name, state.source.read);
}

/** The bytes of a file by its address on this server, as `?model=...` or `?picture=...` has it: nothing is fetched
 * from elsewhere. */
async function download(kind, text) {
  const address = new URL(text, document.baseURI);
  if (address.origin !== window.location.origin) {
    throw new UserError(`?${kind}=${text} is on another server. This page loads ${kind === 'model' ? 'networks' : 'pictures'} from its own alone.`);
  }
  const response = await fetch(address);
  if (!response.ok) throw new UserError(`The server has no file ${text} (${response.status}).`);
  return new Uint8Array(await response.arrayBuffer());
}

const nameIn = (address) => decodeURIComponent(address.split('/').pop());

function useModelAddress(text) {
  return useModel(nameIn(text), () => download('model', text));
}

function usePictureAddress(text) {
  const name = nameIn(text);
  return enqueue(`Looking at ${name} …`, async () => {
    stopCamera();
    await readFile(new File([await download('picture', text)], name));
    element('picture-name').textContent = name;
    await run();
  });
}

/** Buttons for the files that the server offers, if it is serve.py. */
async function offerSamples() {
  const response = await fetch('samples.json');
  if (!response.ok) return;
  const samples = await response.json();
  for (const [kind, use] of [['model', useModelAddress], ['picture', usePictureAddress]]) {
    const folder = `${kind}s`, list = element(`${kind}-samples`);
    for (const name of samples[folder]) {
      const button = document.createElement('button');
      Object.assign(button, { type: 'button', className: 'button', textContent: name });
      button.addEventListener('click', () => use(`${folder}/${encodeURIComponent(name)}`));
      list.append(button);
    }
    list.hidden = !samples[folder].length;
  }
}

function showCamera() {
  const on = Boolean(state.camera);
  element('camera').textContent = on ? 'Stop camera' : 'Use camera';
  // What changes with every frame would be read out without an end.
  element('status').setAttribute('aria-live', on ? 'off' : 'polite');
}

function stopCamera() {
  state.camera?.stop();
  state.camera = null;
  showCamera();
}

/** Look at what the camera sees now. */
async function useFrame(camera) {
  if (state.camera !== camera) return; // stopped while this waited for its turn
  try {
    state.file = null;
    state.picture = camera.frame(state.network?.about.load);
    await run();
  } catch (error) {
    stopCamera(); // the next frame would fail alike
    throw error;
  }
}

/** One frame after the other, as fast as the network is, until the camera is stopped. */
async function followCamera(camera) {
  while (state.camera === camera) {
    await enqueue(null, () => useFrame(camera));
    await new Promise(requestAnimationFrame);
  }
}

function switchCamera() {
  if (state.camera) return stopCamera();
  return enqueue('Starting the camera …', async () => {
    if (state.camera) return; // by a click before this one
    state.camera = await Camera.start();
    element('picture-name').textContent = 'camera';
    showCamera();
    followCamera(state.camera);
  });
}

function acceptDrops() {
  const page = document.documentElement;
  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    page.classList.add('dropping');
  });
  document.addEventListener('dragleave', (event) => {
    if (!event.relatedTarget) page.classList.remove('dropping');
  });
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    page.classList.remove('dropping');
    useFiles(event.dataTransfer.files);
  });
  document.addEventListener('paste', (event) => useFiles(event.clipboardData.files));
}

function start() {
  element('unserved').remove();
  element('page').hidden = false;
  element('about').open = window.matchMedia(WIDE).matches;
  for (const id of ['model', 'picture']) {
    element(id).addEventListener('change', (event) => {
      const files = [...event.target.files];
      event.target.value = ''; // so that the same file can be chosen again
      files.forEach(id === 'picture' ? usePicture : useModelFile);
    });
  }
  for (const [value, name] of Object.entries(PROVIDERS)) element('provider').add(new Option(name, value));
  element('provider').addEventListener('change', useProvider);
  element('threshold').addEventListener('input', show);
  element('camera').addEventListener('click', switchCamera);
  window.addEventListener('resize', () => state.picture && show());
  acceptDrops();
  showCamera();
  show();
  useQuery(new URLSearchParams(window.location.search));
  offerSamples();
}

/** What the address of the page asks for: `?model=...&picture=...&provider=...`. */
function useQuery(query) {
  try {
    element('provider').value = providerOf(query.get('provider'));
  } catch (error) {
    showError(error);
    return;
  }
  if (query.get('model')) useModelAddress(query.get('model'));
  if (query.get('picture')) usePictureAddress(query.get('picture'));
}

start();
