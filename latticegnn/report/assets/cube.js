"use strict";
// The cube on a plain canvas: cells in space, drawn from the back to the front; no WebGL is needed.

const DASHES = [[2, 3], [], [7, 4]]; // local, functional, distant: told apart without their colours too
const SHOWN = 3; // powers of ten of the signal that the colours tell apart

function numbers(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Kind(bytes.buffer);
}

function inkOf(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function isDark() { return matchMedia("screen and (prefers-color-scheme: dark)").matches; } // paper is light

// The numbers of one run, unpacked.
class Rollout {
  constructor(packed) {
    Object.assign(this, packed);
    for (const [name, Kind] of [["signal", Uint8Array], ["state", Int8Array], ["gate", Uint8Array],
      ["arrival", Int16Array], ["ports", Uint8Array]]) this[name] = numbers(packed[name], Kind);
    this.sides = this.planes.map((plane) => plane.length);
    this.count = this.sides[0] * this.sides[1] * this.sides[2];
    this.channels = this.scale.length;
    this.last = Math.max(...this.arrival);
  }
  // Planes along the three axes of a cell, and back.
  split(cell) {
    const [, y, z] = this.sides;
    return [Math.floor(cell / (y * z)), Math.floor(cell / z) % y, cell % z];
  }
  join([i, j, k]) { return (i * this.sides[1] + j) * this.sides[2] + k; }
  place(cell) { return this.split(cell).map((plane, axis) => this.planes[axis][plane]); }
  at(row, step) { return (row * (this.steps + 1) + Math.min(step, this.steps)) * this.count; }
  level(byte) { return byte ? this.top * 10 ** (this.decades * ((byte - 1) / 254 - 1)) : 0; }
  weights(row, step, cell) {
    const first = (this.at(row, step) + cell) * this.experts.length;
    return Array.from(this.gate.subarray(first, first + this.experts.length), (byte) => byte / 255);
  }
  states(row, step, cell) {
    const first = (this.at(row, step) + cell) * this.channels;
    return this.scale.map((scale, channel) => scale * this.state[first + channel] / 127);
  }
  // Places of a cell's neighbours by tier, and the offsets at which it sees them, as the lattice's stencil has them.
  neighbours(cell) {
    const place = this.place(cell), [near, middle, far] = this.limits, reach = Math.floor(Math.sqrt(far));
    const spans = this.shape.map((n, axis) => this.boundaries[axis] === "periodic"
      ? [-((n - 1) >> 1), n >> 1] : [1 - n, n - 1]).map(([a, b]) => [Math.max(a, -reach), Math.min(b, reach)]);
    const found = [[], [], []];
    for (let x = spans[0][0]; x <= spans[0][1]; x++)
      for (let y = spans[1][0]; y <= spans[1][1]; y++)
        for (let z = spans[2][0]; z <= spans[2][1]; z++) {
          const squared = x * x + y * y + z * z;
          if (squared === 0 || squared > far) continue;
          const there = [x, y, z].map((offset, axis) => this.folded(place[axis] + offset, axis));
          if (there.includes(null)) continue;
          found[squared <= near ? 0 : squared <= middle ? 1 : 2].push({ place: there, offset: [x, y, z] });
        }
    return found;
  }
  folded(at, axis) {
    const n = this.shape[axis], kind = this.boundaries[axis];
    if (at >= 0 && at < n) return at;
    if (kind === "periodic") return (at + n) % n;
    if (kind !== "reflecting") return null;
    const around = ((at % (2 * n)) + 2 * n) % (2 * n);
    return Math.min(around, 2 * n - 1 - around);
  }
}

class Cube {
  constructor(canvas, rollout, palette) {
    Object.assign(this, { canvas, rollout, palette, chosen: null });
    const half = Math.max(...rollout.shape.map((n) => n - 1), 1) / 2;
    this.centred = (place) => place.map((at, axis) => (at - (rollout.shape[axis] - 1) / 2) / half);
    this.cells = Array.from({ length: rollout.count }, (_, cell) => this.centred(rollout.place(cell)));
    this.gap = 2 / (Math.max(...rollout.sides) - 1 || 1);
    this.order = Uint32Array.from(this.cells.keys());
  }
  // Where a centred place lies on the canvas, and how far it is from the eye.
  project([x, y, z]) {
    const { sy, cy, sp, cp, unit, middle } = this.eye;
    const across = x * cy - y * sy, away = x * sy + y * cy;
    const depth = away * cp - z * sp, up = z * cp + away * sp, near = 7 / (7 + depth);
    return [middle[0] + across * unit * near, middle[1] - up * unit * near, depth, near];
  }
  aim(view) {
    const box = this.canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const unit = Math.min(width, height) * 0.28 * view.zoom;
    this.eye = { sy: Math.sin(view.yaw), cy: Math.cos(view.yaw), sp: Math.sin(view.pitch), cp: Math.cos(view.pitch), unit,
      middle: [width / 2, 0.48 * height], ratio };
    this.seen = this.cells.map((cell) => this.project(cell));
    this.order.sort((a, b) => this.seen[b][2] - this.seen[a][2]);
  }
  visible(view, cell) {
    const { rollout } = this, signal = rollout.signal[rollout.at(view.row, view.step) + cell];
    if (signal < view.threshold) return false;
    if (view.colour === "gate" && signal && !view.tiers.has(this.heard(view, cell)[0])) return false;
    if (view.axis < 0) return true;
    const plane = rollout.split(cell)[view.axis], cut = Math.round(view.depth * (rollout.sides[view.axis] - 1));
    return view.only ? plane === cut : plane <= cut;
  }
  draw(view) {
    this.aim(view);
    const { rollout, seen } = this, pen = this.canvas.getContext("2d"), { ratio } = this.eye;
    const rim = inkOf("--rim"), idle = inkOf("--idle"), dark = isDark();
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.drawBox(pen, view);
    const first = rollout.at(view.row, view.step), size = 0.34 * this.gap * this.eye.unit;
    this.drawn = [];
    for (const cell of this.order) {
      if (!this.visible(view, cell)) continue;
      const [x, y, , near] = seen[cell], look = this.look(view, first, cell, dark), radius = size * near * look.size;
      pen.beginPath();
      pen.arc(x, y, Math.max(radius, 0.8 * ratio), 0, 2 * Math.PI);
      pen.fillStyle = look.colour ?? idle;
      pen.globalAlpha = look.alpha;
      pen.fill();
      pen.lineWidth = Math.max(0.6 * ratio, radius * 0.07);
      pen.strokeStyle = rim;
      if (look.colour) pen.stroke();
      pen.globalAlpha = 1;
      const port = rollout.ports[cell], around = Math.max(radius, 0.5 * size * near) + 2 * ratio;
      if (port) this.ring(pen, x, y, around, port === 1 ? this.palette.input : this.palette.output, 2, []);
      if (view.front && rollout.arrival[cell] === view.step)
        this.ring(pen, x, y, around + 3 * ratio, rim, 1, [2 * ratio, 2 * ratio]);
      this.drawn.push(cell);
    }
    this.drawNames(pen);
    if (this.chosen !== null) this.drawEdges(pen, view, size);
  }
  // The tier that a cell's gate weighs most, its weight and its expert's name.
  heard(view, cell) {
    const weights = this.rollout.weights(view.row, view.step, cell), most = Math.max(...weights);
    const name = this.rollout.experts[weights.indexOf(most)];
    return [Object.keys(this.palette.tiers).indexOf(name), most, name];
  }
  // Colour and size of a cell: strong signals are large, and far from the background's colour.
  look(view, first, cell, dark) {
    const { rollout, palette } = this, byte = rollout.signal[first + cell];
    const share = byte ? Math.max(0, 1 - rollout.decades * (1 - (byte - 1) / 254) / SHOWN) : 0;
    if (view.colour === "arrival") {
      const arrival = rollout.arrival[cell];
      if (arrival < 0) return { colour: null, size: 0.2, alpha: 1 };
      const place = Math.round(255 * arrival / Math.max(1, rollout.last));
      return { colour: palette.signal[dark ? 255 - place : place], size: arrival <= view.step ? 0.85 : 0.35, alpha: 1 };
    }
    if (byte === 0) return { colour: null, size: 0.2, alpha: 1 };
    if (view.colour === "gate") {
      const [, weight, name] = this.heard(view, cell);
      return { colour: palette.tiers[name], size: 0.3 + 0.7 * weight, alpha: 1 };
    }
    const place = Math.round(255 * share);
    return { colour: palette.signal[dark ? place : 255 - place], size: 0.35 + 0.65 * share, alpha: 0.5 + 0.5 * share };
  }
  ring(pen, x, y, radius, colour, width, dash) {
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    Object.assign(pen, { strokeStyle: colour, lineWidth: width * this.eye.ratio });
    pen.setLineDash(dash);
    pen.stroke();
    pen.setLineDash([]);
  }
  line(pen, from, to, colour, width, dash) {
    const [a, b] = [this.project(this.centred(from)), this.project(this.centred(to))];
    pen.beginPath();
    pen.moveTo(a[0], a[1]);
    pen.lineTo(b[0], b[1]);
    Object.assign(pen, { strokeStyle: colour, lineWidth: width * this.eye.ratio });
    pen.setLineDash(dash.map((part) => part * this.eye.ratio));
    pen.stroke();
    pen.setLineDash([]);
  }
  drawBox(pen, view) {
    const ends = this.rollout.shape.map((n) => n - 1), grey = inkOf("--line");
    for (let axis = 0; axis < 3; axis++)
      for (const corner of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
        const from = [0, 0, 0], others = [0, 1, 2].filter((other) => other !== axis);
        others.forEach((other, k) => { from[other] = corner[k] * ends[other]; });
        this.line(pen, from, from.map((at, k) => (k === axis ? ends[k] : at)), grey, 1, []);
      }
    if (view.axis >= 0) {
      const cut = this.rollout.planes[view.axis][Math.round(view.depth * (this.rollout.sides[view.axis] - 1))];
      const [a, b] = [0, 1, 2].filter((other) => other !== view.axis), corners = [[0, 0], [1, 0], [1, 1], [0, 1]];
      const places = corners.map(([p, q]) => {
        const at = [0, 0, 0];
        [at[view.axis], at[a], at[b]] = [cut, p * ends[a], q * ends[b]];
        return at;
      });
      places.forEach((place, k) => this.line(pen, place, places[(k + 1) % 4], inkOf("--accent"), 2, []));
    }
  }
  drawNames(pen) {
    const ends = this.rollout.shape.map((n) => n - 1);
    Object.assign(pen, { fillStyle: inkOf("--ink"), font: `${13 * this.eye.ratio}px sans-serif`, textAlign: "center" });
    ["x", "y", "z"].forEach((name, axis) => {
      const [x, y] = this.project(this.centred(ends.map((end, k) => (k === axis ? end + 0.1 * Math.max(...ends, 1) : 0))));
      pen.fillText(name, x, y);
    });
  }
  drawEdges(pen, view, size) {
    const own = this.rollout.place(this.chosen);
    this.rollout.neighbours(this.chosen).forEach((found, tier) => {
      if (!view.tiers.has(tier)) return;
      const colour = Object.values(this.palette.tiers)[tier], many = found.length > 100;
      for (const { offset } of found)
        this.line(pen, own, own.map((at, axis) => at + offset[axis]), colour, many ? 0.4 : 2.2, many ? [] : DASHES[tier]);
    });
    const [x, y, , near] = this.seen[this.chosen];
    this.ring(pen, x, y, size * near * 1.35, inkOf("--accent"), 3, []);
  }
  // The nearest cell to the eye under a point of the canvas, in the page's pixels; null where there is none.
  pick(x, y) {
    const { ratio, unit } = this.eye, reach = 0.45 * this.gap * unit;
    const hit = this.drawn.findLast((cell) => {
      const [across, down, , near] = this.seen[cell];
      return Math.hypot(across - x * ratio, down - y * ratio) <= Math.max(reach * near, 4 * ratio);
    });
    return hit ?? null;
  }
}
