// SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
// SPDX-License-Identifier: Apache-2.0
// Play back one episode: videos side by side, and curves with a line at the time of the videos.
import { element, fill, plot, text } from "./dom.js";

/** A player; `show(dataset, episode)` takes the description of a dataset and an index. */
export function makePlayer({ hasCurves = true } = {}) {
  const videos = element("div", { class: "cameras" }), curves = element("div", { class: "plots" });
  const play = element("button", { type: "button", onclick: () => toggle() }, "Play");
  const seek = element("input", { type: "range", min: "0", max: "1", step: "0.001", value: "0", "aria-label": "time in the episode", oninput: () => jump(Number(seek.value)) });
  const clock = element("span", { class: "num muted" });
  const title = element("p", { class: "muted" });
  const root = element("div", { class: "player" }, title, videos, element("div", { class: "row playing" }, play, seek, clock), curves);
  let clips = [], found = null, shown = "", length_s = 0;
  root.hidden = true;

  async function show(dataset, episode) {
    const entry = dataset.episodes.find((each) => each.index === episode);
    const key = `${dataset.id} ${episode} ${dataset.episodes.length} ${entry?.rows}`;
    if (!entry || key === shown) return;
    shown = key;
    root.hidden = false;
    length_s = entry.seconds;
    text(title, `Episode ${episode}: ${entry.tasks.join("; ")}, ${entry.rows} rows, ${entry.seconds.toFixed(1)} s`);
    clips = await Promise.all(dataset.cameras.map(async (camera) => {
      const base = `/api/datasets/${dataset.id}/${episode}`, clip = await (await fetch(`${base}/clip/${encodeURIComponent(camera)}`)).json();
      const video = element("video", { muted: true, playsinline: true, preload: "auto", "aria-label": `camera ${camera}`, src: `${base}/video/${encodeURIComponent(camera)}#t=${clip.start_s ?? 0}` });
      video.muted = true;
      return { camera, video, start_s: clip.start_s ?? 0 };
    }));
    videos.replaceChildren(...clips.map(({ camera, video }) => element("figure", {}, video, element("figcaption", { class: "muted" }, camera))));
    jump(0);
    found = null;
    curves.dataset.key = "";
    curves.replaceChildren();
    if (hasCurves) {
      const answer = await fetch(`/api/datasets/${dataset.id}/${episode}/curves`);
      found = answer.ok ? await answer.json() : null;
      draw();
    }
  }

  function toggle() {
    const isPlaying = clips.some(({ video }) => !video.paused);
    for (const { video } of clips) isPlaying ? video.pause() : video.play().catch(() => {});
    text(play, isPlaying ? "Play" : "Pause");
    if (!isPlaying) tick();
  }

  function jump(share) {
    for (const { video, start_s } of clips) video.currentTime = start_s + share * length_s;
    mark(share);
  }

  function tick() {
    const first = clips[0];
    if (!first || first.video.paused) return;
    const share = (first.video.currentTime - first.start_s) / (length_s || 1);
    if (share >= 1) {
      toggle();
      jump(0);
      return;
    }
    seek.value = share;
    mark(share);
    requestAnimationFrame(tick);
  }

  function mark(share) {
    text(clock, `${(share * length_s).toFixed(1)} of ${length_s.toFixed(1)} s`);
    drawPlots(share * length_s);
  }

  function draw() {
    const names = found ? channels() : [];
    fill(curves, [shown, names], () => names.map(([name]) => element("div", { class: "plot" }, element("div", { class: "title" }, element("span", {}, name)), element("canvas", { role: "img", "aria-label": `${name}: state and action over the episode` }))));
    drawPlots(0);
  }

  /** Channels by name with their columns: state and action of the same name share a plot. */
  function channels() {
    const all = new Map();
    for (const [key, { names, rows }] of Object.entries(found.keys)) {
      names.forEach((name, i) => {
        const label = /^\d+$/.test(name) ? `${key.split(".").slice(1).join(".")} ${name}` : name;
        const columns = all.get(label) || [];
        columns.push([key.startsWith("action") ? "--series-2" : "--series-1", rows.map((row) => row[i])]);
        all.set(label, columns);
      });
    }
    return [...all];
  }

  function drawPlots(now) {
    if (!found?.t.length) return;
    const all = channels(), to = found.t.at(-1);
    [...curves.querySelectorAll("canvas")].forEach((canvas, i) => plot(canvas, all[i][1].map(([color, values]) => ({ color, points: values.map((value, k) => [found.t[k], value]) })), { from: 0, to, now }));
  }

  return { root, show };
}
