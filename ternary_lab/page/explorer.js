/**
 * The explorer of a run: a map of all operations at each kept epoch, with the run's own networks.
 *
 * `mount` shows a run inside an element. The default export shows the run of an anywidget model. The module draws with
 * a canvas and plain DOM; it loads nothing. `ternary_lab/page/data.py` describes the header and the parts of a run.
 *
 * Notation: operation n has nine entries. Entry k is the result f(a, b) with a in row ⌊k/3⌋ and b in column k mod 3, in
 * the order −, 0, +. Its class floor(n / 3^k) mod 3 is 0, 1 or 2 for −, 0 or +. Pathway 0 is A and pathway 1 is B.
 */

const SIGNS = ["−", "0", "+"];
const PATHWAYS = ["A", "B"];
const ENTRIES = 9;
const ALL = 3 ** ENTRIES;
const POWERS = Array.from({ length: ENTRIES }, (_, k) => 3 ** k);
const EVERY_ENTRY = POWERS.map((_, k) => k);

/** Colours of Okabe and Ito (2008), as in the figures of the library. The grey of 0 is darker: points lie on white. */
const ENTRY_COLOURS = ["#56B4E9", "#8A8A8A", "#E69F00"];
const PATHWAY_COLOURS = ["#0072B2", "#BC5200"];
const NO_YES = ["#B4BEC6", "#A0357A"];
const SEQUENTIAL = ["#440154", "#3B528B", "#21918C", "#5EC962", "#FDE725"];
const CATEGORIES = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"];
const NOT_CHOSEN = "#DEDEDE";

/** Largest number of (epoch, pathway) pairs whose codes stay in memory. One pair takes 1.3 MB with 16 latents. */
const CODES_KEPT = 48;
const MOVE_MS = 350;
const PLAY_MS = 900;
/** Height in CSS pixels of the ticks of the chart and of their numbers. */
const AXIS = 20;
const PATH_STEPS = 100;
/** An operation with fewer expected draws than this, among as many draws as there are operations, counts as rare. */
const RARELY_DRAWN = 0.1;

// ---------------------------------------------------------------- operations

/** Return the class (0, 1, 2) of entry k of an operation. */
const entryOf = (operation, k) => Math.floor(operation / POWERS[k]) % 3;
const tableOf = (operation) => EVERY_ENTRY.map((k) => entryOf(operation, k));
const indexOf = (table) => table.reduce((sum, value, k) => sum + value * POWERS[k], 0);
const withEntry = (operation, k, value) => operation + (value - entryOf(operation, k)) * POWERS[k];
const entryName = (k) => `f(${SIGNS[Math.floor(k / 3)]},${SIGNS[k % 3]})`;
/** Return a table in words for a screen reader: its rows, one after the other. */
const tableWords = (table) => [0, 1, 2].map((row) => table.slice(3 * row, 3 * row + 3).map((v) => SIGNS[v]).join(" "))
  .join(" / ");

/** Return the classes of all operations as ENTRIES × ALL bytes, entry by entry. */
function allEntries() {
  const entries = new Uint8Array(ENTRIES * ALL);
  for (let k = 0; k < ENTRIES; k++) for (let n = 0; n < ALL; n++) entries[k * ALL + n] = Math.floor(n / POWERS[k]) % 3;
  return entries;
}
const TABLES = allEntries();

const IN_ORDER = Array.from({ length: ALL }, (_, n) => n);

/** Return all operations in a fixed random order, so that no class covers another on the map. */
function randomOrder() {
  const order = Uint32Array.from(IN_ORDER);
  let seed = 1;
  for (let last = ALL - 1; last > 0; last--) {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    const other = seed % (last + 1);
    [order[last], order[other]] = [order[other], order[last]];
  }
  return order;
}
const RANDOM_ORDER = randomOrder();

/** Return a text without accents and capitals. */
const fold = (text) => text.normalize("NFD").replace(/[\u0300-\u036f]/g, "").toLowerCase().replace(/ł/g, "l");

/** Return the nine classes that a text writes in any notation (-0+, with separators, or as numbers), or null. */
function parseTable(text) {
  const plain = text.replace(/[−–—]/g, "-").replace(/[\s,;:/|[\](){}]+/g, " ").trim();
  const tokens = plain.split(" ");
  if (tokens.length === ENTRIES && tokens.every((token) => /^([-+]?1|[-+]?0|[-+])$/.test(token))) {
    return tokens.map((token) => (/^[-+]?0$/.test(token) ? 1 : token.startsWith("-") ? 0 : 2));
  }
  const joined = tokens.join("");
  return /^[-0+]{9}$/.test(joined) ? [...joined].map((sign) => "-0+".indexOf(sign)) : null;
}

/**
 * Find operations by name (any part of it, without accents), by index, or by table in any notation.
 * Returns {found: operations, the best first} or {error: one sentence}.
 */
function search(text, names) {
  const wanted = text.trim();
  const table = parseTable(wanted);
  if (table) return { found: [indexOf(table)] };
  const number = /^(\d{1,3}(?:[, ]\d{3})+|\d+)(?:\s*\((.*)\))?$/.exec(wanted);
  if (number) {
    const index = Number(number[1].replace(/[, ]/g, ""));
    if (index >= ALL) return { error: `There is no operation ${format(index)}: the last is ${format(ALL - 1)}.` };
    if (number[2] && names[index] !== number[2]) {
      return { error: `Operation ${format(index)} is not “${number[2]}”: type the name or the index alone.` };
    }
    return { found: [index] };
  }
  const rank = (name) => (name === fold(wanted) ? 0 : name.startsWith(fold(wanted)) ? 1 : 2);
  const hits = Object.entries(names).map(([index, name]) => [Number(index), fold(name)])
    .filter(([, name]) => wanted && name.includes(fold(wanted))).sort((a, b) => rank(a[1]) - rank(b[1]));
  if (hits.length) return { found: hits.map(([index]) => index) };
  return { error: `Nothing fits “${wanted}”: type a part of a name, an index, or a table (+0-/000/-0+).` };
}

// ---------------------------------------------------------------- numbers

