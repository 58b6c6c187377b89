// SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
// SPDX-License-Identifier: Apache-2.0
"use strict";

// ---- what can be computed without a page (checked by the tests) ----

const COLOURS = ["#0b6bcb", "#d95f02", "#1b9e77", "#c2185b", "#7b52ab", "#8a6d00", "#00838f", "#5d6b7a", "#e0503a", "#3f7d20"];

/** Row that is shown at a time of the episode; rows are centered frames, the last one stays. */
function rowAt(seconds, fps, numRows) {
  return Math.min(Math.max(Math.floor(seconds * fps + 1e-3), 0), numRows - 1);
}

/** Time to seek to for a row: the middle of its frame, so that rounding never shows the one before. */
function timeOf(row, fps) {
  return (row + 0.5) / fps;
}

/** Little-endian float32 numbers out of base64. */
function decodeFloats(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/** Round steps that cut [low, high] into about `count` parts. */
function niceTicks(low, high, count) {
  const raw = (high - low) / count;
  if (!(raw > 0) || !isFinite(raw)) return [low];
  const power = Math.pow(10, Math.floor(Math.log10(raw)));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const ticks = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) ticks.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  return ticks;
}

/** Extremes of the finite values of the shown channels, with a little room; never empty. */
function extremes(groups, hidden) {
  let low = Infinity, high = -Infinity;
  for (const group of groups) {
    for (let at = 0; at < group.values.length; at++) {
      const value = group.values[at];
      if (!isFinite(value) || hidden.has(group.names[at % group.names.length])) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (low > high) return [0, 1];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.06 || 0.5;
  return [low - room, high + room];
}

/** Keys of state and action that mean the same share a chart: state drawn solid, action dashed. */
function chartsOf(curves) {
  const charts = new Map();
  for (const curve of curves) {
    const dot = curve.key.indexOf(".");
    const kind = curve.key.slice(0, dot), name = curve.key.slice(dot + 1);
    if (!charts.has(name)) charts.set(name, { name, groups: [] });
    charts.get(name).groups.push({ ...curve, kind, dashed: kind === "action" });
  }
  return [...charts.values()];
}

/** Color of a row of a stream: red when filled, gray when nothing is known, else darker with age. */
function rowColor(age, filled, oldest) {
  if (filled) return "#c62828";
  if (age === null || age === undefined) return "#c9d0d8";
  const share = oldest > 0 ? Math.min(Math.abs(age) / oldest, 1) : 0;
  return `hsl(${Math.round(150 - 100 * share)} 55% ${Math.round(72 - 22 * share)}%)`;
}

/** Text of the task at a row. */
function taskAt(tasks, row) {
  let text = "";
  for (const [first, name] of tasks) if (first <= row) text = name;
  return text;
}

/** Which row a key leads to; null when the key means nothing here. */
function rowAfterKey(key, shift, row, fps, numRows) {
  const step = shift ? Math.max(Math.round(fps), 1) : 1;
  const target = { ArrowLeft: row - step, ArrowRight: row + step, Home: 0, End: numRows - 1 }[key];
  return target === undefined ? null : Math.min(Math.max(target, 0), numRows - 1);
}

function formatted(value) {
  if (!isFinite(value)) return String(value);
  return Math.abs(value) >= 1000 || (value !== 0 && Math.abs(value) < 0.001) ? value.toExponential(2) : value.toFixed(3);
}

if (typeof module !== "undefined") {
  module.exports = { rowAt, timeOf, decodeFloats, niceTicks, extremes, chartsOf, rowColor, taskAt, rowAfterKey, formatted };
}

// ---- the page ----

class Episode {
  constructor(described, fps, place) {
    this.described = described;
    this.fps = fps;
    this.numRows = described.length;
    this.row = 0;
    this.isPlaying = false;
    this.speed = 1;
    this.painters = [];
    this.videos = [];
    this.clock = null; // of playing without a video: [time of day, row]
    this.build(place);
    this.show(0, true);
  }

  build(place) {
    const { described } = this;
    const head = make("div", {}, make("h2", { textContent: `Episode ${described.index}` }));
    this.task = make("p", { className: "task" });
    const marks = make("p", { className: "marks" });
    for (const [name, value] of [["success", described.success], ["valid", described.valid]]) {
      if (value !== null) marks.append(make("span", { className: value ? "yes" : "no", textContent: `${name}: ${value ? "yes" : "no"}` }));
    }
    if (described.note) marks.append(make("span", { textContent: described.note }));
    head.append(this.task, marks);
    const videos = make("div", { className: "videos" });
    for (const video of described.videos) videos.append(this.figure(video));
    place.replaceChildren(head, videos, this.player());
    place.append(make("h3", { textContent: "State (solid) and action (dashed)" }), this.charts());
    if (described.quality.length) place.append(make("h3", { textContent: "Age of the samples by row; red: filled, gray: unknown" }), this.strips());
    if (described.streams.length) place.append(make("h3", { textContent: "Streams" }), streamTable(described.streams));
    const keys = make("p", { className: "keys" });
    keys.innerHTML = "<kbd>space</kbd> play, <kbd>&larr;</kbd> <kbd>&rarr;</kbd> one row, with <kbd>shift</kbd> one second, <kbd>Home</kbd> <kbd>End</kbd>, <kbd>&uarr;</kbd> <kbd>&darr;</kbd> episode, <kbd>+</kbd> <kbd>-</kbd> speed; click a curve to go there, a name to hide it";
    place.append(keys);
  }

  figure(video) {
    const element = make("video", { src: video.source, muted: true, preload: "auto", playsInline: true });
    element.setAttribute("aria-label", `camera ${video.key}`);
    const caption = make("figcaption", { textContent: `${video.key}, ${video.codec}` });
    element.addEventListener("error", () => {
      caption.className = "failed";
      caption.textContent = `${video.key}: this browser cannot show ${video.codec}, or ${video.isEmbedded ? "the video is damaged" : "the file is not at " + video.source}`;
      this.videos = this.videos.filter((one) => one.element !== element);
    });
    element.addEventListener("loadeddata", () => this.seek(this.row));
    const shown = { element, start: video.start, seconds: null }; // seconds: of the frame on the screen, where reported
    const onFrame = (now, frame) => {
      shown.seconds = frame.mediaTime;
      element.requestVideoFrameCallback(onFrame);
    };
    if (element.requestVideoFrameCallback) element.requestVideoFrameCallback(onFrame);
    this.videos.push(shown);
    return make("figure", {}, element, caption);
  }

  player() {
    this.button = make("button", { textContent: "Play", title: "space" });
    this.button.addEventListener("click", () => this.toggle());
    this.slider = make("input", { type: "range", min: 0, max: this.numRows - 1, value: 0 });
    this.slider.setAttribute("aria-label", "row");
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value), true));
    this.output = make("output");
    return make("div", { className: "player" }, this.button, this.slider, this.output);
  }

  charts() {
    const place = make("div", { className: "charts" });
    for (const chart of chartsOf(this.described.curves)) {
      const painter = new Chart(chart, this.numRows, this.fps, (row) => this.show(row, true));
      this.painters.push(painter);
      place.append(painter.element);
    }
    return place;
  }

  strips() {
    const place = make("div", { className: "strips" });
    for (const stream of this.described.quality) {
      const strip = new Strip(stream, this.numRows, (row) => this.show(row, true));
      this.painters.push(strip);
      place.append(make("span", { textContent: stream.name }), strip.canvas, strip.output);
    }
    return place;
  }

  /** Show a row; `seeks`: the videos are to go there, else they lead. */
  show(row, seeks) {
    this.row = row;
    this.slider.value = row;
    this.slider.setAttribute("aria-valuetext", `row ${row}`);
    this.output.textContent = `row ${row} / ${this.numRows - 1}   ${(row / this.fps).toFixed(2)} s   x${this.speed}`;
    this.task.textContent = taskAt(this.described.tasks, row);
    for (const painter of this.painters) painter.paint(row);
    if (seeks) {
      this.seek(row);
      this.clock = [performance.now(), row];
    }
  }

  seek(row) {
    for (const { element, start } of this.videos) {
      const target = start + timeOf(row, this.fps);
      if (Math.abs(element.currentTime - target) > 0.1 / this.fps) element.currentTime = target;
    }
  }

  toggle() {
    this.isPlaying ? this.pause() : this.play();
  }

  play() {
    if (this.row >= this.numRows - 1) this.show(0, true);
    this.isPlaying = true;
    this.button.textContent = "Pause";
    this.clock = [performance.now(), this.row];
    for (const { element } of this.videos) {
      element.playbackRate = this.speed;
      element.play().catch(() => {});
    }
    requestAnimationFrame(() => this.follow());
  }

  pause() {
    this.isPlaying = false;
    this.button.textContent = "Play";
    for (const { element } of this.videos) element.pause();
    this.seek(this.row);
  }

  /** While playing: the first video leads, the others follow it; without videos the clock leads. */
  follow() {
    if (!this.isPlaying) return;
    const first = this.videos.find(({ element }) => element.readyState >= 2);
    let row;
    if (first) {
      const seconds = first.element.currentTime - first.start;
      row = rowAt(first.seconds === null ? seconds : first.seconds - first.start, this.fps, this.numRows);
      for (const { element, start } of this.videos) {
        if (element !== first.element && Math.abs(element.currentTime - start - seconds) > 1.5 / this.fps) element.currentTime = start + seconds;
      }
    } else {
      row = rowAt(this.clock[1] / this.fps + ((performance.now() - this.clock[0]) / 1000) * this.speed, this.fps, this.numRows);
    }
    if (row !== this.row) this.show(row, false);
    if (row >= this.numRows - 1) this.pause();
    else requestAnimationFrame(() => this.follow());
  }

  setSpeed(speed) {
    this.speed = Math.min(Math.max(speed, 0.125), 8);
    this.clock = [performance.now(), this.row];
    for (const { element } of this.videos) element.playbackRate = this.speed;
    this.show(this.row, false);
  }

  close() {
    this.pause();
    for (const { element } of this.videos) element.removeAttribute("src");
    for (const painter of this.painters) painter.close();
  }
}

