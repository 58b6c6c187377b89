// SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
// SPDX-License-Identifier: Apache-2.0
// Train tab: curves and time left of fine-tunes.
import { duration, element, figures, fill, panel, plot, text } from "./dom.js";

const PERIOD_MS = 3000;
const parts = {};
let runs = [], timer = null;

export function build(root) {
  parts.root = element("div", { class: "stack" });
  root.append(parts.root);
}

export function open() {
  load();
  if (!timer) timer = setInterval(() => { if (!parts.root.closest("section").hidden) load(); }, PERIOD_MS);
}

async function load() {
  const answer = await fetch("/api/runs").catch(() => null);
  if (answer?.ok) runs = await answer.json();
  draw();
}

const label = (run) => (run.is_running ? "running" : run.is_done ? "done" : run.step ? "silent" : "no step yet");

export function draw() {
  fill(parts.root, runs.map((run) => [run.id, Object.keys(run.curves)]), () => runs.length ? runs.map((run) => panel(run.name, element("div", { "data-run": run.id }),
    element("div", { class: "meter", role: "progressbar", "aria-label": `progress of ${run.name}`, "aria-valuemin": "0", "aria-valuemax": "100" }, element("i")),
    element("div", { class: "plots" }, Object.keys(run.curves).map((name) => element("div", { class: "plot" }, element("div", { class: "title" }, element("span", {}, name), element("span", { class: "num muted" })), element("canvas", { role: "img", "aria-label": `${name} by step` })))),
    element("p", { class: "muted" }, run.path))) : panel("", element("p", { class: "empty" }, "No run. Start the console with --runs FOLDER.")));
  runs.forEach((run, i) => {
    const box = parts.root.children[i], head = box?.querySelector("[data-run]");
    if (!head) return;
    fill(head, [run.step, run.last_step, label(run), run.left_s], () => figures([["state", label(run)], ["step", run.last_step ? `${run.step} of ${run.last_step}` : run.step], ["time left", run.is_done ? "–" : duration(run.left_s)], ["newest entry", `${duration(run.silence_s)} ago`]]));
    const share = run.last_step ? Math.round((100 * run.step) / run.last_step) : 0, meter = box.querySelector(".meter");
    meter.setAttribute("aria-valuenow", share);
    meter.firstChild.style.width = `${share}%`;
    Object.entries(run.curves).forEach(([, points], k) => {
      const each = box.querySelectorAll(".plot")[k];
      if (!each || !points.length) return;
      text(each.querySelector(".num"), points.at(-1)[1].toPrecision(4));
      plot(each.querySelector("canvas"), [{ points, color: "--series-1" }], { from: points[0][0], to: points.at(-1)[0] });
    });
  });
}