const format = (number) => number.toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)} %`;
const short = (number) => (number === 0 ? "0" : Math.abs(number) >= 0.001 && Math.abs(number) < 1e5
  ? String(Number(number.toPrecision(3))) : number.toExponential(1).replace(/e([-+])(\d+)/, (_, sign, digits) => (
    `·10${sign === "-" ? "⁻" : ""}${[...digits].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}`)));
const fixed = (number, digits) => number.toFixed(digits).replace("-", "−");
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const dot = (u, v) => u.reduce((sum, value, i) => sum + value * v[i], 0);
const distance = (u, v) => Math.hypot(...u.map((value, i) => value - v[i]));
const mix = (u, v, t) => u.map((value, i) => value + t * (v[i] - value));

/** Return the colour #rrggbb as the number that a pixel of an ImageData holds. */
function pixelOf(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/** Return the colour #rrggbb at t in 0..1 on a scale of colours. */
function between(scale, t) {
  const at = clamp(t, 0, 0.9999) * (scale.length - 1);
  const [low, high] = [scale[Math.floor(at)], scale[Math.floor(at) + 1]];
  return `#${[1, 3, 5].map((i) => {
    const [a, b] = [low, high].map((colour) => parseInt(colour.slice(i, i + 2), 16));
    return Math.round(a + (b - a) * (at % 1)).toString(16).padStart(2, "0");
  }).join("")}`;
}
const SEQUENTIAL_PIXELS = Uint32Array.from({ length: 256 }, (_, level) => pixelOf(between(SEQUENTIAL, level / 255)));

/**
 * Return the weights of one network. `bytes` holds many networks with these layers: first the scales of all their
 * neurons (float32), then the levels of all their weights (int16: all low bytes, then all high bytes). A weight or bias
 * is its level times the scale of its neuron.
 */
function weightsIn(bytes, layers, index) {
  const neurons = layers.reduce((sum, { outputs }) => sum + outputs, 0);
  const size = layers.reduce((sum, { inputs, outputs }) => sum + outputs * (inputs + 1), 0);
  const networks = bytes.length / (4 * neurons + 2 * size);
  const scales = new Float32Array(bytes.buffer, bytes.byteOffset + 4 * neurons * index, neurons);
  const low = 4 * neurons * networks + size * index;
  const high = low + size * networks;
  const numbers = new Float32Array(size);
  const fill = (at, scale) => { numbers[at] = scale * ((bytes[low + at] | (bytes[high + at] << 8)) << 16 >> 16); };
  let at = 0;
  let neuron = 0;
  for (const { inputs, outputs } of layers) {
    for (let row = 0; row < outputs; row++, neuron++) {
      for (let column = 0; column < inputs; column++) fill(at + row * inputs + column, scales[neuron]);
      fill(at + inputs * outputs + row, scales[neuron]);
    }
    at += outputs * (inputs + 1);
  }
  return numbers;
}

/**
 * Return the outputs of a feed-forward network for one input. Each layer is act(W x + b + skip). The weights hold W
 * (outputs × inputs, row by row) and then b of each layer. The worker runs this function too.
 */
function forward(layers, weights, input) {
  const activations = [input];
  let at = 0;
  for (const { inputs, outputs, relu, skip } of layers) {
    const x = activations[activations.length - 1];
    const y = new Float32Array(outputs);
    const bias = at + inputs * outputs;
    for (let row = at, o = 0; o < outputs; o++, row += inputs) {
      let sum = weights[bias + o];
      for (let i = 0; i < inputs; i++) sum += weights[row + i] * x[i];
      if (skip !== null) sum += activations[skip][o];
      y[o] = relu && sum < 0 ? 0 : sum;
    }
    activations.push(y);
    at = bias + outputs;
  }
  return activations[activations.length - 1];
}

/** Return the means (to - from, latents) of the codes of operations from..to-1. The worker runs this function too. */
function encodeMany(layers, weights, latents, from, to) {
  const means = new Float32Array((to - from) * latents);
  const input = new Float32Array(layers[0].inputs);
  for (let n = from; n < to; n++) {
    for (let k = 0, rest = n; k < input.length; k++, rest = Math.floor(rest / 3)) input[k] = (rest % 3) - 1;
    means.set(forward(layers, weights, input).subarray(0, latents), (n - from) * latents);
  }
  return means;
}

/** Solve the symmetric positive definite system A x = b for several b (columns) by elimination; A and b are changed. */
function solve(matrix, columns) {
  const size = matrix.length;
  for (let i = 0; i < size; i++) {
    for (let j = i + 1; j < size; j++) {
      const factor = matrix[j][i] / matrix[i][i];
      for (let k = i; k < size; k++) matrix[j][k] -= factor * matrix[i][k];
      for (const column of columns) column[j] -= factor * column[i];
    }
  }
  for (const column of columns) {
    for (let i = size - 1; i >= 0; i--) {
      for (let j = i + 1; j < size; j++) column[i] -= matrix[i][j] * column[j];
      column[i] /= matrix[i][i];
    }
  }
  return columns;
}

// ---------------------------------------------------------------- codes of all operations

/** Computes the codes of all operations in a worker, or in pieces between other work where a worker cannot start. */
class Codes {
  constructor(run) {
    this.run = run;
    this.known = new Map();
    this.jobs = [];
    this.worker = null;
    try {
      const source = `${forward}\n${encodeMany}\nonmessage = ({ data: d }) => {
        const means = encodeMany(d.layers, d.weights, d.latents, 0, ${ALL}); postMessage(means, [means.buffer]); };`;
      this.address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      this.worker = new Worker(this.address);
    } catch {
      this.worker = null;
    }
  }

  /** Return the codes (ALL × latents) if they are known, otherwise undefined. */
  get(epoch, pathway) {
    return this.known.get(`${epoch} ${pathway}`);
  }

  /** Return a promise of the codes. The request that came last is served first, unless it is `later`. */
  request(epoch, pathway, later = false) {
    const key = `${epoch} ${pathway}`;
    if (this.known.has(key)) return Promise.resolve(this.known.get(key));
    let job = this.jobs.find((other) => other.key === key);
    if (job && !later && !job.running) this.jobs.splice(this.jobs.indexOf(job), 1);
    if (!job) {
      job = { key, epoch, pathway, running: false };
      job.promise = new Promise((resolve) => { job.resolve = resolve; });
    }
    if (!this.jobs.includes(job)) this.jobs[later ? "push" : "unshift"](job);
    this.next();
    return job.promise;
  }

  async next() {
    if (!this.jobs.length || this.jobs.some((job) => job.running)) return;
    const job = this.jobs[0];
    job.running = true;
    const means = await this.compute(this.run.weights("encoder", job.epoch, job.pathway));
    this.jobs.splice(this.jobs.indexOf(job), 1);
    if (this.known.size >= CODES_KEPT) this.known.delete(this.known.keys().next().value);
    this.known.set(job.key, means);
    job.resolve(means);
    this.next();
  }

  async compute(weights) {
    const { layers } = this.run.header.networks.encoder;
    const { latents } = this.run;
    if (this.worker) {
      const means = await new Promise((resolve) => {
        this.worker.onmessage = ({ data }) => resolve(data);
        this.worker.onerror = () => resolve(null);
        this.worker.postMessage({ layers, weights, latents });
      });
      if (means) return means;
      this.worker = null;
    }
    const means = new Float32Array(ALL * latents);
    for (let from = 0; from < ALL; from += 81) {
      means.set(encodeMany(layers, weights, latents, from, from + 81), from * latents);
      await new Promise((resolve) => { setTimeout(resolve); });
    }
    return means;
  }

  destroy() {
    this.worker?.terminate();
    URL.revokeObjectURL(this.address);
  }
}

// ---------------------------------------------------------------- a run

/** A run: its header and parts, its networks, and the positions of all operations in a plane of the latent space. */
class Run {
  constructor(bundle) {
    this.bundle = bundle;
    this.header = bundle.header;
    this.epochs = bundle.header.epochs;
    this.latents = bundle.header.latents;
    this.name = bundle.header.run;
    this.parts = {};
    this.codes = new Codes(this);
    this.views = new Map();
    this.cachedWeights = new Map();
  }

  /** Load what the first picture needs. `ready` is a promise of the rest. */
  async open() {
    await this.load(["positions", "directions", "properties"]);
    this.ready = this.load(["encoders", "decoder_A", "decoder_B", "reconstructed",
      ...(this.header.log_p_range ? ["log_probability"] : [])]);
    return this;
  }

  async load(names) {
    const parts = await Promise.all(names.map((name) => this.bundle.part(name)));
    names.forEach((name, i) => { this.parts[name] = parts[i]; });
  }

  get loaded() {
    return Boolean(this.parts.encoders && this.parts.reconstructed);
  }

  /** Return the index of the kept epoch that is nearest to an epoch. */
  nearest(epoch) {
    const gap = (i) => Math.abs(this.epochs[i] - epoch);
    return this.epochs.reduce((best, _, i) => (gap(i) < gap(best) ? i : best), 0);
  }

  label(operation) {
    const name = this.header.names[operation];
    return name ? `${format(operation)} (${name})` : format(operation);
  }

  /** Return the weights of one network at a kept epoch. `pathway` counts for the encoder only. */
  weights(network, epoch, pathway) {
    const key = `${network} ${epoch} ${pathway}`;
    if (!this.cachedWeights.has(key)) {
      const [part, index] = network === "encoder" ? ["encoders", 2 * epoch + pathway] : [network, epoch];
      if (this.cachedWeights.size > 24) this.cachedWeights.clear();
      this.cachedWeights.set(key, weightsIn(this.parts[part], this.header.networks[network].layers, index));
    }
    return this.cachedWeights.get(key);
  }

  /** Return the outputs of an encoder for an operation: μ, then ln σ². */
  encode(epoch, pathway, operation) {
    const input = Float32Array.from(tableOf(operation), (value) => value - 1);
    return forward(this.header.networks.encoder.layers, this.weights("encoder", epoch, pathway), input);
  }

  /** Return the code μ of an operation as an array. */
  code(epoch, pathway, operation) {
    return Array.from(this.encode(epoch, pathway, operation).subarray(0, this.latents));
  }

  /** Return the probabilities of the three values of each entry (27 numbers) that a decoder gives to a latent z. */
  decode(epoch, pathway, z) {
    const network = `decoder_${PATHWAYS[pathway]}`;
    const logits = forward(this.header.networks[network].layers, this.weights(network, epoch, 0), z);
    for (let at = 0; at < logits.length; at += 3) {
      const most = Math.max(logits[at], logits[at + 1], logits[at + 2]);
      let sum = 0;
      for (let i = at; i < at + 3; i++) sum += logits[i] = Math.exp(logits[i] - most);
      for (let i = at; i < at + 3; i++) logits[i] /= sum;
    }
    return logits;
  }

  givenBack(epoch, pathway, operation) {
    const row = (2 * epoch + pathway) * Math.ceil(ALL / 8);
    return (this.parts.reconstructed[row + (operation >> 3)] >> (7 - (operation & 7))) & 1;
  }

  /** Return ln p(x) under the prior, to 1/255 of the range of its epoch and pathway; exact for the listed holes. */
  logProbability(epoch, pathway, operation) {
    const listed = this.holes(epoch, pathway).find(([hole]) => hole === operation);
    if (listed) return listed[1];
    const [low, high] = this.header.log_p_range[epoch].slice(2 * pathway);
    return low + (high - low) * this.parts.log_probability[(2 * epoch + pathway) * ALL + operation] / 255;
  }

  /** Return [[operation, ln p], …] of the operations with the lowest ln p, the lowest first. */
  holes(epoch, pathway) {
    return this.header.holes ? this.header.holes[epoch][pathway] : [];
  }

  /** Return the share of all operations with fewer than RARELY_DRAWN expected draws. */
  rareShare(epoch, pathway) {
    const [low, high] = this.header.log_p_range[epoch].slice(2 * pathway);
    const level = 255 * (Math.log(RARELY_DRAWN / ALL) - low) / (high - low);
    const from = (2 * epoch + pathway) * ALL;
    return this.parts.log_probability.subarray(from, from + ALL).reduce((sum, byte) => sum + (byte < level), 0) / ALL;
  }

  property(index) {
    return this.parts.properties.subarray(index * ALL, (index + 1) * ALL);
  }

  /** Return row i of the directions: 0 is the mean of the codes, 1 the first principal direction, and so on. */
  direction(epoch, pathway, i) {
    const rows = 1 + this.header.directions_per_epoch;
    const { buffer, byteOffset } = this.parts.directions;
    const at = byteOffset + 4 * ((2 * epoch + pathway) * rows + i) * this.latents;
    return Array.from(new Float32Array(buffer.slice(at, at + 4 * this.latents)));
  }

  /** The plane of which the page holds all positions. */
  get defaultPlane() {
    const [first, second] = this.header.default_entries;
    return { kind: "entries", first, second };
  }

  isDefault(plane) {
    const { first, second } = this.defaultPlane;
    return plane.kind === "entries" && plane.first === first && plane.second === second;
  }

  /** Return the view of a plane at an epoch, or null if the codes that it needs are not computed yet. */
  view(epoch, pathway, plane) {
    const key = `${epoch} ${pathway} ${plane.kind} ${plane.first} ${plane.second}`;
    if (!this.views.has(key)) {
      const codes = this.codes.get(epoch, pathway);
      if (!codes && !this.isDefault(plane)) return null;
      if (this.views.size > 30) this.views.delete(this.views.keys().next().value);
      this.views.set(key, new View(this, epoch, pathway, plane, codes));
    }
    return this.views.get(key);
  }

  /** Return the smallest and the largest number of an axis of a kind of plane. */
  axisRange(kind) {
    const { directions_per_epoch: directions, latents } = this.header;
    return { entries: [0, ENTRIES - 1], directions: [1, directions], dimensions: [0, latents - 1] }[kind] ?? [0, -1];
  }

  hasPlane({ kind, first, second }) {
    const [low, high] = this.axisRange(kind);
    return first !== second && [first, second].every((i) => Number.isInteger(i) && i >= low && i <= high);
  }

  hasColour(colour) {
    if (colour === "probability") return Boolean(this.header.log_p_range);
    return ["back", "moved"].includes(colour) || EVERY_ENTRY.some((k) => colour === `entry-${k}`)
      || this.header.properties.some(({ key }) => colour === `property-${key}`);
  }

  /** Return half the width of the widest default plane of all epochs and both pathways, in latent units. */
  get widest() {
    return Math.max(...this.header.plane_range.flat(2).map(Math.abs));
  }

  destroy() {
    this.codes.destroy();
  }
}

/** All operations in a plane of the latent space: coordinates relative to the mean of the codes, in latent units. */
class View {
  constructor(run, epoch, pathway, plane, codes) {
    Object.assign(this, { run, epoch, pathway, plane });
    this.origin = run.direction(epoch, pathway, 0);
    if (run.isDefault(plane)) {
      this.coordinates = this.stored();
    } else {
      this.knownAxes = [plane.first, plane.second].map((which) => this.axis(which, codes));
      this.coordinates = this.projected(codes);
    }
    this.measureEffects();
  }

  /** Return the coordinates (2 × ALL) that the page holds: those of the plane of the default entries. */
  stored() {
    const bytes = this.run.parts.positions;
    const from = (2 * this.epoch + this.pathway) * 2 * ALL;
    const range = this.run.header.plane_range[this.epoch][this.pathway];
    const coordinates = new Float32Array(2 * ALL);
    for (let i = 0; i < 2 * ALL; i++) {
      const [low, high] = i < ALL ? [range[0], range[1]] : [range[2], range[3]];
      const level = (bytes[from + i] << 8) | bytes[bytes.length / 2 + from + i];
      coordinates[i] = low + (high - low) * level / 4095;
    }
    return coordinates;
  }

  /** Return the unit vector of an axis of the plane: the step of an entry, a principal direction, or a dimension. */
  axis(which, codes) {
    if (this.plane.kind === "directions") return this.run.direction(this.epoch, this.pathway, which);
    if (this.plane.kind === "dimensions") return this.origin.map((_, i) => Number(i === which));
    const step = this.origin.map(() => 0);
    for (let n = 0; n < ALL; n++) {
      const sign = TABLES[which * ALL + n] - 1;
      if (sign) for (let i = 0; i < step.length; i++) step[i] += sign * codes[n * step.length + i];
    }
    const length = Math.hypot(...step) || 1;
    return step.map((value) => value / length);
  }

  projected(codes) {
    const coordinates = new Float32Array(2 * ALL);
    const { latents } = this.run;
    this.knownAxes.forEach((axis, c) => {
      const middle = dot(axis, this.origin);
      for (let n = 0; n < ALL; n++) {
        let sum = -middle;
        for (let i = 0; i < latents; i++) sum += axis[i] * codes[n * latents + i];
        coordinates[c * ALL + n] = sum;
      }
    });
    return coordinates;
  }

  /** Both axes (unit vectors). For the stored coordinates they are fitted to the codes of some operations. */
  get axes() {
    if (!this.knownAxes) {
      const { latents } = this.run;
      const matrix = this.origin.map((_x, i) => this.origin.map((_y, j) => 1e-9 * (i === j)));
      const columns = [0, 1].map(() => new Array(latents).fill(0));
      for (const n of RANDOM_ORDER.subarray(0, 4 * latents)) {
        const code = this.run.code(this.epoch, this.pathway, n).map((value, i) => value - this.origin[i]);
        for (let i = 0; i < latents; i++) {
          for (let j = 0; j < latents; j++) matrix[i][j] += code[i] * code[j];
          columns.forEach((column, c) => { column[i] += code[i] * this.coordinates[c * ALL + n]; });
        }
      }
      this.knownAxes = solve(matrix, columns);
    }
    return this.knownAxes;
  }

  /** Return the two coordinates of a latent z. */
  project(z) {
    return this.axes.map((axis) => dot(axis, z) - dot(axis, this.origin));
  }

  /** Return the latent z with these coordinates that is nearest to the mean of the codes. */
  lift([x, y]) {
    const [u, v] = this.axes;
    const [uu, uv, vv] = [dot(u, u), dot(u, v), dot(v, v)];
    const determinant = uu * vv - uv * uv || 1e-9;
    const [s, t] = [(vv * x - uv * y) / determinant, (uu * y - uv * x) / determinant];
    return this.origin.map((value, i) => value + s * u[i] + t * v[i]);
  }

  at(operation) {
    return [this.coordinates[operation], this.coordinates[ALL + operation]];
  }

  /**
   * Measure the largest coordinate (`extent`) and the main effects of all entries: `means[k][value]` is the mean place
   * of the operations whose entry k has this value, and `shares[axis][k]` the share of the variance along an axis that
   * entry k explains.
   */
  measureEffects() {
    const sums = new Float64Array(ENTRIES * 6);
    const variance = [0, 0];
    this.extent = 0;
    for (let c = 0; c < 2; c++) {
      let squares = 0;
      for (let n = 0; n < ALL; n++) {
        const x = this.coordinates[c * ALL + n];
        squares += x * x;
        if (Math.abs(x) > this.extent) this.extent = Math.abs(x);
        for (let k = 0; k < ENTRIES; k++) sums[6 * k + 2 * TABLES[k * ALL + n] + c] += x;
      }
      variance[c] = squares / ALL;
    }
    this.extent ||= 1;
    const each = ALL / 3;
    this.means = EVERY_ENTRY.map((k) => [0, 1, 2].map((v) => [0, 1].map((c) => sums[6 * k + 2 * v + c] / each)));
    this.shares = variance.map((total, c) => this.means.map((mean) => (
      total ? mean.reduce((sum, place) => sum + place[c] ** 2, 0) / 3 / total : 0)));
  }

  /** Return the entries that explain most of an axis, as [entry, share], the most first. */
  explained(axis) {
    return this.shares[axis].map((share, k) => [k, share]).sort((a, b) => b[1] - a[1]);
  }

  /** Return an axis in words. */
  words(axis) {
    const which = axis ? this.plane.second : this.plane.first;
    if (this.plane.kind === "entries") {
      const share = percent(this.shares[axis][which]);
      return `entry ${entryName(which)} of the table: − to + (explains ${share} of the variance)`;
    }
    const parts = this.explained(axis).slice(0, 3).filter(([, share]) => share > 0.05);
    const meaning = parts.map(([k, share]) => `${entryName(k)} ${percent(share)}`).join(", ") || "no single entry";
    return `${this.plane.kind === "directions" ? "direction" : "dimension"} ${which}: ${meaning}`;
  }
}

// ---------------------------------------------------------------- elements

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "g", "line", "polyline", "circle", "text", "title"]);

/** Return the children that are there, without those that a condition left out, from nested lists. */
const present = (children) => children.flat(5).filter((child) => ![null, undefined, false].includes(child));

/** Make an element. `on` holds listeners, `data` data attributes. Attributes that are false or missing are left out. */
function h(tag, { on = {}, data = {}, ...attributes } = {}, ...children) {
  const element = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (present([value]).length) element.setAttribute(name, value === true ? "" : value);
  }
  Object.assign(element.dataset, data);
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...present(children));
  return element;
}

/** Make a button. Its focus key brings the focus back to it when what is around it is built again. */
const button = (focus, click, { on, ...attributes } = {}, ...children) => h("button", {
  type: "button", data: { focus }, on: { click, ...on }, ...attributes,
}, children);
const textButton = (text, click, words) => button(text, click, { class: "link", title: words }, text);
const para = (...children) => h("p", {}, children);
const note = (...children) => h("p", { class: "note" }, children);
const errorLine = (text) => h("p", { class: "error", role: "alert" }, text);
const option = (value, text, selected = false) => h("option", { value, selected }, text);
const swatch = (colour) => h("i", { class: "swatch", style: `background:${colour}`, "aria-hidden": "true" });
const checkbox = (text, words, onChange) => h("label", { title: words }, h("input", {
  type: "checkbox", on: { change: ({ target }) => onChange(target.checked) },
}), text);
const range = (words, min, max, onInput) => h("input", {
  type: "range", min, max, step: 0.01, "aria-label": words, data: { focus: words },
  on: { input: ({ target }) => onInput(Number(target.value)) },
});

/**
 * Draw a truth table. `probabilities` (27) adds the certainty of each value, `reference` frames the entries that differ
 * from another table, and `onEntry(k)` makes each entry a button.
 */
function truthTable(table, { probabilities, reference, onEntry, size = "", words } = {}) {
  const cells = table.map((value, k) => {
    const differs = reference && reference[k] !== value;
    const attributes = { class: `entry value-${value}${differs ? " differs" : ""}` };
    const name = entryName(k);
    const certainty = probabilities && h("small", {}, percent(probabilities[3 * k + value]));
    return onEntry ? button(`entry ${k}`, () => onEntry(k), {
      ...attributes, title: `change ${name}`, "aria-label": `${name} = ${SIGNS[value]}, change`,
    }, SIGNS[value]) : h("span", attributes, SIGNS[value], certainty);
  });
  const label = present([words, tableWords(table)]).join(": ");
  return h("div", { class: `table ${size}`, role: onEntry ? "group" : "img", "aria-label": label }, cells);
}

/** Add the arguments to a large table: a beside its rows and b above its columns. */
function withArguments(table) {
  return h("div", { class: "with-arguments" }, h("span", { class: "corner" }, "a \\ b"),
    SIGNS.map((sign) => [h("span", { class: "column" }, sign), h("span", { class: "row" }, sign)]), table);
}

/** A 3 × 3 table whose cells stand for the entries of a truth table. `text(k)` stands in a cell. */
function entryPicker(focus, isOn, onPick, text = () => "") {
  const cells = EVERY_ENTRY.map((k) => button(`${focus} ${k}`, () => onPick(k), {
    class: "entry", "aria-pressed": String(isOn(k)), "aria-label": `entry ${entryName(k)} ${text(k)}`,
    title: `entry ${entryName(k)}`,
  }, text(k)));
  return withArguments(h("div", { class: "table picker", role: "group", "aria-label": "entries f(a,b)" }, cells));
}

/** Draw a small line chart with a mark at one x. `lines` holds {values, colour, dash}. */
function lineChart({ height, xs, lines, top, marker, words }) {
  const width = 420;
  const x = (value) => 4 + (width - 8) * (value - xs[0]) / (xs[xs.length - 1] - xs[0] || 1);
  const y = (value) => height - 3 - (height - 6) * value / (top || 1);
  const polyline = ({ values, colour, dash }) => h("polyline", {
    fill: "none", stroke: colour, "stroke-width": 1.8, "stroke-dasharray": dash,
    points: values.map((value, i) => `${x(xs[i]).toFixed(1)},${y(value).toFixed(1)}`).join(" "),
  });
  return h("svg", { class: "small-chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words },
    h("line", { x1: 4, x2: width - 4, y1: height - 3, y2: height - 3, class: "base" }),
    h("line", { x1: x(marker), x2: x(marker), y1: 0, y2: height, class: "cursor" }), lines.map(polyline));
}

/** A button that opens a panel, which `fill` fills. The panel closes on Escape and when the focus leaves it. */
function menu(focus, fill) {
  const summary = h("summary", { data: { focus }, on: { click: () => details.open || fill() } });
  const details = h("details", { class: "menu", on: {
    focusout: ({ relatedTarget }) => { if (relatedTarget && !details.contains(relatedTarget)) details.open = false; },
    keydown: (event) => {
      if (event.key !== "Escape") return;
      details.open = false;
      summary.focus();
      event.stopPropagation();
    },
  } }, summary, h("div", { class: "panel" }));
  return details;
}

/** A group of buttons of which `press` shows one as on. `choices` holds [text, explanation] by value. */
function choice(label, choices, onChoice) {
  const buttons = Object.entries(choices).map(([value, [text, words]]) => (
    button(value, () => onChoice(value), { title: words }, text)));
  return h("div", { class: "choice", role: "group", "aria-label": label }, buttons);
}

/** Show one button of a group as on. The buttons stay, so that a click which has begun ends on the same button. */
function press(group, chosen, attribute = "aria-pressed") {
  for (const one of group.children) one.setAttribute(attribute, String(one.dataset.focus === chosen));
}

// ---------------------------------------------------------------- colours

/** Colour the operations by classes: one colour for each value. */
function byClass(title, classes, labels, colours) {
  const counts = labels.map(() => 0);
  for (let n = 0; n < ALL; n++) counts[classes[n]] += 1;
  const values = Uint32Array.from(colours, pixelOf);
  const pixels = new Uint32Array(ALL);
  for (let n = 0; n < ALL; n++) pixels[n] = values[classes[n]];
  return {
    title, classes, items: labels.map((label, i) => ({ label, colour: colours[i], count: counts[i] })),
    pixels, rare: counts.map((count) => count < 0.02 * ALL),
    describe: (n) => `${title}: ${labels[classes[n]]}`,
  };
}

/** Colour the operations by a number that is given as a level in 0..255. */
function byLevel(title, levels, ends, describe) {
  return { title, ends, pixels: Uint32Array.from(levels, (level) => SEQUENTIAL_PIXELS[level]), describe };
}

function byProperty(run, key) {
  const index = run.header.properties.findIndex((property) => property.key === key);
  const { label, kind, values } = run.header.properties[index];
  const scale = (i) => between(SEQUENTIAL, i / Math.max(1, values.length - 1));
  const colours = kind === "flag" ? NO_YES : values.map((_, i) => (kind === "count" ? scale(i) : CATEGORIES[i % 6]));
  return byClass(kind === "flag" ? `property “${label}”` : label, run.property(index), values, colours);
}

function byProbability(run, epoch, pathway) {
  const from = (2 * epoch + pathway) * ALL;
  const [low, high] = run.header.log_p_range[epoch].slice(2 * pathway);
  const text = (n) => `ln p ${fixed(run.logProbability(epoch, pathway, n), 1)}`;
  return byLevel(`ln p under the prior, decoder ${PATHWAYS[pathway]} (uniform: ${fixed(-Math.log(ALL), 1)})`,
    run.parts.log_probability.subarray(from, from + ALL), [fixed(low, 1), fixed(high, 1)], text);
}

function byGivenBack(run, epoch, pathway) {
  const classes = Uint8Array.from({ length: ALL }, (_, n) => run.givenBack(epoch, pathway, n));
  const title = `answer to “does decoder ${PATHWAYS[pathway]} give it back from its own code?”`;
  return byClass(title, classes, ["no", "yes"], ["#D55E00", "#9DBBD1"]);
}

/** Colour by the distance between the codes of two epochs, or return null while codes are not computed yet. */
function byMove(run, epoch, pathway, since) {
  const [now, before] = [run.codes.get(epoch, pathway), run.codes.get(since, pathway)];
  if (!now || !before) return null;
  const moved = Float32Array.from({ length: ALL }, (_, n) => {
    let sum = 0;
    for (let i = n * run.latents; i < (n + 1) * run.latents; i++) sum += (now[i] - before[i]) ** 2;
    return Math.sqrt(sum);
  });
  const most = moved.reduce((a, b) => Math.max(a, b), 0) || 1;
  return byLevel(`distance between the codes of epochs ${run.epochs[since]} and ${run.epochs[epoch]}`,
    Uint8Array.from(moved, (value) => 255 * value / most), ["0", most.toFixed(2)],
    (n) => `moved by ${moved[n].toFixed(2)}`);
}

/**
 * Return how to colour all operations: {title, pixels, describe} with `classes` and `items`, or with `ends` of a scale.
 * Returns null while the codes that it needs are not computed yet.
 */
function colouring(run, epoch, pathway, colour, since) {
  if (colour.startsWith("property-")) return byProperty(run, colour.slice("property-".length));
  if (colour === "probability") return byProbability(run, epoch, pathway);
  if (colour === "moved") return byMove(run, epoch, pathway, since);
  if (colour === "back") return byGivenBack(run, epoch, pathway);
  const k = Number(colour.slice("entry-".length));
  return byClass(`value of the entry ${entryName(k)}`, TABLES.subarray(k * ALL, (k + 1) * ALL), SIGNS, ENTRY_COLOURS);
}

/** Return whether a colour depends on the epoch. Such a colour needs parts that are loaded after the first picture. */
const dependsOnEpoch = (colour) => ["probability", "moved", "back"].includes(colour);

// ---------------------------------------------------------------- the map

/** The points of a disc, as offsets in an image of a given width. */
function discOffsets(radius, width) {
  const offsets = [];
  const most = Math.ceil(radius);
  for (let y = -most; y <= most; y++) {
    for (let x = -most; x <= most; x++) if (x * x + y * y <= radius * radius) offsets.push(y * width + x);
  }
  return Int32Array.from(offsets);
}

/** A map of the operations of one run and pathway. The explorer owns the state; maps beside each other share it. */
class OperationMap {
  constructor(explorer, run, fixedPathway = null) {
    Object.assign(this, { explorer, run, fixedPathway, hover: -1, lasso: null, drag: null, view: null });
    this.pointers = new Map();
    this.current = new Float32Array(2 * ALL);
    this.start = new Float32Array(2 * ALL);
    this.target = new Float32Array(2 * ALL);
    this.order = new Uint32Array(ALL);
    this.build();
    this.listen();
  }

  build() {
    this.points = h("canvas", { "aria-hidden": "true" });
    this.marks = h("canvas", { "aria-hidden": "true" });
    this.title = h("div", { class: "map-title" });
    this.axes = [h("div", { class: "axis right" }), h("div", { class: "axis up" })];
    this.legend = h("div", { class: "legend" });
    this.tip = h("div", { class: "tip", hidden: true });
    this.message = h("div", { class: "message", hidden: true });
    this.surface = h("div", { class: "surface", tabindex: 0, role: "application" }, this.points, this.marks);
    const head = h("div", { class: "head" }, h("div", {}, this.title, this.axes[1]), this.legend);
    const stage = h("div", { class: "stage" }, this.surface, this.tip, this.message);
    this.element = h("div", { class: "map" }, head, stage, this.axes[0]);
    this.pointsContext = this.points.getContext("2d");
    this.context = this.marks.getContext("2d");
  }

  get pathway() {
    return this.fixedPathway ?? this.explorer.pathway;
  }

  /** Index of the epoch that the map shows: the kept epoch of its run that is nearest to the chosen one. */
  get epoch() {
    return this.run.nearest(this.explorer.state.epoch);
  }

  get since() {
    return this.run.nearest(this.explorer.state.since);
  }

  resize() {
    this.ratio = window.devicePixelRatio || 1;
    this.width = Math.max(1, Math.round(this.surface.clientWidth * this.ratio));
    this.height = Math.max(1, Math.round(this.surface.clientHeight * this.ratio));
    for (const canvas of [this.points, this.marks]) Object.assign(canvas, { width: this.width, height: this.height });
    this.image = this.pointsContext.createImageData(this.width, this.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
  }

  // ---- positions

  /** Move the points to the chosen epoch, pathway and plane. The first frame is drawn at once. */
  move(animated = true) {
    const { state } = this.explorer;
    let view = this.run.view(this.epoch, this.pathway, state.plane);
    this.message.hidden = view !== null;
    if (!view) {
      // Until the codes for this plane are there, the plane that the page holds is shown.
      this.wait(() => this.move());
      view = this.run.view(this.epoch, this.pathway, this.run.defaultPlane);
    }
    const first = this.view === null;
    this.view = view;
    this.unit = state.oneScale ? this.run.widest : view.extent;
    for (let i = 0; i < 2 * ALL; i++) this.target[i] = view.coordinates[i] / this.unit;
    this.recolour();
    this.sort();
    this.writeAxes();
    this.start.set(this.current);
    this.moveStarted = performance.now();
    this.moveTime = first || !animated || this.explorer.still ? 0 : MOVE_MS;
    this.frame();
  }

  /** Draw the next frame of a movement, and plan the one after it. */
  frame() {
    cancelAnimationFrame(this.planned);
    const t = this.moveTime ? Math.min(1, (performance.now() - this.moveStarted) / this.moveTime) : 1;
    // The first frame already shows a part of the way.
    const s = Math.max(t * t * (3 - 2 * t), 0.02);
    for (let i = 0; i < 2 * ALL; i++) this.current[i] = this.start[i] + s * (this.target[i] - this.start[i]);
    this.draw();
    if (t < 1) this.planned = requestAnimationFrame(() => this.frame());
  }

  /** Ask for the codes that the plane or the colour needs, and say so on the map. */
  wait(then) {
    const { run, epoch, pathway, since } = this;
    const needed = this.explorer.state.colour === "moved" ? [since, epoch] : [epoch];
    this.message.textContent = `computing the codes of epoch ${run.epochs[epoch]} …`;
    this.message.hidden = false;
    run.ready.then(() => Promise.all(needed.map((e) => run.codes.request(e, pathway)))).then(() => {
      if (!this.explorer.alive || epoch !== this.epoch || pathway !== this.pathway) return;
      this.message.hidden = true;
      then();
      this.explorer.showInspector();
      // The other epochs follow, so that a play through them need not wait.
      run.epochs.slice(0, CODES_KEPT / 2).forEach((_, e) => run.codes.request(e, pathway, true));
    });
  }

  // ---- colours

  /** Compute the colours and the legend. Until what a colour needs is there, the earlier colours stay. */
  recolour() {
    const { colour } = this.explorer.state;
    const changes = dependsOnEpoch(colour);
    const key = changes ? `${colour} ${this.epoch} ${this.pathway} ${this.since}` : colour;
    if (key === this.colouringKey) return;
    const possible = this.run.hasColour(colour) && (this.run.loaded || !changes);
    const found = possible && colouring(this.run, this.epoch, this.pathway, colour, this.since);
    if (found) this.colouringKey = key;
    else if (possible) this.wait(() => this.refresh());
    this.colouring = found || this.colouring || colouring(this.run, 0, 0, `entry-${this.run.defaultPlane.second}`);
    this.writeLegend();
  }

  refresh() {
    if (!this.view) return;
    this.recolour();
    this.sort();
    this.draw();
  }

  /** Order the points: grey ones first, then the others, then rare kinds, then the chosen ones. */
  sort() {
    const { active, several } = this.explorer;
    const { rare, classes } = this.colouring;
    const rank = (n) => (active && !active[n] ? 0 : several ? 3 : rare && rare[classes[n]] ? 2 : 1);
    const ranks = new Uint8Array(ALL);
    const starts = [0, 0, 0, 0, 0];
    for (let n = 0; n < ALL; n++) starts[(ranks[n] = rank(n)) + 1] += 1;
    for (let i = 1; i < 5; i++) starts[i] += starts[i - 1];
    this.large = starts[2];
    this.grey = starts[1];
    for (const n of RANDOM_ORDER) this.order[starts[ranks[n]]++] = n;
    // Several thousand large discs would be one blob.
    if (ALL - this.large > 3000) this.large = ALL;
  }

  // ---- drawing

  /** Device pixels for one unit of the current positions. */
  get scale() {
    return Math.min(this.width - 60 * this.ratio, 2 * this.centreY) / 2.2 * this.explorer.state.view.zoom;
  }

  /** The middle of the map without the room for the labels at its bottom. */
  get centreY() {
    return Math.max(1, this.height - 44 * this.ratio) / 2;
  }

  screenX(x) {
    return this.width / 2 + (x - this.explorer.state.view.x) * this.scale;
  }

  screenY(y) {
    return this.centreY - (y - this.explorer.state.view.y) * this.scale;
  }

  /** Return the place of coordinates (in latent units) in device pixels. */
  screen([x, y]) {
    return [this.screenX(x / this.unit), this.screenY(y / this.unit)];
  }

  /** Return the place of an operation in device pixels. It moves with the points. */
  screenOf(operation) {
    return [this.screenX(this.current[operation]), this.screenY(this.current[ALL + operation])];
  }

  /** Return the coordinates, in latent units, of a place in CSS pixels. */
  placeAt([x, y]) {
    const { view } = this.explorer.state;
    return [((x * this.ratio - this.width / 2) / this.scale + view.x) * this.unit,
      ((this.centreY - y * this.ratio) / this.scale + view.y) * this.unit];
  }

  draw() {
    if (!this.view || !this.image) return;
    const started = performance.now();
    this.pixels.fill(0xffffffff);
    const radius = 2 * this.ratio * clamp(Math.sqrt(this.explorer.state.view.zoom), 1, 3);
    this.drawPoints(0, this.large, radius);
    this.drawPoints(this.large, ALL, radius + 1.2 * this.ratio);
    this.pointsContext.putImageData(this.image, 0, 0);
    this.drawMarks();
    this.explorer.timings.draws.push(performance.now() - started);
  }

  /** Write the discs of the operations order[from..to-1] into the image. */
  drawPoints(from, to, radius) {
    const { width, height, pixels, current, scale, grey, order } = this;
    const colours = this.colouring.pixels;
    const offsets = discOffsets(radius, width);
    const margin = Math.ceil(radius);
    const left = this.screenX(0);
    const top = this.screenY(0);
    const greyPixel = pixelOf(NOT_CHOSEN);
    for (let i = from; i < to; i++) {
      const n = order[i];
      const x = Math.round(left + current[n] * scale);
      const y = Math.round(top - current[ALL + n] * scale);
      if (x < margin || y < margin || x >= width - margin || y >= height - margin) continue;
      const colour = i < grey ? greyPixel : colours[n];
      const at = y * width + x;
      for (let o = 0; o < offsets.length; o++) pixels[at + offsets[o]] = colour;
    }
  }

  /** Draw everything above the points. */
  drawMarks() {
    if (!this.view) return;
    const { state } = this.explorer;
    this.context.clearRect(0, 0, this.width, this.height);
    this.context.lineJoin = "round";
    if (this.run.loaded) {
      if (state.show.prior) this.drawPrior();
      this.drawPosterior();
      this.drawPath();
      this.drawPlace();
    }
    if (state.show.steps) this.drawSteps();
    this.drawTicks();
    this.drawRings();
    this.drawScale();
    if (this.lasso) this.stroke(this.lasso, "#A0357A", 1.5, [4, 3]);
  }

  /** Draw a line through places in device pixels, on a white line so that it shows on every colour. */
  stroke(places, colour, width = 2, dash = []) {
    const { context, ratio } = this;
    for (const [style, add] of [["#ffffffd0", 2.5], [colour, 0]]) {
      context.beginPath();
      places.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.strokeStyle = style;
      context.lineWidth = (width + add) * ratio;
      context.setLineDash(add ? [] : dash.map((length) => length * ratio));
      context.stroke();
    }
    context.setLineDash([]);
  }

  /** Write a text on white at a place in device pixels. */
  write(text, [x, y], { align = "center", colour = "#222", bold = false } = {}) {
    const { context, ratio } = this;
    context.font = `${bold ? "600 " : ""}${12 * ratio}px system-ui, sans-serif`;
    context.textAlign = align;
    context.textBaseline = "middle";
    const width = context.measureText(text).width;
    const left = align === "center" ? x - width / 2 : align === "right" ? x - width : x;
    context.fillStyle = "#ffffffd8";
    context.fillRect(left - 3 * ratio, y - 8.5 * ratio, width + 6 * ratio, 17 * ratio);
    context.fillStyle = colour;
    context.fillText(text, x, y);
  }

  ring(operation, radius, colour = "#000", width = 2) {
    const [x, y] = this.screenOf(operation);
    const { context, ratio } = this;
    for (const [style, add] of [["#fff", 2.5], [colour, 0]]) {
      context.beginPath();
      context.arc(x, y, radius * ratio, 0, 2 * Math.PI);
      context.strokeStyle = style;
      context.lineWidth = (width + add) * ratio;
      context.stroke();
    }
  }

  /** Return the ellipse of the points c + factor · Σ^½ (cos, sin), in device pixels, for a covariance in the plane. */
  ellipse(centre, [[xx, xy], [, yy]], factor) {
    const a = Math.sqrt(xx) || 1e-9;
    const b = xy / a;
    const c = Math.sqrt(Math.max(0, yy - b * b));
    return Array.from({ length: 73 }, (_, i) => {
      const [cos, sin] = [Math.cos(i * Math.PI / 36), Math.sin(i * Math.PI / 36)];
      return this.screen([centre[0] + factor * a * cos, centre[1] + factor * (b * cos + c * sin)]);
    });
  }

  /** Draw where draws from the prior lie: their typical radius √L, which is √2 in a plane. */
  drawPrior() {
    const [u, v] = this.view.axes;
    const covariance = [[dot(u, u), dot(u, v)], [dot(u, v), dot(v, v)]];
    const places = this.ellipse(this.view.project(u.map(() => 0)), covariance, Math.SQRT2);
    this.stroke(places, "#555", 1.3, [7, 4]);
    const [right] = places;
    const small = right[0] - places[36][0] < 120 * this.ratio;
    const place = small ? [right[0] + 8 * this.ratio, right[1]] : places[63];
    this.write("prior: typical radius", place, { colour: "#444", align: small ? "left" : "center" });
  }

  /** Draw one standard deviation of the posterior of the chosen operation. */
  drawPosterior() {
    const { lastChosen } = this.explorer;
    if (lastChosen < 0 || this.explorer.state.chosen.length > 1) return;
    const outputs = this.run.encode(this.epoch, this.pathway, lastChosen);
    const variance = Array.from(outputs.subarray(this.run.latents), (value) => Math.exp(value));
    const [u, v] = this.view.axes;
    const weigh = (a, b) => a.reduce((sum, value, i) => sum + value * b[i] * variance[i], 0);
    const x = this.current[lastChosen] * this.unit;
    const y = this.current[ALL + lastChosen] * this.unit;
    const places = this.ellipse([x, y], [[weigh(u, u), weigh(u, v)], [weigh(u, v), weigh(v, v)]], 1);
    this.stroke(places, "#222", 1);
    if (distance(places[0], places[36]) > 40 * this.ratio) this.write("± σ", places[9], { align: "left" });
  }

  /** Draw the step of each entry as an arrow from the mean place of − to that of +. */
  drawSteps() {
    const steps = this.view.means.map(([from, , to], k) => ({ k, from: this.screen(from), to: this.screen(to) }))
      .sort((a, b) => distance(b.from, b.to) - distance(a.from, a.to));
    const longest = distance(steps[0].from, steps[0].to);
    const named = [];
    for (const { k, from, to } of steps) {
      const length = distance(from, to);
      if (length > 12 * this.ratio) this.arrow(from, to);
      const [x, y] = mix(from, to, 1.06);
      // The names of short arrows, and of arrows that end at the same place, would cover each other.
      const covered = named.some(([otherX, otherY]) => (
        Math.abs(otherX - x) < 46 * this.ratio && Math.abs(otherY - y) < 18 * this.ratio));
      if (length < 0.3 * longest || covered) continue;
      named.push([x, y]);
      this.write(entryName(k), [x, y], { bold: true });
    }
  }

  arrow(from, to, colour = "#222") {
    const angle = Math.atan2(to[1] - from[1], to[0] - from[0]);
    const length = 9 * this.ratio;
    const barb = (turn) => [to[0] + length * Math.cos(angle + turn), to[1] + length * Math.sin(angle + turn)];
    this.stroke([from, to, barb(2.6), to, barb(-2.6)], colour, 1.6);
  }

  /** Write the values of the entry that explains most of an axis, as the labels of this axis. */
  drawTicks() {
    const margin = 30 * this.ratio;
    for (const axis of [0, 1]) {
      const [[k, share]] = this.view.explained(axis);
      if (share < 0.5) continue;
      const places = this.view.means[k].map((mean) => this.screen(mean)[axis]);
      const gap = Math.min(Math.abs(places[1] - places[0]), Math.abs(places[2] - places[1]));
      const crowded = this.width < 520 * this.ratio || gap < (axis ? 18 : 84) * this.ratio;
      places.forEach((at, value) => {
        const text = crowded ? SIGNS[value] : `${entryName(k)} = ${SIGNS[value]}`;
        if (at < margin || at > (axis ? this.height - margin : this.width) - margin) return;
        if (axis) this.write(text, [8 * this.ratio, at], { align: "left", bold: true });
        else this.write(text, [at, this.height - margin - 6 * this.ratio], { bold: true });
      });
    }
  }

  /** Draw rings around the chosen operations, their neighbours, the holes, and the point under the pointer. */
  drawRings() {
    const { state, lastChosen } = this.explorer;
    if (state.chosen.length === 1) {
      for (const { operation } of neighbours(lastChosen)) this.ring(operation, 4, "#555", 1);
      if (this.explorer.trail && this.explorer.trail.to === lastChosen) this.drawTrail(this.explorer.trail);
    }
    if ((state.tab === "holes" || state.show.holes) && this.run.loaded) {
      for (const [hole] of this.run.holes(this.epoch, this.pathway)) this.cross(this.screenOf(hole), 5, "#A0357A");
    }
    if (state.chosen.length <= 12) for (const operation of state.chosen) this.ring(operation, 7);
    if (this.hover >= 0) this.ring(this.hover, 6, "#222", 1.5);
  }

  /** Draw the way that a code took when one entry of the table was changed. */
  drawTrail({ from, to, entry }) {
    const places = [this.screenOf(from), this.screenOf(to)];
    this.arrow(...places, "#A0357A");
    const text = `${entryName(entry)}: ${SIGNS[entryOf(from, entry)]} to ${SIGNS[entryOf(to, entry)]}`;
    this.write(text, mix(...places, 0.5), { colour: "#A0357A", bold: true });
  }

  cross([x, y], size, colour) {
    const d = size * this.ratio;
    this.stroke([[x - d, y - d], [x, y], [x + d, y + d], [x, y], [x - d, y + d], [x, y], [x + d, y - d]], colour, 2);
  }

  drawPath() {
    const path = this.explorer.path(this);
    if (!path || this.explorer.state.tab !== "path") return;
    const [from, to] = [this.screenOf(path.from), this.screenOf(path.to)];
    this.stroke([from, to], "#222", 2);
    for (const { t } of path.flips) this.dot(mix(from, to, t), 3.5, "#A0357A");
    this.dot(mix(from, to, this.explorer.state.along), 6, "#000");
    this.write("from", [from[0], from[1] + 16 * this.ratio]);
    this.write("to", [to[0], to[1] + 16 * this.ratio]);
  }

  dot([x, y], radius, colour) {
    const { context, ratio } = this;
    context.beginPath();
    context.arc(x, y, radius * ratio, 0, 2 * Math.PI);
    Object.assign(context, { fillStyle: colour, strokeStyle: "#fff", lineWidth: 1.5 * ratio });
    context.fill();
    context.stroke();
  }

  /** Draw the place that the desk decodes. */
  drawPlace() {
    if (this.explorer.state.tab !== "desk" || this !== this.explorer.activeMap) return;
    const [x, y] = this.screen(this.view.project(this.explorer.place));
    const d = 9 * this.ratio;
    this.stroke([[x - d, y], [x + d, y]], "#000", 2);
    this.stroke([[x, y - d], [x, y + d]], "#000", 2);
  }

  /** Draw a bar with a round length in latent units. */
  drawScale() {
    const most = 130 * this.ratio / this.scale * this.unit;
    const power = 10 ** Math.floor(Math.log10(most));
    const length = power * [5, 2, 1].find((factor) => factor * power <= most);
    const width = length / this.unit * this.scale;
    const [x, y] = [12 * this.ratio, this.height - 14 * this.ratio];
    this.stroke([[x, y - 4 * this.ratio], [x, y], [x + width, y], [x + width, y - 4 * this.ratio]], "#222", 1.5);
    const text = `${short(length)} latent unit${length === 1 ? "" : "s"}`;
    const scale = this.explorer.state.oneScale ? `${text}, the scale of all epochs` : text;
    this.write(scale, [x + width + 8 * this.ratio, y - 2 * this.ratio], { align: "left" });
  }

  // ---- words

  writeAxes() {
    this.axes[0].textContent = `→ ${this.view.words(0)}`;
    this.axes[1].textContent = `↑ ${this.view.words(1)}`;
    const which = `${this.run.name}, pathway ${PATHWAYS[this.pathway]}, epoch ${this.run.epochs[this.epoch]}`;
    this.title.textContent = this.explorer.maps.length > 1 ? which : "";
    this.surface.setAttribute("aria-label", `Map of all operations: ${which}. `
      + `Left to right: ${this.view.words(0)}. Bottom to top: ${this.view.words(1)}. `
      + "Arrow keys go from point to point, Enter chooses, Shift+Enter adds, plus and minus zoom, 0 shows all.");
  }

  writeLegend() {
    const { title: words, items, ends, classes } = this.colouring;
    const choose = (value) => this.explorer.choose(IN_ORDER.filter((n) => classes[n] === value), "selection");
    const list = items?.map(({ label, colour, count }, value) => button(`legend ${value}`, () => choose(value), {
      title: `choose these ${format(count)} operations`, disabled: count === 0,
    }, swatch(colour), ` ${label} `, h("small", {}, format(count))));
    const scale = ends && h("div", { class: "scale" }, ends[0],
      h("i", { style: `background:linear-gradient(90deg,${SEQUENTIAL.join(",")})` }), ends[1]);
    this.explorer.keepFocus(this.legend, h("b", {}, `Colour: ${words}`), list ? h("div", {}, list) : scale);
  }

  // ---- pointer and keys

  listen() {
    const on = (event, listener, options) => this.surface.addEventListener(event, listener, options);
    on("pointerdown", (event) => this.press(event));
    on("pointermove", (event) => this.pull(event));
    on("pointerup", (event) => this.release(event));
    on("pointercancel", (event) => this.cancel(event));
    on("pointerleave", () => this.explorer.point(-1));
    on("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), this.place(event));
    }, { passive: false });
    on("dblclick", () => this.explorer.fit());
    on("keydown", (event) => this.key(event));
    on("blur", () => this.explorer.point(-1));
  }

  /** Return the place of a pointer in CSS pixels. */
  place(event) {
    const box = this.surface.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  /** The middle of the map in CSS pixels. */
  get middle() {
    return [this.width / 2 / this.ratio, this.centreY / this.ratio];
  }

  zoom(factor, [x, y]) {
    const { view } = this.explorer.state;
    const zoom = clamp(view.zoom * factor, 0.25, 200);
    const [dx, dy] = [x * this.ratio - this.width / 2, this.centreY - y * this.ratio];
    const change = 1 / this.scale * (1 - view.zoom / zoom);
    this.explorer.set({ view: { zoom, x: view.x + dx * change, y: view.y + dy * change } });
  }

  pan(dx, dy) {
    const { view } = this.explorer.state;
    const step = this.ratio / this.scale;
    this.explorer.set({ view: { zoom: view.zoom, x: view.x - dx * step, y: view.y + dy * step } });
  }

  press(event) {
    const place = this.place(event);
    this.surface.setPointerCapture(event.pointerId);
    this.surface.focus({ preventScroll: true });
    this.pointers.set(event.pointerId, place);
    if (this.pointers.size > 1) {
      this.drag = null;
      this.lasso = null;
      return;
    }
    const { tool } = this.explorer.state;
    const kind = event.altKey || tool === "decode" ? "decode" : event.shiftKey || tool === "lasso" ? "lasso" : "move";
    const adds = event.shiftKey || tool === "add";
    this.drag = { kind, from: place, last: place, moved: false, adds, touch: event.pointerType === "touch" };
    this.explorer.activate(this);
    if (kind === "decode") this.decodeAt(place);
  }

  pull(event) {
    const place = this.place(event);
    if (this.pointers.size > 1 && this.pointers.has(event.pointerId)) {
      this.pinch(event.pointerId, place);
    } else if (this.drag) {
      this.dragTo(place);
    } else {
      this.explorer.point(this.nearest(place, 12), this);
    }
  }

  dragTo(place) {
    const { drag } = this;
    drag.moved ||= Math.hypot(place[0] - drag.from[0], place[1] - drag.from[1]) > (drag.touch ? 9 : 4);
    if (drag.kind === "decode") {
      this.decodeAt(place);
    } else if (drag.moved && drag.kind === "move") {
      this.pan(place[0] - drag.last[0], place[1] - drag.last[1]);
      drag.last = place;
    } else if (drag.moved) {
      this.lasso ??= [drag.from.map((x) => x * this.ratio)];
      this.lasso.push(place.map((x) => x * this.ratio));
      this.drawMarks();
    }
  }

  /** Zoom and pan with two fingers. */
  pinch(id, place) {
    const other = [...this.pointers].find(([key]) => key !== id)[1];
    const before = this.pointers.get(id);
    this.pointers.set(id, place);
    const middle = mix(place, other, 0.5);
    this.zoom(distance(place, other) / (distance(before, other) || 1), middle);
    this.pan((place[0] - before[0]) / 2, (place[1] - before[1]) / 2);
  }

  release(event) {
    const { drag, lasso } = this;
    this.cancel(event);
    if (!drag) return;
    if (lasso) this.explorer.choose(this.inside(lasso), "selection");
    else if (drag.kind !== "decode" && !drag.moved) {
      this.explorer.click(this.nearest(drag.from, drag.touch ? 24 : 12), drag.adds);
    }
  }

  cancel(event) {
    this.pointers.delete(event.pointerId);
    this.drag = null;
    if (this.lasso) {
      this.lasso = null;
      this.drawMarks();
    }
  }

  decodeAt(place) {
    if (this.run.loaded) this.explorer.set({ place: this.view.lift(this.placeAt(place)), tab: "desk" });
  }

  /** Return the operation whose point is nearest to a place in CSS pixels, or -1 if none lies within a distance. */
  nearest([x, y], within) {
    const wantedX = (x * this.ratio - this.screenX(0)) / this.scale;
    const wantedY = (this.screenY(0) - y * this.ratio) / this.scale;
    let [best, found] = [(within * this.ratio / this.scale) ** 2, -1];
    for (let n = 0; n < ALL; n++) {
      const away = (this.current[n] - wantedX) ** 2 + (this.current[ALL + n] - wantedY) ** 2;
      // What is grey can be chosen only if nothing else is near.
      if (away < best && (!this.explorer.active || this.explorer.active[n] || found < 0)) [best, found] = [away, n];
    }
    return found;
  }

  /** Return the operations inside a polygon in device pixels, of those that pass the filter (Shimrat 1962). */
  inside(polygon) {
    const found = [];
    for (let n = 0; n < ALL; n++) {
      if (!this.explorer.passes[n]) continue;
      const [x, y] = this.screenOf(n);
      let odd = false;
      polygon.forEach(([x1, y1], i) => {
        const [x2, y2] = polygon[(i || polygon.length) - 1];
        if ((y1 > y) !== (y2 > y) && x < (x2 - x1) * (y - y1) / (y2 - y1) + x1) odd = !odd;
      });
      if (odd) found.push(n);
    }
    return found;
  }

  key(event) {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (arrows[event.key] && event.shiftKey) this.pan(-60 * arrows[event.key][0], 60 * arrows[event.key][1]);
    else if (arrows[event.key]) this.step(arrows[event.key]);
    else if (event.key === "Enter") this.explorer.click(this.hover, event.shiftKey);
    else if (event.key === "+" || event.key === "=") this.zoom(1.3, this.middle);
    else if (event.key === "-") this.zoom(1 / 1.3, this.middle);
    else if (event.key === "0") this.explorer.fit();
    else if (event.key === "Escape") this.explorer.choose([]);
    else return;
    event.preventDefault();
  }

  /** Point to the nearest operation in a direction from the one that is pointed to, or from the chosen one. */
  step([dx, dy]) {
    const { explorer, current } = this;
    const from = this.hover >= 0 ? this.hover : explorer.lastChosen;
    const [x0, y0] = from >= 0 ? [current[from], current[ALL + from]] : [explorer.state.view.x, explorer.state.view.y];
    let [best, found] = [Infinity, from];
    for (let n = 0; n < ALL; n++) {
      const [x, y] = [current[n] - x0, current[ALL + n] - y0];
      const ahead = x * dx + y * dy;
      if (n === from || ahead * this.scale < 3 * this.ratio || (explorer.active && !explorer.active[n])) continue;
      const cost = ahead + 2 * Math.abs(x * dy - y * dx);
      if (cost < best) [best, found] = [cost, n];
    }
    explorer.activate(this);
    explorer.point(found, this, true);
  }

  /** Show the table of the operation that is pointed to. */
  showTip(operation, speaks) {
    this.hover = operation;
    this.drawMarks();
    this.tip.hidden = operation < 0 || !speaks;
    if (this.tip.hidden) return;
    const [x, y] = this.screenOf(operation).map((value) => value / this.ratio);
    this.tip.replaceChildren(truthTable(tableOf(operation), { size: "small" }),
      h("div", {}, h("b", {}, this.run.label(operation)), h("br"), this.colouring.describe(operation)));
    const right = x > this.surface.clientWidth - 250;
    this.tip.style.left = right ? "" : `${x + 14}px`;
    this.tip.style.right = right ? `${this.surface.clientWidth - x + 14}px` : "";
    this.tip.style.top = `${clamp(y - 30, 4, this.surface.clientHeight - 84)}px`;
  }
}

/** Return the 18 operations that differ in one entry, as {operation, entry}. */
function neighbours(operation) {
  return EVERY_ENTRY.flatMap((entry) => [0, 1, 2].filter((value) => value !== entryOf(operation, entry))
    .map((value) => ({ operation: withEntry(operation, entry, value), entry })));
}

// ---------------------------------------------------------------- the state as a link

const TABS = { one: "One", selection: "Selection", path: "Path", holes: "Holes", desk: "Decoder" };
const TOOLS = {
  move: ["Move", "drag moves the map, a click chooses"],
  add: ["Add", "a click adds to the chosen operations (or shift and click)"],
  lasso: ["Lasso", "drag around operations to choose them (or shift and drag)"],
  decode: ["Decode", "drag over the map to decode any place of it (or alt and drag)"],
};
const SHOWN = {
  steps: ["arrows", "the mean step of the code when one entry goes from − to +"],
  prior: ["circle", "dashed: the typical radius of draws from the prior in this plane"],
  holes: ["holes", "operations that the decoder draws least often"],
};

const rounded = (numbers) => numbers.map((value) => Number(value.toPrecision(5))).join("_");
const numbersOf = (text) => text.split("_").map(Number);
const oneOf = (names) => (text) => (names.includes(text) ? text : undefined);
const keptEpoch = (text, run) => (/^\d+$/.test(text) ? run.epochs[run.nearest(Number(text))] : undefined);

/** How a link holds each part of the state: [write, read]. `read` returns undefined for what a run does not have. */
const LINK = {
  epoch: [String, keptEpoch],
  pathway: [String, oneOf(PATHWAYS)],
  plane: [({ kind, first, second }) => `${kind}-${first}-${second}`, (text, run) => {
    const [kind, first, second] = text.split("-");
    const plane = { kind, first: Number(first), second: Number(second) };
    return run.hasPlane(plane) ? plane : undefined;
  }],
  colour: [String, (text, run) => (run.hasColour(text) ? text : undefined)],
  since: [String, keptEpoch],
  tab: [String, oneOf(Object.keys(TABS))],
  tool: [String, oneOf(Object.keys(TOOLS))],
  chosen: [packed, unpacked],
  filter: [(filter) => Object.entries(filter).map(([key, values]) => `${key}:${values.join("_")}`).join(";"),
    (text, run) => Object.fromEntries(text.split(";").map((part) => part.split(":"))
      .filter(([key, values]) => values && run.header.properties.some((property) => property.key === key))
      .map(([key, values]) => [key, numbersOf(values)]))],
  beside: [(on) => (on ? "yes" : ""), (text) => text === "yes"],
  oneScale: [(on) => (on ? "yes" : ""), (text) => text === "yes"],
  view: [({ zoom, x, y }) => rounded([zoom, x, y]), (text) => {
    const [zoom, x, y] = numbersOf(text);
    return [zoom, x, y].every(Number.isFinite) && zoom > 0 ? { zoom, x, y } : undefined;
  }],
  show: [(show) => Object.keys(SHOWN).filter((name) => show[name]).join("_") || "nothing",
    (text) => Object.fromEntries(Object.keys(SHOWN).map((name) => [name, text.split("_").includes(name)]))],
  place: [(place) => (place ? rounded(place) : ""), (text, run) => {
    const place = numbersOf(text);
    return place.length === run.latents && place.every(Number.isFinite) ? place : undefined;
  }],
  along: [(along) => rounded([along]), (text) => (Number(text) >= 0 && Number(text) <= 1 ? Number(text) : undefined)],
};

/** Return chosen operations as text: their indices, or one bit for each operation in hexadecimal digits if many. */
function packed(chosen) {
  if (chosen.length <= 400) return chosen.join("_");
  const digits = new Uint8Array(Math.ceil(ALL / 4));
  for (const n of chosen) digits[n >> 2] |= 1 << (n & 3);
  return `x${Array.from(digits, (digit) => digit.toString(16)).join("")}`;
}

function unpacked(text) {
  if (!text.startsWith("x")) return numbersOf(text).filter((n) => Number.isInteger(n) && n >= 0 && n < ALL);
  return IN_ORDER.filter((n) => (parseInt(text[1 + (n >> 2)], 16) >> (n & 3)) & 1);
}

/** Return the parts of the state that a link holds. */
function stateOf(link, run) {
  const given = new URLSearchParams(link.replace(/^#/, ""));
  return Object.fromEntries(Object.entries(LINK).filter(([name]) => given.has(name))
    .map(([name, [, read]]) => [name, read(given.get(name), run)]).filter(([, value]) => value !== undefined));
}

function linkOf(state) {
  return Object.entries(LINK).map(([name, [write]]) => [name, write(state[name])]).filter(([, text]) => text !== "")
    .map(([name, text]) => `${name}=${text}`).join("&");
}

// ---------------------------------------------------------------- the explorer

/** Changes of these parts of the state leave the inspector as it is, or the buttons. */
const NOT_IN_INSPECTOR = ["view", "oneScale", "tool", "show"];
const NOT_IN_BUTTONS = ["view", "place", "along", "chosen"];

/** The interface of one mounted element, and the state that its parts share. */
class Explorer {
  constructor(element, runs, options) {
    Object.assign(this, { element, runs, options, alive: true, listeners: [], trail: null, panel: {}, changed: {} });
    [this.first] = runs;
    this.timings = { draws: [], changes: [] };
    this.still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.state = { ...this.startState(), ...stateOf(options.hash ? location.hash : options.link ?? "", this.first) };
    this.updateActive();
  }

  startState() {
    const { epochs, defaultPlane } = this.first;
    return {
      epoch: epochs[epochs.length - 1], pathway: "B", plane: defaultPlane, colour: `entry-${defaultPlane.second}`,
      since: epochs[0], chosen: [], filter: {}, tab: "one", beside: false, oneScale: false, tool: "move",
      view: { zoom: 1, x: 0, y: 0 }, show: { steps: true, prior: true, holes: false }, place: null, along: 0.5,
    };
  }

  /** The run of the inspector: that of the map which was used last. */
  get run() {
    return this.activeMap.run;
  }

  get pathway() {
    return PATHWAYS.indexOf(this.state.pathway);
  }

  get epoch() {
    return this.activeMap.epoch;
  }

  /** The operation that was chosen last, or -1. */
  get lastChosen() {
    return this.state.chosen[this.state.chosen.length - 1] ?? -1;
  }

  /** The latent that the desk decodes: the chosen place, or else the code of the chosen operation, or the mean code. */
  get place() {
    const { run, epoch, pathway, lastChosen } = this;
    if (this.state.place) return this.state.place;
    return lastChosen >= 0 ? run.code(epoch, pathway, lastChosen) : run.direction(epoch, pathway, 0);
  }

  // ---- building

  build() {
    this.bar = h("div", { class: "bar" });
    this.toolbar = h("div", { class: "toolbar" });
    this.mapArea = h("div", { class: "maps" });
    this.tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "inspector" }, Object.entries(TABS).map(
      ([name, label]) => button(name, () => this.set({ tab: name }), {
        role: "tab", on: { keydown: (event) => this.tabKey(event, name) },
      }, label)));
    this.content = h("div", {
      class: "content", role: "tabpanel", tabindex: -1, on: { pointerdown: () => { this.held = true; } },
    });
    this.chart = new Chart(this);
    this.live = h("div", { class: "live", role: "status", "aria-live": "polite" });
    const height = this.options.height && `--height:${this.options.height}px`;
    this.root = h("div", { class: "ternary-explorer", style: height }, h("div", { class: "frame" }, this.bar,
      h("div", { class: "left" }, this.toolbar, this.mapArea), this.chart.element,
      h("div", { class: "inspector" }, this.tabs, this.content)), this.live);
    this.element.replaceChildren(this.root);
    this.buildBar();
    this.buildToolbar();
    this.observer = new ResizeObserver(() => this.resize());
    this.buildMaps();
    this.closeMenus = (event) => {
      for (const details of this.root.querySelectorAll("details[open]")) {
        if (!event.composedPath().includes(details)) details.open = false;
      }
    };
    document.addEventListener("pointerdown", this.closeMenus);
    // The click of a pointer follows its release.
    this.letGo = () => {
      if (this.held) setTimeout(() => this.alive && this.showInspector());
      this.held = false;
    };
    for (const event of ["pointerup", "pointercancel"]) document.addEventListener(event, this.letGo);
    this.followHash = () => {
      if (location.hash !== this.written) this.set({ ...this.startState(), ...stateOf(location.hash, this.first) });
    };
    if (this.options.hash) window.addEventListener("hashchange", this.followHash);
  }

  buildMaps() {
    const [first, second] = this.runs;
    const alone = this.state.beside ? [[first, 0], [first, 1]] : [[first, null]];
    const pairs = second ? [[first, null], [second, null]] : alone;
    this.maps = pairs.map(([run, pathway]) => new OperationMap(this, run, pathway));
    this.activeMap = this.maps[this.state.beside && !second ? this.pathway : 0];
    this.mapArea.replaceChildren(...this.maps.map((map) => map.element));
    this.observer.disconnect();
    for (const part of [this.chart.slider, ...this.maps.map((map) => map.surface)]) this.observer.observe(part);
    for (const map of this.maps) map.resize();
  }

  resize() {
    if (!this.root.isConnected) return;
    for (const map of this.maps) {
      map.resize();
      map.draw();
    }
    this.chart.draw();
  }

  /** Show everything for the first time. */
  start() {
    this.build();
    for (const map of this.maps) map.move(false);
    this.showButtons();
    this.showInspector();
    this.chart.draw();
    this.ready = Promise.all(this.runs.map((run) => run.ready)).then(() => {
      if (!this.alive) return;
      for (const map of this.maps) map.refresh();
      this.showInspector();
    }).catch((error) => {
      this.content.replaceChildren(errorLine(`The networks cannot be read (${error.message}): build the page again.`));
      throw error;
    });
  }

  /** Replace the children of an element. The focus stays on the child with the same focus key. */
  keepFocus(container, ...children) {
    const focused = container.getRootNode().activeElement;
    const key = focused && container.contains(focused) ? focused.dataset.focus : undefined;
    container.replaceChildren(...present(children));
    if (key) container.querySelector(`[data-focus="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
  }

  // ---- state

  /** Change parts of the state, and show the change. */
  set(changes) {
    const started = performance.now();
    const has = (...names) => names.some((name) => name in changes);
    Object.assign(this.state, changes);
    this.state.epoch = this.first.epochs[this.first.nearest(this.state.epoch)];
    if (has("chosen", "filter", "tab")) this.updateActive();
    if (has("beside")) this.buildMaps();
    for (const map of this.maps) {
      if (has("epoch", "pathway", "plane", "oneScale", "beside")) map.move();
      else if (has("colour", "since", "chosen", "filter", "tab")) map.refresh();
      else if (has("view")) map.draw();
      else map.drawMarks();
    }
    if (has("epoch")) this.chart.update();
    this.timings.changes.push(performance.now() - started);
    Object.assign(this.changed, changes);
    this.planned ??= requestAnimationFrame(() => this.afterFrame());
  }

  /** Do what can wait until the next picture is drawn: the inspector, the buttons, the address and the listeners. */
  afterFrame() {
    const changes = this.changed;
    [this.changed, this.planned] = [{}, undefined];
    if (!this.alive) return;
    const beyond = (names) => Object.keys(changes).some((name) => !names.includes(name));
    if (beyond(NOT_IN_INSPECTOR)) this.showInspector();
    if (beyond(NOT_IN_BUTTONS)) this.showButtons();
    if (this.options.hash) this.writeHash();
    for (const listener of this.listeners) listener(changes, this.state);
  }

  /** Write the state into the address. Browsers refuse many changes of the address within a short time. */
  writeHash() {
    clearTimeout(this.writing);
    this.writing = setTimeout(() => {
      this.written = `#${linkOf(this.state)}`;
      history.replaceState(null, "", this.written);
    }, 150);
  }

  /** Find which operations pass the filter (`passes`) and which are not grey (`active`, null if none is grey). */
  updateActive() {
    const { chosen, filter, tab } = this.state;
    // A path between two operations needs the colours around it.
    this.several = chosen.length > (tab === "path" ? 2 : 1);
    this.passes = this.passing(filter);
    this.active = Object.keys(filter).length > 0 ? this.passes : null;
    if (this.several) {
      this.active = new Uint8Array(ALL);
      for (const n of chosen) this.active[n] = this.passes[n];
    }
  }

  /** Return 1 for each operation whose properties have values of the filter. The property `except` does not count. */
  passing(filter, except) {
    const passes = new Uint8Array(ALL).fill(1);
    this.first.header.properties.forEach(({ key }, index) => {
      if (!filter[key] || key === except) return;
      const values = this.first.property(index);
      for (let n = 0; n < ALL; n++) if (!filter[key].includes(values[n])) passes[n] = 0;
    });
    return passes;
  }

  choose(operations, tab = this.state.tab) {
    this.trail = null;
    this.set({ chosen: Array.from(operations), tab });
    const count = this.state.chosen.length;
    const words = count ? `${format(count)} operations are chosen.` : "Nothing is chosen.";
    this.say(count === 1 ? this.inWords(this.lastChosen) : words);
  }

  /** Choose the operation under a click, or add it to the chosen ones, or take it away from them. */
  click(operation, adds) {
    const { chosen } = this.state;
    if (operation < 0) {
      if (!adds) this.choose([]);
      return;
    }
    const others = chosen.filter((other) => other !== operation);
    const added = others.length < chosen.length ? others : [...chosen, operation];
    const now = adds ? added : [operation];
    this.choose(now, ["one", "one", "path"][now.length] ?? "selection");
  }

  /** Change one entry of the chosen operation to its next value. */
  changeEntry(entry) {
    const from = this.lastChosen;
    const to = withEntry(from, entry, (entryOf(from, entry) + 1) % 3);
    this.choose([to], "one");
    this.trail = { from, to, entry };
    for (const map of this.maps) map.drawMarks();
  }

  /** Point to an operation on all maps. The map `source` shows its table. */
  point(operation, source = null, aloud = false) {
    if (operation === this.pointed && !aloud) return;
    this.pointed = operation;
    for (const map of this.maps) map.showTip(operation, map === source);
    if (aloud && operation >= 0) this.say(this.inWords(operation));
  }

  /** Let the inspector show the run and the pathway of a map. */
  activate(map) {
    if (map === this.activeMap) return;
    this.activeMap = map;
    this.set({ pathway: PATHWAYS[map.pathway] });
  }

  fit() {
    this.set({ view: { zoom: 1, x: 0, y: 0 } });
  }

  inWords(operation) {
    return `Operation ${this.first.label(operation)}: ${tableWords(tableOf(operation))}.`;
  }

  say(text) {
    this.live.textContent = text;
  }

  /** Return the straight path between two chosen operations in the latent space of a map, or null. */
  path(map) {
    const { chosen } = this.state;
    if (chosen.length !== 2 || !map.run.loaded) return null;
    const key = `${map.run.name} ${map.epoch} ${map.pathway} ${chosen}`;
    if (map.path?.key !== key) map.path = { key, ...straightPath(map, ...chosen) };
    return map.path;
  }

  // ---- bar and toolbar

  buildBar() {
    const { header } = this.first;
    const follow = ({ target }) => { if (target.value) location.href = target.value + location.hash; };
    const runs = header.links?.length ? h("select", { "aria-label": "run", on: { change: follow } },
      option("", header.run, true), header.links.map(({ run, href }) => option(href, run))) : h("span", {}, header.run);
    const modes = { A: ["A", "encoder and decoder A"], B: ["B", "encoder and decoder B"] };
    if (this.runs.length === 1) modes.beside = ["A beside B", "two linked maps"];
    this.modes = choice("pathway", modes, (value) => this.set(
      value === "beside" ? { beside: true } : { pathway: value, beside: false }));
    this.colourMenu = menu("colour", () => this.fillColours());
    this.planeMenu = menu("plane", () => this.fillPlanes());
    this.field = h("input", {
      type: "search", placeholder: "find: product, 15665 or +0-/000/-0+", autocomplete: "off", spellcheck: "false",
      "aria-label": "find an operation by name, index or table",
      on: { input: () => this.showHits(false), keydown: (event) => this.searchKey(event) },
    });
    this.hits = h("div", { class: "hits", hidden: true });
    const copy = this.options.hash && button("copy link", () => this.copyLink(),
      { title: "copy a link that restores this page" }, "Copy link");
    this.bar.append(...present([h("strong", {}, "Latent explorer"), runs, h("span", { class: "word" }, "pathway"),
      this.modes, this.colourMenu, h("div", { class: "search" }, this.field, this.hits), copy]));
  }

  buildToolbar() {
    const zoom = (factor) => () => this.maps[0].zoom(factor, this.maps[0].middle);
    const shown = Object.entries(SHOWN).filter(([name]) => name !== "holes" || this.first.header.holes);
    this.tools = choice("tool", TOOLS, (tool) => this.set({ tool }));
    this.boxes = Object.fromEntries(shown.map(([name, [text, words]]) => [name, checkbox(text, words, (on) => (
      this.set({ show: { ...this.state.show, [name]: on } })))]));
    this.scaleBox = checkbox("one scale", "the same scale for all epochs", (oneScale) => this.set({ oneScale }));
    this.toolbar.append(this.planeMenu, this.tools, h("div", { class: "choice" },
      button("zoom out", zoom(1 / 1.4), { "aria-label": "zoom out" }, "−"),
      button("zoom in", zoom(1.4), { "aria-label": "zoom in" }, "+"),
      button("all", () => this.fit(), { title: "show all points" }, "All")),
    ...Object.values(this.boxes), this.scaleBox);
  }

  /** Show which buttons of the bar, of the toolbar and of the tabs are on. */
  showButtons() {
    const { state } = this;
    press(this.modes, state.beside ? "beside" : state.pathway);
    press(this.tools, state.tool);
    press(this.tabs, state.tab, "aria-selected");
    for (const one of this.tabs.children) one.tabIndex = one.dataset.focus === state.tab ? 0 : -1;
    for (const [name, box] of Object.entries(this.boxes)) box.firstChild.checked = state.show[name];
    this.scaleBox.firstChild.checked = state.oneScale;
    this.colourMenu.firstChild.replaceChildren("Colour: ", h("b", {}, colourLabel(this.first, state.colour)));
    const { kind, first, second } = state.plane;
    const [x, y] = [first, second].map((i) => (kind === "entries" ? entryName(i) : i));
    this.planeMenu.firstChild.replaceChildren("Plane: ", h("b", {}, `${kind} ${x} and ${y}`));
  }

  fillColours() {
    const { view } = this.activeMap;
    const set = (changes) => {
      this.set(changes);
      this.fillColours();
    };
    const pick = (colour, share) => button(colour, () => set({ colour }), {
      class: "line", "aria-pressed": String(this.state.colour === colour),
    }, colourLabel(this.first, colour), share !== undefined && h("small", {}, percent(share)));
    const properties = this.first.header.properties
      .map(({ key, values }, i) => [`property-${key}`, shareOf(view, this.first.property(i), values.length)])
      .sort((a, b) => b[1] - a[1]);
    const epochs = h("select", {
      "aria-label": "since epoch", data: { focus: "since" },
      on: { change: ({ target }) => set({ since: Number(target.value) }) },
    }, this.first.epochs.map((epoch) => option(epoch, `epoch ${epoch}`, epoch === this.state.since)));
    this.keepFocus(this.colourMenu.lastChild, h("h4", {}, "An entry of the table"),
      entryPicker("colour", (k) => this.state.colour === `entry-${k}`, (k) => set({ colour: `entry-${k}` }),
        (k) => percent(shareOf(view, TABLES.subarray(k * ALL, (k + 1) * ALL), 3))),
      note("Percent: the share of the map that this colour explains."), h("h4", {}, "The networks"), pick("back"),
      this.first.header.log_p_range && pick("probability"), h("h4", {}, "What changed since ", epochs), pick("moved"),
      h("h4", {}, "A property"), properties.map(([colour, share]) => pick(colour, share)));
  }

  fillPlanes() {
    const { plane } = this.state;
    const picker = (axis, words) => h("div", {}, note(words), entryPicker(
      axis, (k) => plane.kind === "entries" && plane[axis] === k, (k) => this.setPlane("entries", axis, k)));
    this.keepFocus(this.planeMenu.lastChild, h("h4", {}, "Steps of two entries"),
      h("div", { class: "pair" }, picker("first", "left to right"), picker("second", "bottom to top")),
      h("h4", {}, "Or two principal directions"), this.axisFields("directions"),
      h("h4", {}, "Or two dimensions of the latent"), this.axisFields("dimensions"));
  }

  /** Return two fields that choose directions or dimensions. */
  axisFields(kind) {
    const { plane } = this.state;
    const [low, high] = this.first.axisRange(kind);
    const numbers = Array.from({ length: high - low + 1 }, (_, i) => low + i);
    return h("div", { class: "pair" }, ["first", "second"].map((axis, i) => h("select", {
      "aria-label": `${kind}, ${["left to right", "bottom to top"][i]}`, data: { focus: `${kind} ${axis}` },
      on: { change: ({ target }) => this.setPlane(kind, axis, Number(target.value)) },
    }, plane.kind !== kind && option("", "–", true),
    numbers.map((number) => option(number, number, plane.kind === kind && plane[axis] === number)))));
  }

  /** Change one axis of the plane. A colour that showed the entry of the vertical axis follows it. */
  setPlane(kind, axis, value) {
    const { plane, colour } = this.state;
    const [low] = this.first.axisRange(kind);
    const start = kind === "entries" ? this.first.defaultPlane : { kind, first: low, second: low + 1 };
    const now = { ...(plane.kind === kind ? plane : start), [axis]: value };
    if (now.first === now.second) {
      this.fillPlanes();
      this.planeMenu.lastChild.append(errorLine("The two axes must differ: choose another one."));
      return;
    }
    const follows = kind === "entries" && plane.kind === kind && colour === `entry-${plane.second}`;
    this.set({ plane: now, ...(follows ? { colour: `entry-${now.second}` } : {}) });
    this.fillPlanes();
  }

  // ---- search

  /** Show what fits the text of the search field. If `chooses`, also choose the best. */
  showHits(chooses) {
    const text = this.field.value.trim();
    const { found = [], error } = text ? search(text, this.first.header.names) : {};
    const pick = (operation) => {
      this.hits.hidden = true;
      this.choose([operation], "one");
    };
    this.hits.hidden = !text || (chooses && !error);
    this.field.setAttribute("aria-invalid", String(Boolean(error)));
    this.hits.replaceChildren(...(error ? [errorLine(error)]
      : found.map((operation) => button(`hit ${operation}`, () => pick(operation), { class: "line" },
        truthTable(tableOf(operation), { size: "tiny" }), this.first.label(operation)))));
    if (chooses && found.length) pick(found[0]);
  }

  searchKey(event) {
    if (event.key === "Enter") this.showHits(true);
    if (event.key === "Escape") this.hits.hidden = true;
    if (event.key === "ArrowDown") this.hits.querySelector("button")?.focus();
  }

  copyLink() {
    this.copy(`${location.href.split("#")[0]}#${linkOf(this.state)}`, "The link is copied.");
  }

  /** Copy a text. Where the browser does not allow it, show the text for copying by hand. */
  async copy(text, words) {
    try {
      await navigator.clipboard.writeText(text);
      this.say(words);
    } catch {
      const area = h("textarea", { rows: 4, readonly: true, "aria-label": "copy this text" }, text);
      this.content.prepend(area);
      area.select();
      this.say("Copy the marked text.");
    }
  }

  // ---- inspector

  showInspector() {
    const { tab } = this.state;
    if (!this.run.loaded && (tab !== "one" || this.lastChosen >= 0)) {
      this.content.replaceChildren(para("reading the networks …"));
      return;
    }
    const panel = PANELS[tab](this);
    if (!panel.key || panel.key !== this.panel.key) {
      // What is under a pressed pointer stays, so that a click which has begun during a play is not lost.
      if (this.held) return;
      const top = panel.name === this.panel.name ? this.content.scrollTop : 0;
      const which = this.runs.length > 1 && note(`Of ${this.run.name}. A click on the other map shows the other run.`);
      this.keepFocus(this.content, which, panel.build());
      this.content.scrollTop = top;
      this.panel = panel;
    }
    this.panel.update?.();
  }

  tabKey(event, name) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const names = Object.keys(TABS);
    const next = names[(names.indexOf(name) + step + names.length) % names.length];
    this.set({ tab: next });
    this.tabs.querySelector(`[data-focus="${next}"]`).focus();
  }

  destroy() {
    this.alive = false;
    clearTimeout(this.writing);
    this.chart.stop();
    this.observer.disconnect();
    document.removeEventListener("pointerdown", this.closeMenus);
    for (const event of ["pointerup", "pointercancel"]) document.removeEventListener(event, this.letGo);
    window.removeEventListener("hashchange", this.followHash);
    for (const run of this.runs) run.destroy();
    this.element.replaceChildren();
  }
}