/** A canvas as sharp as the screen that is redrawn when its size changes. */
class Surface {
  constructor(draw, numRows, left, choose) {
    this.canvas = make("canvas");
    this.left = left;
    this.numRows = numRows;
    this.picture = document.createElement("canvas");
    this.draw = draw;
    this.observer = new ResizeObserver(() => this.redraw());
    this.observer.observe(this.canvas);
    const pick = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const share = (event.clientX - box.left - left) / (box.width - left);
      choose(Math.min(Math.max(Math.round(share * (numRows - 1)), 0), numRows - 1));
    };
    this.canvas.addEventListener("pointerdown", (event) => { this.canvas.setPointerCapture(event.pointerId); pick(event); });
    this.canvas.addEventListener("pointermove", (event) => { if (event.buttons) pick(event); });
  }

  redraw() {
    const scale = window.devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    for (const surface of [this.canvas, this.picture]) {
      surface.width = Math.max(Math.round(this.width * scale), 1);
      surface.height = Math.max(Math.round(this.height * scale), 1);
    }
    this.scale = scale;
    const pen = this.picture.getContext("2d");
    pen.scale(scale, scale);
    this.draw(pen, this);
    this.cursor(this.row || 0);
  }

  x(row) {
    return this.left + (row / Math.max(this.numRows - 1, 1)) * (this.width - this.left - 1);
  }

  cursor(row) {
    this.row = row;
    if (!this.scale) return;
    const pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    pen.drawImage(this.picture, 0, 0);
    pen.fillStyle = "#1d2733";
    pen.fillRect(Math.round(this.x(row) * this.scale) - 1, 0, Math.max(this.scale, 1.5), this.canvas.height);
  }

  close() {
    this.observer.disconnect();
  }
}

