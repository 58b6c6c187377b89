// SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
// SPDX-License-Identifier: Apache-2.0
// Robot tab: cameras, joints against limits, who commands, streams and gates.
import { element, facts, figures, fill, fixed, panel, streamTable, table, text } from "./dom.js";

const parts = {};
const SOURCES = { none: "nobody", policy: "the policy", person: "a person", motion: "a move or replay", hold: "held", stop: "stopped" };
const NEAR = 0.05; // share of the range at each end

export function build(root) {
  parts.cameras = element("div", { class: "cameras" });
  parts.joints = element("div");
  parts.source = element("div");
  parts.streams = element("div");
  parts.gates = element("div");
  parts.machine = element("div");
  root.append(element("div", { class: "grid cols-2" },
    element("div", { class: "stack" }, panel("Cameras", parts.cameras), panel("Streams", parts.streams)),
    element("div", { class: "stack" }, panel("Command source", parts.source), panel("Joints", parts.joints), panel("Input gates", parts.gates), panel("Machine", parts.machine))));
}

export function draw(state) {
  drawCameras(state);
  fill(parts.joints, [state.joint_rows], () => jointRows(state));
  updateJoints(parts.joints, state);
  const policy = state.policy, node = state.policy_node || {};
  fill(parts.source, [policy?.source, policy?.device, policy?.state, policy?.reason, policy?.teleop_fault, policy?.takeovers, node], () => policy ? [
    figures([["commands the robot", policy.device ? `${SOURCES[policy.source]} (${policy.device})` : SOURCES[policy.source] || policy.source], ["takeovers", policy.takeovers]]),
    facts([["state", `${policy.state}${policy.reason ? `: ${policy.reason}` : ""}`], ["not followed", policy.teleop_fault], ["lifecycle", node.lifecycle],
      ["commands", node.dry_run ? "dry run: none are published" : "published"]]),
  ] : element("p", { class: "empty" }, "No policy node. Start one, or look at the streams of the recorder."));
  const streams = merged(state);
  fill(parts.streams, streams, () => streams.length ? streamTable(streams) : element("p", { class: "empty" }, "Neither policy node nor recorder report streams."));
  fill(parts.gates, [policy?.gates, policy?.input_fault, policy?.refused_observations], () => policy ? gates(policy) : element("p", { class: "empty" }, "The policy node reports gates."));
  fill(parts.machine, [state.machine], () => machine(state.machine));
}

/** What gr00t doctor found at the start of the console. */
function machine(found) {
  if (!found) return element("p", { class: "empty" }, "gr00t doctor is looking at this machine.");
  if (found.error) return element("p", { class: "fault" }, `Not checked: ${found.error}`);
  if (!found.rows.length) return element("p", { class: "ok" }, `${found.num_checks} checks, no fault`);
  return table([["Level"], ["Check"], ["Found"]], found.rows.map(([level, check, what, remedy]) =>
    [element("span", { class: level === "fault" ? "fault" : "" }, level), check.replaceAll("_", " "), element("div", { class: "finding" }, what, remedy ? element("div", { class: "muted" }, remedy) : null)]));
}

function gates(policy) {
  const rows = Object.entries(policy.gates);
  return [element("p", { class: policy.input_fault ? "fault" : "ok" }, policy.input_fault || "all inputs can be used"),
    rows.length ? table([["Closed by"], ["Observations refused", "num"]], rows.map(([name, count]) => [name, String(count)])) : null].filter(Boolean);
}

/** Streams of both nodes, by topic; the policy node's where both report one. */
function merged(state) {
  const found = new Map();
  for (const each of [...(state.recorder?.streams || []), ...(state.policy?.streams || [])]) found.set(each.topic, each);
  return [...found.values()];
}