/** Return the name of a colour in the menu. */
function colourLabel(run, colour) {
  if (colour.startsWith("entry-")) return `entry ${entryName(Number(colour.slice("entry-".length)))}`;
  const labels = {
    back: "given back from its own code", probability: "ln p under the prior", moved: "how far the code moved",
  };
  return labels[colour] ?? run.header.properties.find(({ key }) => `property-${key}` === colour).label;
}

/** Return the share of the variance of the places on the map that classes of operations explain. */
function shareOf(view, classes, count) {
  const size = new Float64Array(count);
  const sums = new Float64Array(2 * count);
  let total = 0;
  for (let n = 0; n < ALL; n++) {
    const [x, y] = [view.coordinates[n], view.coordinates[ALL + n]];
    size[classes[n]] += 1;
    sums[2 * classes[n]] += x;
    sums[2 * classes[n] + 1] += y;
    total += x * x + y * y;
  }
  const explained = size.reduce((sum, many, i) => sum + (many && (sums[2 * i] ** 2 + sums[2 * i + 1] ** 2) / many), 0);
  return total ? explained / total : 0;
}

// ---------------------------------------------------------------- the panels of the inspector

/**
 * Panels by tab. A panel has `build`, which returns its children. One with a `key` is built once for this key and then
 * only updated, so that its sliders stay under the pointer.
 */
