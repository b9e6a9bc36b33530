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

/** The picture in a file, turned by its EXIF data and without a change of its colours. */
export async function readPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: 'none', imageOrientation: 'from-image' });
  } catch {
    throw new UserError(`${file.name} is no picture that this browser can read, such as PNG, JPEG or WebP.`);
  }
  const picture = read(bitmap, bitmap.width, bitmap.height, file.name);
  bitmap.close();
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

  /** What it sees now. */
  frame() {
    if (!this.stream.active) throw new UserError('The camera is gone: it was unplugged or taken back.');
    return read(this.video, this.video.videoWidth, this.video.videoHeight, 'camera');
  }

  stop() {
    for (const track of this.stream.getTracks()) track.stop();
  }
}