class Chart {
  constructor(chart, numRows, fps, choose) {
    this.groups = chart.groups.map((group) => ({ ...group, values: decodeFloats(group.values) }));
    this.hidden = new Set();
    this.fps = fps;
    this.surface = new Surface((pen, surface) => this.draw(pen, surface), numRows, 46, choose);
    this.surface.canvas.setAttribute("role", "img");
    this.surface.canvas.setAttribute("aria-label", `curves of ${chart.name}`);
    this.legend = make("div", { className: "legend" });
    this.names = [...new Set(this.groups.flatMap((group) => group.names))];
    this.entries = this.names.map((name, number) => this.entry(name, number));
    this.legend.append(...this.entries.map(({ button }) => button));
    this.element = make("section", { className: "chart" }, make("strong", { textContent: chart.name }), this.surface.canvas, this.legend);
  }

  entry(name, number) {
    const line = make("i");
    line.style.background = COLOURS[number % COLOURS.length];
    const text = make("span");
    const button = make("button", {}, line, text);
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      this.hidden.has(name) ? this.hidden.delete(name) : this.hidden.add(name);
      button.setAttribute("aria-pressed", String(!this.hidden.has(name)));
      this.surface.redraw();
    });
    return { name, text, button };
  }

  draw(pen, surface) {
    const { width, height } = surface, bottom = height - 16;
    const [low, high] = extremes(this.groups, this.hidden);
    const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - 4);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = "#5d6b7a";
    pen.strokeStyle = "#e6eaee";
    pen.lineWidth = 1;
    pen.textAlign = "right";
    for (const tick of niceTicks(low, high, 4)) {
      pen.beginPath();
      pen.moveTo(surface.left, y(tick));
      pen.lineTo(width, y(tick));
      pen.stroke();
      pen.fillText(String(Number(tick.toPrecision(4))), surface.left - 5, y(tick) + 4);
    }
    const seconds = (surface.numRows - 1) / this.fps;
    for (const tick of niceTicks(0, seconds, 6)) {
      const x = surface.x(tick * this.fps);
      pen.textAlign = x > width - 24 ? "right" : "center";
      pen.fillText(`${Number(tick.toPrecision(4))} s`, Math.max(x, surface.left + 8), height - 3);
    }
    for (const group of this.groups) this.drawGroup(pen, surface, group, y);
  }

  drawGroup(pen, surface, group, y) {
    const count = group.names.length;
    pen.lineWidth = 1.4;
    pen.setLineDash(group.dashed ? [4, 3] : []);
    group.names.forEach((name, channel) => {
      if (this.hidden.has(name)) return;
      pen.strokeStyle = COLOURS[this.names.indexOf(name) % COLOURS.length];
      pen.beginPath();
      for (let row = 0; row < surface.numRows; row++) {
        const value = group.values[row * count + channel];
        row && isFinite(value) ? pen.lineTo(surface.x(row), y(value)) : pen.moveTo(surface.x(row), y(value));
      }
      pen.stroke();
    });
    pen.setLineDash([]);
  }

  paint(row) {
    this.surface.cursor(row);
    for (const { name, text } of this.entries) {
      const values = this.groups.filter((group) => group.names.includes(name)).map((group) => formatted(group.values[row * group.names.length + group.names.indexOf(name)]));
      text.textContent = `${name} ${values.join(" / ")}`;
    }
  }

  close() {
    this.surface.close();
  }
}