const PANELS = { one: onePanel, selection: selectionPanel, path: pathPanel, holes: holesPanel, desk: deskPanel };

const best = (probabilities) => EVERY_ENTRY.map((k) => [0, 1, 2].reduce((most, v) => (
  probabilities[3 * k + v] > probabilities[3 * k + most] ? v : most), 0));
const certaintyWords = (p) => (p > 0.9995 ? "p > 0.999" : `p = ${short(p)}`);
const certaintyOf = (probabilities, table) => table.reduce((p, value, k) => p * probabilities[3 * k + value], 1);
const inPathway = (pathway, text = PATHWAYS[pathway]) => h("b", { class: `pathway-${PATHWAYS[pathway]}` }, text);
const figure = (table, ...caption) => h("figure", {}, table, h("figcaption", {}, caption));
const title = (...children) => h("h3", {}, children);
const heading = (...children) => h("h4", {}, children);
/** The page holds ln p to 1/255 of its range, so two digits of N·p are enough. */
const expectedDraws = (logP) => short(Number((ALL * Math.exp(logP)).toPrecision(2)));

/** A small table that chooses its operation. */
function operationButton(explorer, operation, { reference, words, tab = "one" } = {}) {
  return button(`operation ${operation}`, () => explorer.choose([operation], tab), {
    class: "operation", "aria-label": `${explorer.inWords(operation)} ${words ?? ""}`,
    on: { pointerenter: () => explorer.point(operation), pointerleave: () => explorer.point(-1) },
  }, truthTable(tableOf(operation), { reference, size: "small" }),
  h("span", {}, explorer.run.label(operation), words && h("small", {}, words)));
}