function drawCameras(state) {
  fill(parts.cameras, state.cameras || [], () => (state.cameras || []).map((name) =>
    element("figure", { class: "camera", "data-camera": name }, element("img", { alt: `Camera ${name}, newest picture` }),
      element("video", { "aria-label": `Camera ${name}`, autoplay: true, muted: true, playsinline: true, hidden: true }),
      element("figcaption", {}, element("span", {}, name), element("span", { class: "age" }, "no picture")))));
  if (!(state.cameras || []).length && !parts.cameras.firstChild) parts.cameras.append(element("p", { class: "empty" }, "No topic map yet."));
  for (const figure of parts.cameras.querySelectorAll("[data-camera]")) {
    showVideo(figure, state);
    const shown = state.pictures.get(figure.dataset.camera);
    if (shown) text(figure.querySelector(".age"), `${((performance.now() - shown.ms) / 1000).toFixed(1)} s ago`);
  }
}

function showVideo(figure, state) {
  const name = figure.dataset.camera, stream = state.videos.get(name) || null, video = figure.querySelector("video");
  if (video.srcObject !== stream) {
    video.muted = true; // as an attribute it does not count for an element made by a script, and nothing else may start by itself
    video.srcObject = stream;
    video.hidden = !stream;
    figure.querySelector("img").hidden = Boolean(stream);
  }
  const count = stream ? video.getVideoPlaybackQuality().totalVideoFrames : 0;
  if (count !== Number(video.dataset.count || 0)) {
    video.dataset.count = count;
    if (count) state.pictures.set(name, { ms: performance.now() });
  }
}

export function showPicture(name, blob, state) {
  const before = state.pictures.get(name);
  const picture = { url: URL.createObjectURL(blob), ms: performance.now() };
  state.pictures.set(name, picture);
  for (const image of document.querySelectorAll(`[data-camera="${CSS.escape(name)}"] img`)) image.src = picture.url;
  if (before?.url) setTimeout(() => URL.revokeObjectURL(before.url), 1000);
}

/** Rows of joints; `onJog(name, share)` adds buttons to the commanded ones that have a speed. */
export function jointRows(state, onJog = null) {
  const rows = state.joint_rows || [];
  if (!rows.length) return [element("p", { class: "empty" }, "No joints: the topic map of the nodes is not readable here; give --topics.")];
  return rows.map((row) => {
    const canJog = onJog && row.is_commanded && row.max_velocity;
    return element("div", { class: canJog ? "joint" : "joint plain", "data-joint": `${row.key}.${row.name}` },
      element("span", { class: "name" }, row.name),
      element("div", { class: "range" },
        element("span", { class: "low" }, row.low == null ? "" : fixed(row.low)), element("span", { class: "high" }, row.high == null ? "" : fixed(row.high)), element("i")),
      element("span", { class: "num" }, "–"),
      canJog ? element("span", { class: "jog" }, [[-1, "−"], [1, "+"]].map(([share, sign]) =>
        element("button", { type: "button", "aria-label": `move ${row.name} ${share > 0 ? "up" : "down"} while held`, ...holding((isOn) => onJog(row.name, isOn ? share : 0)) }, sign))) : null);
  });
}

function holding(change) {
  const off = () => change(false);
  return { onpointerdown: (event) => { event.target.setPointerCapture(event.pointerId); change(true); }, onpointerup: off, onpointercancel: off, onlostpointercapture: off,
    onkeydown: (event) => { if ((event.key === " " || event.key === "Enter") && !event.repeat) change(true); }, onkeyup: off, onblur: off };
}

export function updateJoints(root, state) {
  const rows = state.joint_rows || [];
  const boxes = root.querySelectorAll("[data-joint]");
  rows.forEach((row, i) => {
    const box = boxes[i], value = state.joints[`${row.key}.${row.name}`];
    if (!box || value == null) return;
    text(box.querySelector("span.num"), `${fixed(value, 3)} ${row.unit}`);
    const range = box.querySelector(".range"), mark = range.querySelector("i");
    if (row.low == null || row.high == null) { mark.hidden = true; return; }
    const share = (value - row.low) / (row.high - row.low);
    mark.style.left = `${Math.min(Math.max(share, 0), 1) * 100}%`;
    range.className = `range${share < 0 || share > 1 ? " out" : share < NEAR || share > 1 - NEAR ? " near" : ""}`;
  });
}
