// SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
// SPDX-License-Identifier: Apache-2.0
// Collect tab: record episodes, mark them, watch streams and disk.
import { ask } from "./link.js";
import { makePlayer } from "./episode.js";
import { bytes, duration, element, facts, figures, fill, panel, streamTable, transitions } from "./dom.js";

const parts = {}, buttons = {}, player = makePlayer({ hasCurves: false });
let changed = null;
const KEYS = { s: "start", k: "keep", d: "discard", r: "redo", y: "success", n: "failure", i: "invalid" };

export function build(root) {
  const button = (name, label, kind, key) => (buttons[name] = element("button", { type: "button", class: kind, onclick: () => actions[name]() }, label, key ? element("kbd", {}, key) : null));
  parts.task = element("input", { id: "task", maxlength: "1000", autocomplete: "off" });
  parts.note = element("input", { id: "note", maxlength: "1000", autocomplete: "off" });
  parts.tasks = element("ul", { class: "list" });
  parts.head = element("div");
  parts.streams = element("div");
  parts.disk = element("div");
  parts.marks = element("div", { class: "row" }, button("success", "Success", "", "y"), button("failure", "Failure", "", "n"), button("invalid", "Not valid", "", "i"));
  root.append(element("div", { class: "grid cols-side" },
    element("div", { class: "stack" },
      panel("Task", parts.tasks, element("div", { class: "field" }, element("label", { for: "task" }, "Task of the next episodes"), parts.task),
        element("div", { class: "row" }, element("button", { type: "button", onclick: () => ask("set_task", { task: parts.task.value }) }, "Set task"))),
      panel("Recorder", parts.disk)),
    element("div", { class: "stack first" },
      panel("Episode", parts.head, element("div", { class: "big" }, button("start", "Start", "primary", "s"), button("keep", "Keep", "", "k"), button("discard", "Discard", "danger", "d"), button("redo", "Redo", "", "r"), button("back", "Take last back", "danger"))),
      panel("Marks", parts.marks, element("div", { class: "field" }, element("label", { for: "note" }, "Note"), parts.note),
        element("button", { type: "button", onclick: () => mark({ note: parts.note.value }) }, "Save note")),
      panel("Last episode", parts.last = element("p", { class: "empty" }, "None yet."), player.root), panel("Streams", parts.streams))));
}

const actions = {
  start: () => ask("episode_start", { task: "" }),
  keep: () => ask("episode_keep"),
  discard: () => ask("episode_discard"),
  redo: () => ask("episode_redo"),
  back: () => confirm("Take the last episode out of the dataset? Its files are moved aside.") && ask("episode_take_back"),
  success: () => mark({ success: true }),
  failure: () => mark({ success: false }),
  invalid: () => mark({ valid: false }),
};

function mark(fields) {
  return ask("mark", { success: null, valid: null, note: "", ...fields });
}

export function press(key, state) {
  const name = KEYS[key.toLowerCase()];
  if (name && state.isMine && !buttons[name].disabled) actions[name]();
}

export function draw(state) {
  const recorder = state.recorder, isRecording = recorder?.state === "recording", isOn = state.isMine && Boolean(recorder);
  const isIdle = recorder && !isRecording && recorder.state !== "saving";
  const enabled = { start: isOn && isIdle, keep: isOn && (isRecording || recorder.ended_by_itself), discard: isOn && (isRecording || recorder.ended_by_itself), redo: isOn && recorder.can_redo,
    back: isOn && isIdle && recorder.episodes > 0, success: isOn, failure: isOn, invalid: isOn };
  for (const [name, is] of Object.entries(enabled)) buttons[name].disabled = !is;
  buttons.success.setAttribute("aria-pressed", String(recorder?.success === true));
  buttons.failure.setAttribute("aria-pressed", String(recorder?.success === false));
  buttons.invalid.setAttribute("aria-pressed", String(recorder?.valid === false));
  fill(parts.head, recorder && { ...recorder, streams: 0, disk_free: 0, disk_duration: 0 }, () => recorder ? head(recorder) : element("p", { class: "empty" }, "No recorder. Start recorder_node."));
  const node = state.recorder_node || {};
  fill(parts.disk, recorder && [Math.round(recorder.disk_free / 1e8), Math.round(recorder.disk_duration / 60), recorder.dataset_path, node.lifecycle, state.isMine], () => recorder ? [facts([["recorder", node.lifecycle], ["free", bytes(recorder.disk_free)], ["room for", duration(recorder.disk_duration)], ["dataset", recorder.dataset_path]]), transitions("recorder", node.lifecycle, state.isMine, ask)] : element("p", { class: "empty" }, "–"));
  fill(parts.streams, recorder?.streams || [], () => recorder ? streamTable(recorder.streams) : element("p", { class: "empty" }, "–"));
  fill(parts.tasks, [state.tasks, recorder?.task, state.isMine], () => (state.tasks || []).map(([name, count]) => element("li", {}, element("button", { type: "button", disabled: !state.isMine,
    "aria-pressed": String(name === recorder?.task), onclick: () => ask("set_task", { task: name }) }, element("span", {}, name), element("span", { class: "num" }, String(count))))));
  if (state.datasets_changed && state.datasets_changed.at_s !== changed) {
    changed = state.datasets_changed.at_s;
    showLast(recorder);
  }
  if (document.activeElement !== parts.task && recorder?.task && !parts.task.value) parts.task.value = recorder.task;
}

async function showLast(recorder) {
  const all = await (await fetch("/api/datasets")).json();
  const own = recorder && all.find((each) => each.path === recorder.dataset_path || each.path.endsWith(recorder.dataset_path));
  if (!own) return;
  const answer = await fetch(`/api/datasets/${own.id}`);
  if (!answer.ok) return;
  const dataset = await answer.json(), last = dataset.episodes.at(-1);
  parts.last.hidden = Boolean(last);
  player.root.hidden = !last;
  if (last) player.show(dataset, last.index);
}

function head(recorder) {
  const kind = { recording: "bad", saving: "warn", failed: "bad" }[recorder.state] || "good";
  const marks = [recorder.success === true ? "success" : recorder.success === false ? "failure" : "", recorder.valid === false ? "not valid" : "", recorder.note].filter(Boolean).join(", ");
  return [figures([["state", recorder.state], ["episode", recorder.episode_index], ["rows", recorder.frames], ["seconds", recorder.duration.toFixed(1)], ["in the dataset", recorder.episodes]]),
    element("p", { class: "row" }, element("span", { class: `pill ${kind}` }, recorder.state), element("span", {}, recorder.task || "no task yet")),
    recorder.reason || recorder.warning ? element("p", { class: "wait" }, recorder.warning || recorder.reason) : null,
    recorder.queued ? element("p", { class: "muted" }, `${recorder.queued} rows wait for the encoder${recorder.spilled ? `, ${recorder.spilled} of them on disk` : ""}`) : null,
    marks ? element("p", { class: "muted" }, `marks: ${marks}`) : null].filter(Boolean);
}