/** The table that a decoder gives for a latent, with its certainty. It is compared with a table if there is one. */
function decodedFigure(explorer, pathway, z, reference) {
  const probabilities = explorer.run.decode(explorer.epoch, pathway, z);
  const table = best(probabilities);
  const same = reference && indexOf(reference) === indexOf(table);
  return figure(truthTable(table, { probabilities, reference, words: `decoder ${PATHWAYS[pathway]}` }),
    inPathway(pathway, `decoder ${PATHWAYS[pathway]}`), h("br"), explorer.run.label(indexOf(table)), h("br"),
    certaintyWords(certaintyOf(probabilities, table)), reference && h("br"),
    reference && h("span", { class: same ? "yes" : "no" }, same ? "✓ given back" : "✗ not given back"));
}

// ---- one operation, or the start text

function onePanel(explorer) {
  const operation = explorer.lastChosen;
  const build = () => (operation < 0 ? startText(explorer) : oneOperation(explorer, operation));
  return { name: `one ${operation < 0}`, build };
}

function startText(explorer) {
  const { run, activeMap } = explorer;
  const { plane } = activeMap.view;
  const { title: colour, items } = activeMap.colouring;
  const axis = (i) => (plane.kind === "entries" ? [h("b", {}, `entry ${entryName(i ? plane.second : plane.first)}`),
    " of the table goes from − to +"] : activeMap.view.words(i));
  const legend = items?.map(({ label, colour: of }, i) => [
    i > 0 && ", ", h("span", { class: "item" }, swatch(of), ` ${label}`)]);
  return [title("What is on the map"),
    para(h("b", {}, "Each point is one of the 19,683 truth tables"), " of an operation f(a, b) with values −, 0 and +; "
      + "it lies where the encoder of pathway ", inPathway(explorer.pathway),
    ` puts it at epoch ${run.epochs[explorer.epoch]}.`),
    para(h("b", {}, "The map is a plane"), ` of the ${run.latents} latent dimensions: to the right, `, axis(0),
      "; upwards, ", axis(1), "."),
    para(h("b", {}, "The colour"), ` shows the ${colour}: `, legend ?? "see the scale on the map", "."),
    para("Look at ", startLinks(explorer).map((one, i) => [i > 0 && " · ", one]), "."),
    heading("Words"), definitions(WORDS), heading("How to"), definitions(HOW_TO)];
}