class Strip {
  constructor(stream, numRows, choose) {
    this.stream = stream;
    this.filled = new Set(stream.filled);
    this.oldest = stream.ages_ms.reduce((most, age) => Math.max(most, Math.abs(age || 0)), 0);
    this.surface = new Surface((pen, surface) => this.draw(pen, surface), numRows, 0, choose);
    this.canvas = this.surface.canvas;
    this.output = make("output");
  }

  draw(pen, surface) {
    const width = surface.width / surface.numRows;
    for (let row = 0; row < surface.numRows; row++) {
      pen.fillStyle = rowColor(this.stream.ages_ms[row], this.filled.has(row), this.oldest);
      pen.fillRect(row * width, 0, width + 0.5, surface.height);
    }
  }

  paint(row) {
    this.surface.cursor(row);
    const age = this.stream.ages_ms[row];
    this.output.textContent = (age === null ? "unknown" : `${age.toFixed(1)} ms`) + (this.filled.has(row) ? ", filled" : "");
  }

  close() {
    this.surface.close();
  }
}

const COUNTS = ["received", "used", "filled", "late", "dropped", "invalid"];

function streamTable(streams) {
  const head = make("tr", {}, ...["stream", "topic", ...COUNTS, "largest age"].map((name) => make("th", { textContent: name })));
  const rows = streams.map((stream) => {
    const cells = COUNTS.map((name) => make("td", { textContent: stream[name] ?? "", className: ["filled", "dropped", "invalid"].includes(name) && stream[name] > 0 ? "bad" : "" }));
    const age = stream.largest_age_s === undefined ? "" : `${(stream.largest_age_s * 1000).toFixed(1)} ms`;
    return make("tr", {}, make("td", { textContent: stream.name }), make("td", { textContent: stream.topic ?? "" }), ...cells, make("td", { textContent: age }));
  });
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function start(dataset) {
  const list = document.querySelector("nav .episodes"), place = document.querySelector("main");
  let number = -1, episode = null;
  const buttons = dataset.episodes.map((described, at) => {
    const marks = described.success === null ? "" : described.success ? " ✓" : " ✗";
    const button = make("button", {}, `Episode ${described.index}${marks}`, make("small", { textContent: `${(described.length / dataset.fps).toFixed(1)} s, ${taskAt(described.tasks, 0)}` }));
    button.addEventListener("click", () => open(at));
    return button;
  });
  list.append(...buttons);
  function open(at) {
    if (at < 0 || at >= dataset.episodes.length || at === number) return;
    if (episode) episode.close();
    number = at;
    buttons.forEach((button, other) => button.setAttribute("aria-current", String(other === at)));
    buttons[at].scrollIntoView({ block: "nearest" });
    episode = new Episode(dataset.episodes[at], dataset.fps, place);
    window.episode = episode;
  }
  document.addEventListener("keydown", (event) => {
    if (!episode || event.ctrlKey || event.metaKey || event.altKey) return;
    const row = rowAfterKey(event.key, event.shiftKey, episode.row, dataset.fps, episode.numRows);
    if (row !== null) {
      episode.pause();
      episode.show(row, true);
    } else if (event.key === " ") {
      episode.toggle();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      open(number + (event.key === "ArrowDown" ? 1 : -1));
    } else if (event.key === "+" || event.key === "-") {
      episode.setSpeed(episode.speed * (event.key === "+" ? 2 : 0.5));
    } else {
      return;
    }
    event.preventDefault();
  });
  open(0);
}

if (typeof document !== "undefined") start(JSON.parse(document.getElementById("dataset").textContent));
