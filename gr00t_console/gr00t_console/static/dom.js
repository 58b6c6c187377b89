// SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
// SPDX-License-Identifier: Apache-2.0
// Small helpers to build and update elements. Texts are never parsed as HTML.

/** Make an element: attributes, `on...` handlers, children that are nodes or texts. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child != null && child !== false));
  return made;
}

/** Set a text only where it differs, so that selections and screen readers are left in peace. */
export function text(target, content) {
  const found = typeof target === "string" ? document.getElementById(target) : target;
  if (found.textContent !== String(content)) found.textContent = content;
}

/** Replace the children when `key` differs from that of the last call. */
export function fill(target, key, make) {
  const wanted = JSON.stringify(key);
  if (target.dataset.key === wanted) return;
  target.dataset.key = wanted;
  target.replaceChildren(...[make()].flat());
}

export function panel(title, ...children) {
  return element("section", { class: "panel" }, title ? element("h2", {}, title) : null, ...children);
}

export function table(headings, rows) {
  const head = headings.map(([name, kind]) => element("th", { class: kind, scope: "col" }, name));
  const body = rows.map((cells) => element("tr", {}, cells.map((cell, i) =>
    cell instanceof Node && cell.nodeName === "TD" ? cell : element("td", { class: headings[i][1] }, cell))));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": headings.map(([name]) => name).join(", ") },
    element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, body)));
}

export function facts(pairs) {
  return element("dl", { class: "facts" }, pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value || "–")]));
}

export function figures(pairs) {
  return element("div", { class: "figures" }, pairs.map(([name, value]) => element("div", {}, element("b", {}, String(value)), element("span", {}, name))));
}

/** The last part of a path, with all of it as a tip. */
export function path(text) {
  return text ? element("span", { title: text }, text.split("/").filter(Boolean).slice(-2).join("/")) : "";
}

export const fixed = (value, digits = 2) => (value == null ? "–" : value.toFixed(digits));

export function duration(seconds) {
  if (seconds == null) return "–";
  if (seconds < 90) return `${seconds.toFixed(0)} s`;
  if (seconds < 5400) return `${(seconds / 60).toFixed(0)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export function bytes(count) {
  return count >= 1e9 ? `${(count / 1e9).toFixed(1)} GB` : `${(count / 1e6).toFixed(0)} MB`;
}

/** Buttons for the lifecycle transitions that are possible; `ask` sends the request. */
export function transitions(node, lifecycle, isMine, ask) {
  const possible = { unconfigured: ["configure"], inactive: ["activate", "cleanup"], active: ["deactivate"] }[lifecycle] || [];
  return element("div", { class: "row" }, possible.map((name) => element("button", { type: "button", disabled: !isMine, onclick: () => ask("lifecycle", { node, transition: name }) }, name === "cleanup" ? "Clean up" : name[0].toUpperCase() + name.slice(1))));
}

/** A table of streams: rate, age against its limit, losses. */
export function streamTable(streams) {
  const kind = { ok: "ok", waiting: "wait" };
  return table([["Stream"], ["State"], ["Rate", "num"], ["Age", "num"], ["Limit", "num"], ["Used", "num"], ["Late", "num"], ["Lost", "num"]],
    streams.map((each) => [
      element("td", {}, each.name, element("div", { class: "topic" }, each.topic)),
      element("td", {}, element("span", { class: kind[each.state] || "fault" }, each.state), each.reason ? element("div", { class: "muted" }, each.reason) : null),
      `${fixed(each.rate, 1)} Hz`, each.age < 0 ? "–" : `${fixed(1000 * each.age, 0)} ms`, `${fixed(1000 * each.max_age, 0)} ms`,
      String(each.used), String(each.late), String(each.dropped)]));
}

/** Draw curves over time into a canvas; series are {points: [[t, value]], color, isDashed}. */
export function plot(canvas, series, { from, to, low = null, high = null, now = null, least = 0 } = {}) {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width) return;
  if (canvas.width !== Math.round(width * ratio)) [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const values = series.flatMap((each) => each.points.map((point) => point[1])).filter(Number.isFinite);
  if (!values.length) return;
  let [bottom, top] = [Math.min(...values), Math.max(...values)];
  const margin = Math.max((top - bottom) * 0.12, (least - (top - bottom)) / 2, Math.abs(top) * 1e-3, 1e-9);
  [bottom, top] = [bottom - margin, top + margin];
  const x = (time) => ((time - from) / (to - from || 1)) * width;
  const y = (value) => height - ((value - bottom) / (top - bottom)) * height;
  pen.fillStyle = color("--bad-bg");
  if (high != null && high < top) pen.fillRect(0, 0, width, y(high));
  if (low != null && low > bottom) pen.fillRect(0, y(low), width, height - y(low));
  if (now != null) {
    pen.fillStyle = color("--line");
    pen.fillRect(x(now), 0, 1, height);
  }
  for (const each of series) {
    pen.beginPath();
    pen.strokeStyle = color(each.color);
    pen.lineWidth = 1.8;
    pen.setLineDash(each.isDashed ? [5, 3] : []);
    each.points.forEach(([time, value], i) => (i ? pen.lineTo(x(time), y(value)) : pen.moveTo(x(time), y(value))));
    pen.stroke();
  }
  pen.setLineDash([]);
  pen.fillStyle = color("--muted");
  pen.font = "10px system-ui, sans-serif";
  pen.fillText(top.toPrecision(3), 2, 9);
  pen.fillText(bottom.toPrecision(3), 2, height - 2);
}