const definitions = (list) => (
  h("dl", {}, Object.entries(list).map(([name, words]) => [h("dt", {}, name), h("dd", {}, words)])));

const WORDS = {
  "arrow": "mean step of the code if one entry goes from − to +",
  "circle": "typical distance of draws from the prior N(0, I): √2 in a plane",
  "pathway": "one of the model's two pairs of encoder and decoder",
  "coverage": "informative coverage: exp(I) / 19,683; I: information of a decoder's output about its latent",
  "hole": "a table that draws from the prior almost never give",
};

const HOW_TO = {
  "hover, click": "see a table; choose it",
  "shift + click": "add it; two give a path",
  "shift + drag": "choose with a lasso",
  "alt + drag": "decode any place of the map",
  "wheel, pinch": "zoom; double click shows all",
  "keys on the map": "arrows: next point, Enter: choose, Shift+Enter: add, Shift+arrows: move the map, "
    + "+ − 0: zoom, Esc: choose nothing",
  "keys on the chart": "arrows: next epoch, space: play",
};

/** Return buttons that move the page to what is worth seeing. */
function startLinks(explorer) {
  const { run, first } = explorer;
  const at = (epoch) => textButton(`epoch ${epoch}`, () => explorer.set({ epoch }));
  // The best moments are changes of a schedule of which the run kept the epoch before and the epoch itself.
  const kept = new Set(first.epochs);
  const moments = first.header.events.filter(({ epoch }) => kept.has(epoch - 1) && kept.has(epoch)).slice(0, 2);
  const [hole] = run.holes(explorer.epoch, explorer.pathway);
  const named = Object.keys(first.header.names).map(Number);
  return present([at(first.epochs[0]),
    moments.map(({ epoch, text }) => h("span", {}, at(epoch - 1), " and ", at(epoch), ` (${text})`)),
    at(first.epochs[first.epochs.length - 1]),
    hole && textButton("a hole", () => explorer.choose([hole[0]], "holes"), "an operation that is almost never drawn"),
    textButton("a path", () => explorer.choose(named.slice(0, 2), "path"), "a straight line between two operations"),
    explorer.runs.length === 1 && textButton("A beside B", () => explorer.set({ beside: true })),
    textButton("what is given back", () => explorer.set({ colour: "back" })),
    textButton("a table to change", () => explorer.choose([named[named.length - 1]], "one"))]);
}

