// SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
// SPDX-License-Identifier: Apache-2.0
// Policy tab: start, stop, take over; what the policy predicts; latency, holds and clamps.
import { ask } from "./link.js";
import { element, facts, figures, fill, fixed, panel, path, plot, table, text, transitions } from "./dom.js";
import { jointRows, updateJoints } from "./robot.js";

const parts = {}, buttons = {};
const JOG_MS = 100;
const PAST_S = 3;
let jog = {};

export function build(root, state) {
  const button = (name, label, kind, action) => (buttons[name] = element("button", { type: "button", class: kind, onclick: action }, label));
  parts.instruction = element("input", { id: "instruction", maxlength: "1000", list: "instructions", autocomplete: "off" });
  parts.limit = element("input", { id: "limit", type: "number", min: "0", step: "1", value: "0", inputmode: "numeric" });
  parts.known = element("datalist", { id: "instructions" });
  parts.head = element("div");
  parts.counts = element("div");
  parts.latency = element("div");
  parts.plots = element("div", { class: "plots" });
  parts.chunk = element("div", { class: "muted" });
  parts.jog = element("div");
  parts.jogPanel = panel("Move joints by hand", element("p", { class: "muted" }, "A joint moves slowly while its button is held, within the limits of the node."), parts.jog);
  parts.node = element("div");
  parts.checkpoint = element("input", { id: "checkpoint", maxlength: "1000", autocomplete: "off", placeholder: "as it is" });
  parts.dry = element("input", { id: "dry", type: "checkbox" });
  parts.change = element("p", { class: "muted", role: "status" });
  const change = panel("Change the policy", element("p", { class: "muted" }, "The robot comes to rest, the node loads the policy and is activated again."),
    element("div", { class: "field" }, element("label", { for: "checkpoint" }, "Checkpoint: folder on the node's machine, or hub id"), parts.checkpoint),
    element("label", { for: "dry", class: "row" }, parts.dry, "Dry run: no commands"),
    element("div", { class: "big" }, button("change", "Change", "", () => changePolicy())), parts.change);
  const task = panel("Task", parts.head,
    element("div", { class: "field" }, element("label", { for: "instruction" }, "Instruction"), parts.instruction, parts.known),
    element("div", { class: "field" }, element("label", { for: "limit" }, "Time limit in seconds, 0 for none"), parts.limit),
    element("div", { class: "big" },
      button("run", "Start", "primary", () => run()), button("end", "End task", "", () => ask("end_task")),
      button("hold", "Hold", "", () => ask("hold")), button("over", "Take over", "", () => ask("take_over")),
      button("back", "Give back", "", () => ask("give_back")), button("reset", "Reset after stop", "", () => ask("reset"))));
  root.append(element("div", { class: "grid cols-side" },
    element("div", { class: "stack" }, task, parts.jogPanel, panel("Node", parts.node), change),
    element("div", { class: "stack" },
      panel("Predicted motion", element("div", { class: "row spread" }, element("div", { class: "legend" }, element("span", {}, "measured"), element("span", { class: "second" }, "predicted")), parts.chunk), parts.plots),
      panel("Holds, stops, clamps", parts.counts), panel("Latency of the last minute", parts.latency))));
  setInterval(() => { if (Object.keys(jog).length) ask("jog", { rates: jog }, { isQuiet: true }); }, JOG_MS);
  parts.state = state;
}

function run() {
  const instruction = parts.instruction.value.trim();
  return ask("run", { instruction, time_limit_s: Number(parts.limit.value) || 0 });
}

function changePolicy() {
  const isActive = parts.state.policy_node?.lifecycle === "active";
  if (isActive && !confirm("Bring the robot to rest and change its policy?")) return undefined;
  return ask("change_policy", { checkpoint: parts.checkpoint.value.trim(), dry_run: parts.dry.checked, is_confirmed: isActive });
}

function setJog(name, share) {
  const before = Object.keys(jog).length;
  if (share) jog[name] = share;
  else delete jog[name];
  if (before || share) ask("jog", { rates: jog }, { isQuiet: true });
}

export function draw(state) {
  const policy = state.policy, node = state.policy_node || {}, control = state.control || {};
  fill(parts.head, [policy?.state, policy?.cause, policy?.instruction, node.dry_run, node.checkpoint_path, node.server, node.lifecycle], () => facts([
    ["checkpoint", path(node.checkpoint_path) || node.server || "–"], ["instruction", policy?.instruction],
    ["state", policy ? `${policy.state}${policy.cause ? ` (${policy.cause})` : ""}` : "no policy node"],
    ["commands", node.dry_run ? element("span", { class: "pill warn" }, "dry run") : policy ? "published" : "–"]]));
  const isTask = policy && (policy.state === "running" || policy.state === "holding");
  const isOn = state.isMine && Boolean(policy);
  const enabled = { run: isOn && policy.state !== "stopped", end: isOn && isTask, hold: isOn && isTask && !policy.device, over: isOn && policy.state !== "stopped" && !control.is_taken_over,
    back: isOn && (control.is_taken_over || Boolean(control.held) || policy.cause === "asked"), reset: isOn };
  for (const [name, is] of Object.entries(enabled)) buttons[name].disabled = !is;
  buttons.reset.className = policy?.state === "stopped" ? "primary" : "";
  buttons.back.className = control.held || policy?.cause === "asked" ? "primary" : "";
  text(buttons.run, isTask ? "Change instruction" : "Start");
  parts.jogPanel.hidden = !(state.isMine && control.is_taken_over);
  if (parts.jogPanel.hidden) jog = {};
  fill(parts.jog, [state.joint_rows], () => jointRows(state, setJog));
  updateJoints(parts.jog, state);
  drawNode(state, node);
  drawChange(state, node);
  drawCounts(policy);
  drawChunk(state);
}

