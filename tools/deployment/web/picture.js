// Pictures from files and from the camera, as pixels (RGB, 8 bits) and as something that a canvas can draw.

import { UserError } from './errors.js';

const CAMERA = { video: { facingMode: { ideal: 'environment' }, width: { ideal: 640 } }, audio: false };
const REFUSALS = {
  NotAllowedError: "The browser refused the camera. Allow it in the address bar's settings of this page, and try again.",
  NotFoundError: 'There is no camera on this machine.',
  OverconstrainedError: 'There is no camera on this machine that gives pictures of a usable size.',
  NotReadableError: 'The camera is in use by another program. Close it, and try again.',
};

/** { pixels, image, name }: what is to be seen in `source`, in the size given. */
function read(source, width, height, name) {
  const image = document.createElement('canvas');
  Object.assign(image, { width, height });
  const context = image.getContext('2d', { willReadFrequently: true });
  context.drawImage(source, 0, 0, width, height);
  const rgba = context.getImageData(0, 0, width, height);
  const data = new Uint8Array(width * height * 3);
  let opaque = true;
  for (let from = 0, to = 0; from < rgba.data.length; from += 4) {
    for (let channel = 0; channel < 3; channel++) data[to++] = rgba.data[from + channel];
    opaque &&= rgba.data[from + 3] === 255;
    rgba.data[from + 3] = 255;
  }
  if (!opaque) context.putImageData(rgba, 0, 0); // shown as the network sees it, which knows no transparency
  return { pixels: { data, width, height }, image, name };
}

/** The loader of mmcv that stands for a file's, if it says nothing. */
const LOADER = { type: 'LoadImageFromFile' };
const LOADERS = ['LoadImageFromFile', 'PillowLoadImageFromFile'];

/**
 * How a loader of a config reads: { upright, gray, deep }, whether pictures are turned by their EXIF data, whether
 * they are made gray, and whether 16 bits are scaled to 8. Throws if a browser cannot read like that.
 */
export function readingOf(load = LOADER) {
  const { type, imdecode_backend: backend = 'cv2', color_type: color = 'color' } = load ?? {};
  const [kind, ignored] = color.split('_ignore_');
  if (!LOADERS.includes(type) || load.to_float32 || !['cv2', 'pillow', 'turbojpeg'].includes(backend)) {
    throw new UserError(`The config's test pipeline reads pictures with ${JSON.stringify(load)}, which this page cannot.`);
  }
  if (!['color', 'grayscale'].includes(kind)) {
    throw new UserError(`The config's ${type} has the color_type ${color}, which this page cannot follow.`);
  }
  return {
    upright: !ignored && backend !== 'turbojpeg',
    gray: kind === 'grayscale',
    deep: type === 'PillowLoadImageFromFile' || backend === 'cv2',
  };
}

/** Whether a file is a PNG with 16 bits of gray, which the first 26 bytes of it say. */
async function isDeepGray(file) {
  const head = new Uint8Array(await file.slice(0, 26).arrayBuffer());
  return [137, 80, 78, 71].every((byte, place) => head[place] === byte) && head[24] === 16 && !(head[25] & 2);
}

/** Chunks of a JPEG, PNG or WebP, in JPEG those for applications alone: [place of the name, name of 4 letters]. */
function* chunksOf(bytes) {
  const view = new DataView(bytes.buffer);
  const name = (place) => String.fromCharCode(...bytes.subarray(place, place + 4));
  if (view.getUint16(0) === 0xffd8) {
    for (let at = 2; at + 8 < bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda; at += 2 + view.getUint16(at + 2)) {
      if (bytes[at + 1] === 0xe1) yield [at + 4, name(at + 4)];
    }
  } else if (name(1).startsWith('PNG')) {
    for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) yield [at + 4, name(at + 4)];
  } else if (name(0) === 'RIFF') {
    for (let at = 12, size; at + 8 <= bytes.length; at += 8 + size + (size % 2)) {
      size = view.getUint32(at + 4, true);
      yield [at, name(at)];
    }
  }
}

/** A file whose EXIF data no browser finds, so that the picture stays as it is stored. */
export async function asStored(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes.length < 12) return file;
  let end = bytes.length;
  for (const [place, name] of chunksOf(bytes)) {
    if (['Exif', 'EXIF'].includes(name)) bytes.set(new TextEncoder().encode('none'), place);
    if (name === 'eXIf') { // whose name its check sum is of
      const size = 12 + new DataView(bytes.buffer).getUint32(place - 4);
      bytes.copyWithin(place - 4, place - 4 + size);
      end -= size;
      break; // there is one at most
    }
  }
  return new Blob([bytes.subarray(0, end)], { type: file.type });
}

/** Pixels made gray, as Pillow weighs red, green and blue, in all three channels. */
export function toGray(data) {
  for (let i = 0; i < data.length; i += 3) {
    data.fill((data[i] * 19595 + data[i + 1] * 38470 + data[i + 2] * 7471 + 32768) >> 16, i, i + 3);
  }
}

/** The picture in a file, read as a loader (of a file's metadata) does and without a change of its colours. */
export async function readPicture(file, load) {
  const { upright, gray, deep } = readingOf(load);
  if (!deep && (await isDeepGray(file))) {
    throw new UserError(
      `${file.name} cannot be read as in the training: mmcv reads 16 bits of gray with Pillow, which makes all ` +
      'above 255 white. Convert it to 8 bits.'
    );
  }
  let bitmap;
  try {
    const source = upright ? file : await asStored(file);
    bitmap = await createImageBitmap(source, { colorSpaceConversion: 'none', imageOrientation: 'from-image' });
  } catch {
    throw new UserError(`${file.name} is no picture that this browser can read, such as PNG, JPEG or WebP.`);
  }
  const picture = read(bitmap, bitmap.width, bitmap.height, file.name);
  bitmap.close();
  if (gray) toGray(picture.pixels.data);
  return picture;
}

/** The camera, from `Camera.start()` to `stop()`. */
export class Camera {
  static async start() {
    const devices = navigator.mediaDevices;
    if (!devices) {
      throw new UserError('Browsers give a camera to secure pages alone: open this one at http://localhost, or by https.');
    }
    const camera = new Camera();
    try {
      camera.stream = await devices.getUserMedia(CAMERA);
    } catch (error) {
      throw new UserError(REFUSALS[error.name] ?? `The camera cannot be used: ${error.message}`);
    }
    camera.video = document.createElement('video');
    Object.assign(camera.video, { srcObject: camera.stream, muted: true, playsInline: true });
    await camera.video.play();
    return camera;
  }

  /** What it sees now, in gray if the loader of a file's metadata makes it so. */
  frame(load) {
    if (!this.stream.active) throw new UserError('The camera is gone: it was unplugged or taken back.');
    const picture = read(this.video, this.video.videoWidth, this.video.videoHeight, 'camera');
    if (readingOf(load).gray) toGray(picture.pixels.data);
    return picture;
  }

  stop() {
    for (const track of this.stream.getTracks()) track.stop();
  }
}