function oneOperation(explorer, operation) {
  const { run, epoch, pathway } = explorer;
  const table = tableOf(operation);
  const codes = [0, 1].map((p) => run.code(epoch, p, operation));
  const near = neighbours(operation).map(({ operation: other, entry }) => ({
    other, entry, away: distance(run.code(epoch, pathway, other), codes[pathway]),
  })).sort((a, b) => a.away - b.away);
  const facts = run.header.properties.map(({ label, kind, values }, i) => {
    const value = values[run.property(i)[operation]];
    return kind === "flag" ? value === "yes" && label : `${label}: ${value}`;
  }).filter(Boolean);
  return [title(run.label(operation), " ", textButton("choose nothing", () => explorer.choose([], "one"))),
    h("div", { class: "figures" },
      figure(withArguments(truthTable(table, { onEntry: (k) => explorer.changeEntry(k), words: "the operation" })),
        "f(a,b): click an entry to change it; the map shows how the code moves"),
      [0, 1].map((p) => decodedFigure(explorer, p, codes[p], table))),
    note("Each decoder reads the code of its own pathway. Percent: its certainty of an entry. Frame: a wrong entry."),
    para(facts.join(" · ")),
    run.header.log_p_range && para("Expected draws among 19,683 from the prior (uniform: 1): ",
      [0, 1].map((p) => [inPathway(p), ` ${expectedDraws(run.logProbability(epoch, p, operation))} `])),
    heading("Its code in pathway ", inPathway(pathway), ": μ ± σ of each latent dimension"),
    codePlot(run.latents, run.encode(epoch, pathway, operation)),
    heading("One entry away, the nearest code first"),
    h("div", { class: "operations" }, near.map(({ other, entry, away }) => operationButton(explorer, other, {
      reference: table, words: `${entryName(entry)}, distance ${away.toFixed(2)}` })))];
}

/** Draw μ ± σ of each latent dimension from the outputs of an encoder. */
function codePlot(latents, outputs) {
  const mu = Array.from(outputs.subarray(0, latents));
  const sigma = Array.from(outputs.subarray(latents), (value) => Math.exp(value / 2));
  const most = Math.max(2, ...mu.map((value, i) => Math.abs(value) + sigma[i]));
  const x = (i) => 24 + 380 * i / Math.max(1, latents - 1);
  const y = (value) => 34 - 30 * value / most;
  const words = `μ: ${mu.map((value) => fixed(value, 1)).join(", ")}`;
  const dimension = (value, i) => h("g", {},
    h("title", {}, `dimension ${i}: ${fixed(value, 2)} ± ${fixed(sigma[i], 2)}`),
    h("line", { x1: x(i), x2: x(i), y1: y(value - sigma[i]), y2: y(value + sigma[i]), class: "sigma" }),
    h("circle", { cx: x(i), cy: y(value), r: 3.2, class: "mu" }),
    h("text", { x: x(i), y: 80, "text-anchor": "middle" }, i));
  return h("svg", { class: "small-chart", viewBox: "0 0 420 84", role: "img", "aria-label": words },
    h("line", { x1: 12, x2: 420, y1: y(0), y2: y(0), class: "base" }), h("text", { x: 0, y: y(0) + 3 }, 0),
    mu.map(dimension));
}

// ---- selection

function selectionPanel(explorer) {
  const { run, state, active, first } = explorer;
  const chosen = active ? IN_ORDER.filter((n) => active[n]) : [];
  const clear = active && textButton("show all again", () => explorer.set({ chosen: [], filter: {} }));
  return { name: "selection", build: () => [
    title(active ? `${format(chosen.length)} of` : "All", ` ${format(ALL)} operations `, clear),
    !active && para("Choose a value below to filter, or draw a lasso on the map (shift and drag)."),
    active && !chosen.length && para("No operation has all of this: take a value away below."),
    chosen.length > 0 && chosenFacts(explorer, chosen),
    state.chosen.length === 2 && para(textButton("the path between the two", () => explorer.set({ tab: "path" }))),
    heading("Properties: a click keeps only this value; the bar shows how many of its operations are chosen"),
    h("div", { class: "facets" }, first.header.properties.map((property, i) => (
      facet(explorer, property, first.property(i))))),
    chosen.length > 0 && [heading("Nearest to the middle of the chosen ones"), h("div", { class: "operations" },
      typical(explorer.activeMap.view, chosen).map((operation) => operationButton(explorer, operation)))],
    chosen.length > 0 && note(`Given back and probabilities are of the run ${run.name}.`)] };
}

/** Describe chosen operations: their most frequent table, what is fixed, and what tells them from the others. */
function chosenFacts(explorer, chosen) {
  const { run, epoch } = explorer;
  const shares = new Float32Array(3 * ENTRIES);
  for (const n of chosen) for (let k = 0; k < ENTRIES; k++) shares[3 * k + TABLES[k * ALL + n]] += 1 / chosen.length;
  const table = best(shares);
  const sure = EVERY_ENTRY.filter((k) => shares[3 * k + table[k]] > 0.95)
    .map((k) => `${entryName(k)} = ${SIGNS[table[k]]}`);
  const given = (p) => chosen.reduce((sum, n) => sum + run.givenBack(epoch, p, n), 0) / chosen.length;
  return [h("div", { class: "figures" },
    figure(truthTable(table, { probabilities: shares }), "most frequent value of each entry"),
    h("div", { class: "facts" }, para(h("b", {}, "Fixed entries (more than 95 %): "), sure.join(", ") || "none"),
      para(h("b", {}, "What differs from all: "), differences(run, chosen).join("; ") || "nothing"),
      para("Given back: ", [0, 1].map((p) => [inPathway(p), ` ${percent(given(p))} `])))),
  para(textButton("download CSV", () => download(explorer, chosen)), " · ",
    textButton("copy the indices", () => explorer.copy(chosen.join(", "), "The indices are copied.")))];
}

/** Say in which properties chosen operations differ most from all operations. */
function differences(run, chosen) {
  return run.header.properties.flatMap(({ label, kind, values }, i) => {
    const property = run.property(i);
    return values.map((value, v) => ({
      words: kind === "flag" ? label : `${label} = ${value}`, counts: kind !== "flag" || v === 1,
      inside: chosen.reduce((sum, n) => sum + (property[n] === v), 0) / chosen.length,
      all: property.reduce((sum, one) => sum + (one === v), 0) / ALL,
    }));
  }).filter(({ counts, inside, all }) => counts && Math.abs(inside - all) > 0.02)
    .sort((a, b) => Math.abs(b.inside - b.all) - Math.abs(a.inside - a.all)).slice(0, 5)
    .map(({ words, inside, all }) => `${words}: ${percent(inside)} (of all: ${percent(all)})`);
}

/** The values of a property as buttons that filter. A bar shows which share of the operations of a value is chosen. */
function facet(explorer, { key, label, values, meaning }, property) {
  const { filter, chosen } = explorer.state;
  const passes = explorer.passing(filter, key);
  const inside = explorer.several ? new Set(chosen) : null;
  const counts = values.map(() => [0, 0]);
  for (let n = 0; n < ALL; n++) {
    counts[property[n]][1] += 1;
    if (passes[n] && (!inside || inside.has(n))) counts[property[n]][0] += 1;
  }
  const kept = filter[key] ?? [];
  const toggle = (v) => {
    const { [key]: before, ...rest } = filter;
    const now = kept.includes(v) ? before.filter((one) => one !== v) : [...kept, v];
    explorer.set({ filter: now.length ? { ...rest, [key]: now } : rest });
  };
  const buttons = values.map((value, v) => button(`${key} ${v}`, () => toggle(v), {
    class: "facet", "aria-pressed": String(kept.includes(v)),
    style: `--share:${100 * counts[v][0] / Math.max(1, counts[v][1])}%`,
  }, value, h("small", {}, counts[v].map(format).join(" / "))));
  return [h("div", { class: "facet-label", title: meaning }, label), h("div", { class: "facet-values" }, buttons)];
}

/** Return the 12 chosen operations whose points lie nearest to the middle of the chosen points. */
function typical(view, chosen) {
  const middle = [0, 1].map((c) => chosen.reduce((sum, n) => sum + view.at(n)[c], 0) / chosen.length);
  const away = (n) => distance(view.at(n), middle);
  return chosen.map((n) => [away(n), n]).sort((a, b) => a[0] - b[0]).slice(0, 12).map(([, n]) => n);
}

