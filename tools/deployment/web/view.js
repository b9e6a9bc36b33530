// What the page says in words: facts about the network, and lists of what was found.

import { css, tintOf } from './draw.js';
import { PROVIDERS } from './provider.js';
import { nameOf } from './results.js';

const MOST_OBJECTS = 20; // in the list; all are on the picture

/** An element with a class and content: text or other elements. */
function make(tag, className, ...content) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...content);
  return element;
}

const percent = (share) => `${(100 * share).toFixed(1)}%`;
const counted = (count, noun, nouns = `${noun}s`) => `${count} ${count === 1 ? noun : nouns}`;
const milliseconds = (value) => `${value.toFixed(value < 10 ? 1 : 0)} ms`;

/** A large number in short, such as 4.32 M, with a unit. */
export function short(count, unit = '') {
  const [size, prefix] = [[1e9, 'G'], [1e6, 'M'], [1e3, 'k']].find(([least]) => count >= least) ?? [1, ''];
  return `${size > 1 ? (count / size).toPrecision(3) : count} ${prefix}${unit}`.trim();
}

/** A step of a test pipeline in words. */
export function stepInWords(step) {
  if (!['Resize', 'ResizeEdge', 'CenterCrop'].includes(step.type)) return step.type;
  const sides = [].concat(step.scale ?? step.crop_size);
  const size = sides.length > 1 ? sides.join(' × ') : `${sides[0]} × ${sides[0]}`;
  if (step.type === 'CenterCrop') return `centre ${size} px`;
  const how = `${step.backend ?? 'cv2'} ${step.interpolation ?? 'bilinear'}`;
  if (step.type === 'ResizeEdge') return `${step.edge ?? 'short'} edge to ${sides[0]} px (${how})`;
  return `${step.keep_ratio ? 'fit into' : 'stretch to'} ${size} px (${how})`;
}

/** What is to be known about a network, as pairs of a term and its description. */
export function factsOf({ about, name, bytes, weights, provider, where }) {
  const size = about.size ? `${about.size[1]} × ${about.size[0]} px` : 'any size';
  const numbers = (values) => values.map((value) => +value.toFixed(3)).join(', ');
  const classes = about.labels.length ? `, ${counted(about.labels.length, 'class', 'classes')}` : '';
  return [
    ['File', `${name}, ${short(bytes, 'B')}`],
    ['Task', `${about.task}${classes}`],
    ['Weights', [short(weights), about.precision].filter(Boolean).join(', ')],
    ['Input', `${size}, ${about.preprocessed ? `${about.channels === 'BGR' ? 'RGB' : about.channels}, as it is read` : about.channels}`],
    ['Resizing', about.resize.map(stepInWords).join(', then ') || 'none'],
    ['Mean', about.preprocessed ? 'inside the network' : numbers(about.mean)],
    ['Std', about.preprocessed ? 'inside the network' : numbers(about.std)],
    ['Runs on', `${PROVIDERS[provider]}, ${where}`],
  ];
}

/** What a network runs on, and why not in WebGPU. */
export function providerInWords({ provider, where, why }) {
  return `Runs on ${PROVIDERS[provider]} (${where})${why ? `, not WebGPU: ${why}` : ''}.`;
}

export function showFacts(list, facts) {
  list.replaceChildren(...facts.flatMap(([term, text]) => [make('dt', '', term), make('dd', '', text)]));
}

/** A row with a bar of a share (0 to 1). */
function bar(color, text, share, value) {
  const fill = make('span', 'fill');
  fill.style.width = `${100 * Math.min(share, 1)}%`;
  if (color) fill.style.background = css(color);
  const track = make('span', 'track', fill);
  track.setAttribute('aria-hidden', 'true');
  const name = make('span', 'name', text);
  name.title = text; // which may be cut off
  return make('li', '', name, track, make('span', 'value', value));
}

/** The list of what was found, instead of what `list` has now. */
export function showFound(list, about, what, threshold) {
  const rows = [];
  for (const [name, dims] of what.maps ?? []) {
    rows.push(make('li', 'wide', make('span', 'name', name), make('span', 'value', dims.join(' × '))));
  }
  for (const { label, score, share } of what.classes ?? []) {
    rows.push(bar(tintOf(about, label), nameOf(about, label), score ?? share, percent(score ?? share)));
  }
  const objects = (what.objects ?? []).filter(({ score }) => score >= threshold);
  for (const { label, score } of objects.slice(0, MOST_OBJECTS)) {
    rows.push(bar(tintOf(about, label), nameOf(about, label), score, score.toFixed(2)));
  }
  const more = objects.length - MOST_OBJECTS;
  if (more > 0) rows.push(make('li', 'wide', `and ${more} more`));
  list.replaceChildren(...rows);
}

/** What was found, in a sentence. */
export function inWords(about, what, threshold) {
  if (what.maps) return counted(what.maps.length, 'map');
  if (what.objects) {
    const count = what.objects.filter(({ score }) => score >= threshold).length;
    return count ? counted(count, 'object') : `No object with a score of ${threshold.toFixed(2)} or more`;
  }
  const [{ label, score, share }] = what.classes;
  return `${nameOf(about, label)}, ${percent(score ?? share)}${what.map ? ' of the picture' : ''}`;
}

/** How long it took. */
export function timesInWords({ preparation, network }) {
  return `network ${milliseconds(network)}, preparation ${milliseconds(preparation)}`;
}