function drawNode(state, node) {
  fill(parts.node, [node, state.isMine], () => {
    return [facts([["lifecycle", node.lifecycle], ["device", node.device], ["control rate", node.control_rate_hz ? `${node.control_rate_hz} Hz` : ""], ["execution", node.execution],
      ["teleop", node.teleop], ["topic map", path(node.topics_file)], ["limits", path(node.limits_file)]]),
      transitions("policy", node.lifecycle, state.isMine, ask)];
  });
}

function drawChange(state, node) {
  const change = state.policy_change;
  buttons.change.disabled = !state.isMine || Boolean(change?.is_running) || !["active", "inactive", "unconfigured"].includes(node.lifecycle);
  if (node.dry_run !== parts.wasDry) parts.dry.checked = Boolean(parts.wasDry = node.dry_run);
  text(parts.change, change?.text || "");
  parts.change.className = change?.is_fault ? "fault" : "muted";
}

function drawCounts(policy) {
  if (!policy) {
    fill(parts.counts, null, () => element("p", { class: "empty" }, "No policy node."));
    fill(parts.latency, null, () => element("p", { class: "empty" }, "No policy node."));
    return;
  }
  const { chunks, refused_observations, limited_commands, underruns, holds, stops, clamps, gates } = policy;
  fill(parts.counts, [chunks, refused_observations, limited_commands, underruns, holds, stops, clamps, gates], () => {
    const rows = [["hold", holds], ["stop", stops], ["clamp", clamps], ["gate", gates]].flatMap(([kind, found]) => Object.entries(found).map(([name, count]) => [kind, name, String(count)]));
    return [figures([["chunks", chunks], ["observations refused", refused_observations], ["commands limited", limited_commands], ["underruns", underruns]]),
      rows.length ? table([["Kind"], ["Cause"], ["Count", "num"]], rows) : element("p", { class: "empty" }, "No hold, stop or clamp so far.")];
  });
  fill(parts.latency, policy.stages, () => {
    const rows = policy.stages.filter((each) => each.count).map((each) => [each.name, String(each.count), ...["p50", "p95", "p99", "worst"].map((name) => `${fixed(1000 * each[name], 1)} ms`)]);
    return rows.length ? table([["Stage"], ["Count", "num"], ["p50", "num"], ["p95", "num"], ["p99", "num"], ["Worst", "num"]], rows) : element("p", { class: "empty" }, "Nothing was measured in the last minute.");
  });
}

function drawChunk(state) {
  const chunk = state.chunk;
  const names = chunk ? chunk.names : (state.joint_rows || []).filter((row) => row.is_commanded).map((row) => row.name);
  fill(parts.plots, names, () => names.length ? names.map((name) => element("div", { class: "plot" }, element("div", { class: "title" }, element("span", {}, name), element("span", { class: "num muted" })),
    element("canvas", { role: "img", "aria-label": `${name}: measured and predicted course` }))) : element("p", { class: "empty" }, "No chunk yet."));
  text(parts.chunk, chunk ? `chunk ${chunk.sequence}, ${chunk.rows.length} rows` : "");
  const limits = new Map((state.joint_rows || []).map((row) => [row.name, row]));
  const newest = Math.max(0, ...[...state.history.values()].map((past) => past.at(-1)?.[0] || 0));
  const now = newest || chunk?.start_s || 0, isFresh = chunk && chunk.start_s + chunk.step_s * chunk.rows.length > now - PAST_S;
  const to = isFresh ? Math.max(chunk.start_s + chunk.step_s * chunk.rows.length, now + 0.5) : now + 0.5;
  [...parts.plots.querySelectorAll(".plot")].forEach((box, i) => {
    const name = names[i], past = (state.history.get(name) || []).filter(([time]) => time > now - PAST_S), row = limits.get(name);
    const series = [{ points: past, color: "--series-1" }];
    if (isFresh) series.push({ points: chunk.rows.map((values, k) => [chunk.start_s + k * chunk.step_s, values[i]]), color: "--series-2", isDashed: true });
    text(box.querySelector(".num"), past.length ? fixed(past.at(-1)[1], 3) : "");
    plot(box.querySelector("canvas"), series, { from: now - PAST_S, to, low: row?.low, high: row?.high, now, least: 0.02 });
  });
}