/** Save chosen operations as a CSV file: tables, properties, what the decoders give, and places on the map. */
function download(explorer, chosen) {
  const { run, epoch, pathway } = explorer;
  const { view } = explorer.activeMap;
  const quoted = (text) => (/[",]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const columns = [
    ["operation", (n) => n], ["name", (n) => run.header.names[n] ?? ""],
    ...EVERY_ENTRY.map((k) => [`f(${Math.floor(k / 3) - 1},${(k % 3) - 1})`, (n) => entryOf(n, k) - 1]),
    ...run.header.properties.map(({ key, values }, i) => [key, (n) => values[run.property(i)[n]]]),
    ...[0, 1].map((p) => [`given_back_${PATHWAYS[p]}`, (n) => run.givenBack(epoch, p, n)]),
    ...(run.header.log_p_range ? [0, 1] : []).map((p) => [
      `log_p_${PATHWAYS[p]}`, (n) => run.logProbability(epoch, p, n).toFixed(2)]),
    ...[0, 1].map((c) => [`${"xy"[c]}_${PATHWAYS[pathway]}`, (n) => view.at(n)[c].toFixed(4)]),
  ];
  const rows = [columns.map(([name]) => name), ...chosen.map((n) => columns.map(([, value]) => String(value(n))))];
  const text = rows.map((row) => `${row.map(quoted).join(",")}\n`).join("");
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const name = `operations-${run.name.replace(/\W+/g, "-")}-epoch-${run.epochs[epoch]}.csv`;
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
  explorer.say(`${format(chosen.length)} operations are saved as CSV.`);
}

// ---- path

/** Decode a straight line between two codes: the certainty on the way, and where an entry of the table changes. */
function straightPath({ run, epoch, pathway }, from, to) {
  const [start, end] = [from, to].map((n) => run.code(epoch, pathway, n));
  const steps = Array.from({ length: PATH_STEPS + 1 }, (_, i) => {
    const probabilities = run.decode(epoch, pathway, mix(start, end, i / PATH_STEPS));
    const table = best(probabilities);
    return { t: i / PATH_STEPS, table, certainty: certaintyOf(probabilities, table) };
  });
  const flips = steps.slice(1).flatMap(({ t, table }, i) => EVERY_ENTRY.filter((k) => table[k] !== steps[i].table[k])
    .map((entry) => ({ t, entry, before: steps[i].table[entry], table })));
  return { from, to, start, end, steps, flips, length: distance(start, end) };
}

function pathPanel(explorer) {
  const path = explorer.path(explorer.activeMap);
  if (!path) return { name: "path", build: () => pathHelp(explorer) };
  const { run, epoch, pathway } = explorer;
  const output = h("div", {});
  const slider = range("place on the path", 0, 1, (along) => explorer.set({ along }));
  return {
    name: "path", key: `path ${path.key}`,
    build: () => [title(`${run.label(path.from)} to ${run.label(path.to)}`),
      para("The straight line between the codes in pathway ", inPathway(pathway), ": ",
        `length ${path.length.toFixed(2)}.`),
      slider, output, heading(`${path.flips.length} changes of an entry on the way`),
      h("div", { class: "operations" }, path.flips.map((flip) => flipButton(explorer, flip))),
      para(textButton("exchange from and to", () => explorer.choose([path.to, path.from], "path")))],
    update() {
      const { along } = explorer.state;
      const probabilities = run.decode(epoch, pathway, mix(path.start, path.end, along));
      const table = best(probabilities);
      slider.value = along;
      const [from, to] = [path.from, path.to].map(tableOf);
      const here = truthTable(table, { probabilities, reference: from });
      const lines = [{ values: path.steps.map(({ certainty }) => certainty), colour: PATHWAY_COLOURS[pathway] }];
      const xs = path.steps.map(({ t }) => t);
      output.replaceChildren(h("div", { class: "figures" }, figure(truthTable(from), "from"),
        figure(here, `at ${percent(along)}: ${run.label(indexOf(table))}`), figure(truthTable(to), "to")),
      lineChart({ height: 56, xs, top: 1, marker: along, words: "certainty on the way", lines }),
      note("Curve: the certainty of the most probable table, from 0 to 1. It is low where an entry changes."));
    },
  };
}

function pathHelp(explorer) {
  const { run } = explorer;
  const [from, to] = Object.keys(run.header.names).map(Number);
  const example = textButton(`${run.label(from)} to ${run.label(to)}`, () => explorer.choose([from, to], "path"));
  return [title("A path between two operations"),
    para("Choose two operations: click one, then hold shift and click another (or use the button Add above the map). "
      + "The page decodes the straight line between their codes."),
    para("For example ", example, ".")];
}

function flipButton(explorer, { t, entry, before, table }) {
  const words = `${entryName(entry)}: ${SIGNS[before]} to ${SIGNS[table[entry]]}`;
  const reference = table.with(entry, before);
  return button(`flip ${t} ${entry}`, () => explorer.set({ along: t }), { class: "operation" },
    truthTable(table, { reference, size: "small" }),
    h("span", {}, words, h("small", {}, `at ${percent(t)} of the way`)));
}

// ---- holes

function holesPanel(explorer) {
  const { run, epoch, pathway } = explorer;
  const holes = run.holes(epoch, pathway);
  const chosen = holes.find(([operation]) => operation === explorer.lastChosen);
  return { name: "holes", build: () => (holes.length ? [
    title("Holes: what decoder ", inPathway(pathway), " draws least often"),
    para("A latent is drawn from the prior and decoded. With equal chances, each operation would come once in 19,683 "
      + "draws. These come least often; crosses on the map show them."),
    chosen && holeReasons(explorer, ...chosen),
    h("div", { class: "operations" }, holes.slice(0, 12).map(([operation, logP]) => (
      operationButton(explorer, operation, { tab: "holes", words: `expected draws ${expectedDraws(logP)}` })))),
    heading("What the holes share"), para(sharedEntries(holes)),
    heading(`Operations with fewer than ${RARELY_DRAWN} expected draws, by epoch`), rareTrend(run, epoch)]
    : [title("Holes"), para("This page holds no probabilities under the prior.")]) };
}

/** Say why an operation is drawn so seldom: what its own code gives, and how far out its code lies. */
function holeReasons(explorer, operation, logP) {
  const { run, epoch, pathway } = explorer;
  const code = run.code(epoch, pathway, operation);
  const table = tableOf(operation);
  const probabilities = run.decode(epoch, pathway, code);
  const weak = EVERY_ENTRY.map((k) => [k, probabilities[3 * k + table[k]]]).filter(([, p]) => p < 0.9)
    .map(([k, p]) => `${entryName(k)} (${percent(p)} for ${SIGNS[table[k]]})`).join(", ");
  const own = Math.hypot(...code);
  const sample = Array.from(RANDOM_ORDER.subarray(0, 200), (n) => Math.hypot(...run.code(epoch, pathway, n)));
  const nearer = sample.filter((other) => other < own).length / sample.length;
  const p = short(Number(Math.exp(logP).toPrecision(2)));
  return h("div", { class: "reasons" }, heading(`Why ${run.label(operation)}?`), h("div", { class: "figures" },
    figure(truthTable(table), "the operation"), decodedFigure(explorer, pathway, code, table)),
  h("ul", {}, [
    weak ? `Even from its own code the decoder is unsure of ${weak}.`
      : `From its own code the decoder gives it back with ${certaintyWords(certaintyOf(probabilities, table))}: the `
        + "place exists, but draws from the prior rarely fall there.",
    `Its code lies ${own.toFixed(2)} from the middle of the prior. ${percent(nearer)} of all codes lie nearer; draws `
      + `from the prior lie at about ${Math.sqrt(run.latents).toFixed(1)}.`,
    `p = ${p}, from ${format(run.header.log_p_latents)} draws of the prior; expected draws ${expectedDraws(logP)} `
      + "(with equal chances: 1).",
  ].map((reason) => h("li", {}, reason))), textButton("all about this operation", () => explorer.set({ tab: "one" })));
}

/** Return in words which values of entries are much more frequent among the holes than among all operations. */
function sharedEntries(holes) {
  const share = (k, value) => holes.filter(([n]) => entryOf(n, k) === value).length / holes.length;
  const common = EVERY_ENTRY.flatMap((k) => [0, 1, 2].map((value) => [k, value, share(k, value)]))
    .filter(([, , part]) => part > 0.6).sort((a, b) => b[2] - a[2]).slice(0, 5)
    .map(([k, value, part]) => `${entryName(k)} = ${SIGNS[value]} in ${percent(part)}`).join(", ");
  return common ? `Of these ${holes.length}: ${common} (33 % of all operations).`
    : `Of these ${holes.length}, no value of an entry comes in more than 60 %.`;
}

function rareTrend(run, epoch) {
  run.trend ??= [0, 1].map((p) => run.epochs.map((_, e) => run.rareShare(e, p)));
  const [a, b] = run.trend;
  const top = Math.max(...a, ...b);
  const lines = [{ values: a, colour: PATHWAY_COLOURS[0] }, { values: b, colour: PATHWAY_COLOURS[1], dash: "6 3" }];
  const words = `share of rarely drawn operations by epoch, up to ${percent(top)}`;
  return [lineChart({ height: 90, xs: run.epochs, top, marker: run.epochs[epoch], words, lines }),
    note(`At epoch ${run.epochs[epoch]}: `, inPathway(0, "A, solid: "), percent(a[epoch]), ", ",
      inPathway(1, "B, dashed: "), percent(b[epoch]), ` of all operations. Highest: ${percent(top)}.`)];
}

// ---- desk

/** The desk decodes a latent, which the user moves on the map or along the principal directions. */
function deskPanel(explorer) {
  const { run, epoch, pathway, lastChosen } = explorer;
  const mean = run.direction(epoch, pathway, 0);
  // The sliders reach all codes and most draws from the prior.
  const reach = Math.max(5, Math.ceil(explorer.activeMap.view.extent));
  const output = h("div", {});
  const sliders = Array.from({ length: run.header.directions_per_epoch }, (_, i) => {
    const direction = run.direction(epoch, pathway, i + 1);
    const at = () => dot(direction, explorer.place) - dot(direction, mean);
    const slider = range(`direction ${i + 1}`, -reach, reach, (value) => {
      const change = value - at();
      explorer.set({ place: explorer.place.map((x, j) => x + change * direction[j]) });
    });
    return { at, slider, value: h("output", {}) };
  });
  const go = (text, place) => textButton(text, () => explorer.set({ place: place() }));
  return {
    name: "desk", key: `desk ${run.name} ${epoch} ${pathway} ${lastChosen}`,
    build: () => [title("Decode any place, pathway ", inPathway(pathway)),
      para("Hold alt and drag over the map (or use the button Decode above it), or move the sliders. "
        + "A cross on the map shows the place."),
      output, para("Go to ", go("the middle of all codes", () => mean), " · ",
        lastChosen >= 0 && [go("the code of the chosen operation", () => run.code(epoch, pathway, lastChosen)), " · "],
        go("a draw from the prior", () => mean.map(standardNormal))),
      heading("Along the principal directions, in latent units from the middle of all codes"),
      h("div", { class: "sliders" }, sliders.map(({ slider, value }, i) => h("label", {}, `${i + 1}`, slider, value)))],
    update() {
      const z = explorer.place;
      for (const { at, slider, value } of sliders) {
        slider.value = at();
        value.textContent = fixed(at(), 2);
      }
      const decoded = () => indexOf(best(run.decode(epoch, pathway, z)));
      const words = `The place lies ${Math.hypot(...z).toFixed(2)} from the middle of the prior; draws from the prior `
        + `lie at about ${Math.sqrt(run.latents).toFixed(1)}.`;
      const choose = textButton("choose the decoded operation", () => explorer.choose([decoded()], "one"));
      output.replaceChildren(h("div", { class: "figures" }, decodedFigure(explorer, pathway, z),
        h("div", { class: "facts" }, para(words), choose)));
    },
  };
}

/** Draw from the standard normal distribution (Box & Muller 1958). */
const standardNormal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

// ---------------------------------------------------------------- the chart of the training

/** The course of the training, which is also the slider of the epochs. */
class Chart {
  constructor(explorer) {
    const { header, epochs } = explorer.first;
    const { history, events } = header;
    Object.assign(this, { explorer, epochs, history, events, timer: null, hovered: null });
    this.play = button("play", () => this.toggle(), { class: "play" });
    this.slider = h("div", {
      class: "epochs", role: "slider", tabindex: 0, "aria-label": "epoch", data: { focus: "epochs" }, on: {
        pointerdown: (event) => this.press(event),
        pointermove: (event) => (event.buttons ? this.go(event) : this.hover(event)),
        pointerleave: () => this.leave(),
        keydown: (event) => this.key(event),
      },
    });
    this.readout = h("div", { class: "readout" });
    this.element = h("div", { class: "chart" }, this.play, this.slider, this.readout);
    this.stop();
  }

  /** First and last epoch of the chart. */
  get ends() {
    const all = [...this.epochs, ...this.history.epoch];
    return [Math.min(...all), Math.max(...all)];
  }

  x(epoch) {
    const [first, last] = this.ends;
    return 8 + (this.width - 16) * (epoch - first) / (last - first || 1);
  }

  /** Return the epoch under a pointer. */
  epochAt(event) {
    const [first, last] = this.ends;
    const left = this.slider.getBoundingClientRect().left + 8;
    return first + (event.clientX - left) / (this.width - 16) * (last - first);
  }

  press(event) {
    this.slider.setPointerCapture(event.pointerId);
    this.slider.focus();
    this.stop();
    this.go(event);
  }

  go(event) {
    const epoch = this.epochs[this.explorer.first.nearest(this.epochAt(event))];
    this.leave();
    if (epoch !== this.explorer.state.epoch) this.explorer.set({ epoch });
  }

  hover(event) {
    const wanted = this.epochAt(event);
    this.hovered = this.history.epoch.reduce((found, epoch) => (
      Math.abs(epoch - wanted) < Math.abs(found - wanted) ? epoch : found), this.explorer.state.epoch);
    this.update();
  }

  leave() {
    this.hovered = null;
    this.update();
  }

  /** Go some kept epochs on, or back. */
  step(count) {
    const at = this.explorer.first.nearest(this.explorer.state.epoch);
    this.explorer.set({ epoch: this.epochs[clamp(at + count, 0, this.epochs.length - 1)] });
  }

  key(event) {
    const many = this.epochs.length;
    const steps = {
      ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5, Home: -many, End: many,
    };
    if (event.key === " ") this.toggle();
    else if (steps[event.key]) this.step(steps[event.key]);
    else return;
    event.preventDefault();
  }

  /** Start or stop the play through all epochs. At the last epoch it starts again from the first. */
  toggle() {
    if (this.timer) {
      this.stop();
      return;
    }
    const last = this.epochs[this.epochs.length - 1];
    const { explorer } = this;
    this.step(explorer.state.epoch === last ? -this.epochs.length : 1);
    this.timer = setInterval(() => {
      this.step(1);
      if (explorer.state.epoch === last) this.stop();
    }, PLAY_MS);
    this.play.textContent = "❚❚";
    this.play.setAttribute("aria-label", "stop");
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.play.textContent = "▶";
    this.play.setAttribute("aria-label", "play the epochs");
  }

  draw() {
    [this.width, this.height] = [Math.max(50, this.slider.clientWidth), this.slider.clientHeight];
    const { history, height } = this;
    // asinh is like a logarithm far from 0, and it also shows losses below 0.
    const loss = history.loss.map((value) => (value === null ? null : Math.asinh(value)));
    const known = loss.filter((value) => value !== null);
    const highest = Math.max(...history.coverage_A, ...history.coverage_B);
    this.cursor = this.upright(this.x(this.epochs[0]), 0, height - AXIS, "cursor");
    this.slider.replaceChildren(h("svg", { width: this.width, height, "aria-hidden": "true" }, this.flags(),
      this.ticks(),
      this.line(loss, Math.min(...known), Math.max(...known), "#333"),
      this.line(history.coverage_A, 0, highest, PATHWAY_COLOURS[0]),
      this.line(history.coverage_B, 0, highest, PATHWAY_COLOURS[1], "5 3"), this.cursor));
    this.update();
  }

  /** Draw a tick at each kept epoch, with its number where there is room: ends and changes of schedules come first. */
  ticks() {
    const numbered = [];
    const changes = this.events.map(({ epoch }) => epoch).filter((epoch) => this.epochs.includes(epoch));
    for (const epoch of [this.epochs[this.epochs.length - 1], this.epochs[0], ...changes, ...this.epochs]) {
      if (numbered.every((other) => Math.abs(this.x(other) - this.x(epoch)) > 26)) numbered.push(epoch);
    }
    const { height } = this;
    return [this.epochs.map((epoch) => this.upright(this.x(epoch), height - AXIS, height - AXIS + 6, "tick")),
      numbered.map((epoch) => h("text", epoch === this.ends[1]
        ? { x: this.width, y: height - 3, "text-anchor": "end" } // in the middle, its last digit would be cut
        : { x: this.x(epoch), y: height - 3, "text-anchor": "middle" }, `${epoch}`))];
  }

  upright(x, top, bottom, name) {
    return h("line", { x1: x, x2: x, y1: top, y2: bottom, class: name });
  }

  /** Draw a column of the history between two values. Epochs without a value are left out. */
  line(values, low, high, stroke, dash) {
    const [top, bottom] = [26, this.height - AXIS - 2];
    const y = (value) => bottom - (bottom - top) * (value - low) / (high - low || 1);
    const x = (i) => this.x(this.history.epoch[i]).toFixed(1);
    const points = values.map((value, i) => value !== null && [x(i), y(value).toFixed(1)]);
    return h("polyline", {
      fill: "none", stroke, "stroke-width": 1.7, "stroke-dasharray": dash, points: points.filter(Boolean).join(" "),
    });
  }

  /** Draw the epochs at which a schedule changes, with words in two rows: right of the line where there is room. */
  flags() {
    const free = [0, 0];
    return this.events.map(({ epoch, text: change }) => {
      const x = this.x(epoch);
      const words = `${epoch}: ${change}`;
      const width = 6.2 * words.length + 8;
      const right = x + width < this.width;
      const row = free.findIndex((used) => used < (right ? x : x - width));
      const text = { x: x + (right ? 4 : -4), y: 11 + 12 * row, "text-anchor": right ? "start" : "end" };
      if (row >= 0) free[row] = right ? x + width : x;
      return h("g", {}, h("title", {}, words), this.upright(x, 2, this.height - AXIS, "event"),
        row >= 0 && h("text", text, words));
    });
  }

  /** Return the values at an epoch in words. */
  values(epoch) {
    const row = this.history.epoch.indexOf(epoch);
    const value = (column, digits) => (
      typeof this.history[column][row] === "number" ? fixed(this.history[column][row], digits) : "–");
    const [a, b] = [value("coverage_A", 1), value("coverage_B", 1)];
    return [`loss ${value("loss", 2)}`, `informative coverage A ${a} %`, `and B ${b} %`];
  }

  /** Move the cursor, and write the values at it, or at the epoch under the pointer. */
  update() {
    if (!this.cursor) return;
    const { epoch } = this.explorer.state;
    for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, this.x(epoch));
    const [loss, a, b] = this.values(this.hovered ?? epoch);
    this.readout.replaceChildren(h("b", {}, `epoch ${this.hovered ?? epoch}`),
      h("span", {}, loss, h("small", {}, " log scale")),
      h("span", { class: "key-A" }, a), h("span", { class: "key-B" }, b));
    const aria = { valuemin: this.epochs[0], valuemax: this.epochs[this.epochs.length - 1], valuenow: epoch,
      valuetext: `epoch ${epoch}: ${this.values(epoch).join(", ")}` };
    for (const [name, value] of Object.entries(aria)) this.slider.setAttribute(`aria-${name}`, value);
  }
}

// ---------------------------------------------------------------- entry points

/**
 * Show a run inside an element.
 *
 * @param {HTMLElement} element - the place; what it holds is replaced
 * @param {{header: object, part: function(string): Promise<Uint8Array>}} bundle - a run: its header, and a function
 *   that returns a part without compression
 * @param {{hash?: boolean, link?: string, height?: number, second?: object}} options - `hash` keeps the state in the
 *   address of the page, `link` holds a first state as the text after # of such an address, `height` (CSS pixels) is
 *   that of a cell of a notebook, and `second` is the bundle of a run to show beside the first one
 * @returns {Promise<object>} an object with `state`; `set(changes)`; `link()`; `on(listener)`, which calls
 *   listener(changes, state) after each change and returns a function that ends this; `destroy()`; `timings` in
 *   milliseconds; `ready`, a promise; and, once it is fulfilled, `encode(epochIndex, pathway, operation)` (μ, then
 *   ln σ²) and `decode(epochIndex, pathway, z)` (27 probabilities) of the first run, where pathway is 0 or 1
 */
export async function mount(element, bundle, options = {}) {
  try {
    const runs = await Promise.all([bundle, options.second].filter(Boolean).map((one) => new Run(one).open()));
    const explorer = new Explorer(element, runs, options);
    explorer.start();
    return handleOf(explorer);
  } catch (error) {
    element.replaceChildren(h("p", { role: "alert" },
      `The page cannot show this run (${error.message}): build it again with ternary-lab explore.`));
    throw error;
  }
}

/** Return what the caller of `mount` may use. */
function handleOf(explorer) {
  const { state, timings, ready, first, listeners } = explorer;
  return {
    state, timings, ready,
    set: (changes) => explorer.set(changes),
    link: () => linkOf(state),
    on(listener) {
      listeners.push(listener);
      return () => listeners.splice(listeners.indexOf(listener), 1);
    },
    destroy: () => explorer.destroy(),
    encode: (epoch, pathway, operation) => first.encode(epoch, pathway, operation),
    decode: (epoch, pathway, z) => first.decode(epoch, pathway, z),
  };
}

/** Return bytes without their gzip compression. */
async function gunzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Return the bundle in two traits of an anywidget model, or undefined if there is none. */
function bundleOf(model, prefix) {
  const [header, parts] = [model.get(`${prefix}header`), model.get(`${prefix}parts`)];
  return header && parts && Object.keys(header).length ? { header, part: (name) => gunzip(parts[name]) } : undefined;
}

/**
 * Show the run of an anywidget model with the traits `header` and `parts` (by name), and of a second run with
 * `second_header` and `second_parts`. The traits `epoch`, `pathway` and `chosen` follow the page, and the page them. If
 * `parts` changes, the run has got more parts. The page is exchanged when the new one is ready, and keeps its state.
 */
async function render({ model, el }) {
  const shared = ["epoch", "pathway", "chosen"];
  let explorer = null;
  let turns = 0;
  const follow = (name) => {
    const wanted = model.get(name);
    const same = JSON.stringify(explorer?.state[name]) === JSON.stringify(wanted);
    if (explorer && wanted !== undefined && !same) explorer.set({ [name]: wanted });
  };
  const open = async () => {
    const turn = ++turns;
    const bundle = bundleOf(model, "");
    if (!bundle) return;
    // Otherwise JupyterLab would take the keys of the page as its own: b inserts a cell, and d twice deletes it.
    const place = h("div", {
      on: { focusin: ({ target }) => target.setAttribute("data-lm-suppress-shortcuts", "true") },
    });
    if (!explorer) el.replaceChildren(place);
    const opened = await mount(place, bundle, { height: model.get("height"), second: bundleOf(model, "second_") });
    if (turn !== turns) {
      opened.destroy();
      return;
    }
    if (explorer) {
      // The page before was in use until now.
      opened.set(explorer.state);
      explorer.destroy();
      el.replaceChildren(place);
    }
    explorer = opened;
    shared.forEach(follow);
    explorer.on((changes, state) => {
      const changed = shared.filter((name) => name in changes);
      for (const name of changed) model.set(name, state[name]);
      if (changed.length) model.save_changes();
    });
  };
  const listeners = [["change:parts", open], ...shared.map((name) => [`change:${name}`, () => follow(name)])];
  for (const [event, listener] of listeners) model.on(event, listener);
  await open();
  return () => {
    for (const [event, listener] of listeners) model.off(event, listener);
    turns += 1;
    explorer?.destroy();
  };
}

export default { render };
