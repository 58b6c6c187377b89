// SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
// SPDX-License-Identifier: Apache-2.0
// Data tab: episodes of a dataset, filtered; play back, trim, delete, retask.
import { ask, toast } from "./link.js";
import { element, facts, fill, panel, table, text } from "./dom.js";
import { makePlayer } from "./episode.js";

const parts = {}, player = makePlayer();
let all = [], dataset = null, changed = null, chosen = new Set(), isMine = false;

export function build(root) {
  parts.which = element("select", { id: "dataset", onchange: () => load(parts.which.value) });
  parts.task = element("select", { id: "filter-task", onchange: draw });
  parts.mark = element("select", { id: "filter-mark", onchange: draw }, [["", "any mark"], ["success", "success"], ["failure", "failure"], ["unmarked", "not marked"], ["invalid", "not valid"]].map(([value, label]) => element("option", { value }, label)));
  parts.quality = element("select", { id: "filter-quality", onchange: draw }, [["", "any quality"], ["clean", "no filled row"], ["filled", "with filled rows"]].map(([value, label]) => element("option", { value }, label)));
  parts.facts = element("div");
  parts.rows = element("div", { class: "episodes" });
  parts.text = element("input", { id: "edit-text", maxlength: "1000", autocomplete: "off" });
  parts.output = element("input", { id: "edit-output", maxlength: "100", autocomplete: "off" });
  parts.chosen = element("p", { class: "muted" });
  parts.edits = [["trim", "Trim idle ends", ""], ["delete", "Delete", "danger"], ["retask", "Set task", ""]].map(([kind, label, style]) => element("button", { type: "button", class: style, onclick: () => edit(kind, label) }, label));
  const field = (id, label, input) => element("div", { class: "field" }, element("label", { for: id }, label), input);
  root.append(element("div", { class: "grid cols-side" },
    element("div", { class: "stack" },
      panel("Dataset", field("dataset", "Dataset", parts.which), parts.facts),
      panel("Filter", field("filter-task", "Task", parts.task), field("filter-mark", "Mark", parts.mark), field("filter-quality", "Quality", parts.quality)),
      panel("Edit chosen episodes", parts.chosen, field("edit-output", "Name of the new dataset, empty to replace this one", parts.output), field("edit-text", "New task", parts.text), element("div", { class: "row" }, parts.edits))),
    element("div", { class: "stack first" }, panel("Episodes", parts.rows), panel("Playback", element("div", { class: "legend" }, element("span", {}, "state"), element("span", { class: "second" }, "action")), player.root))));
}

export async function open() {
  const answer = await fetch("/api/datasets");
  all = answer.ok ? await answer.json() : [];
  parts.which.replaceChildren(...all.map((each) => element("option", { value: each.id }, each.name)));
  if (!all.length) return draw();
  await load(all.some((each) => each.id === dataset?.id) ? dataset.id : all[0].id);
}

async function load(id) {
  parts.which.value = id;
  const answer = await fetch(`/api/datasets/${id}`), found = await answer.json();
  if (!answer.ok) return toast(found.error, true);
  if (found.id !== dataset?.id) chosen = new Set();
  dataset = found;
  const before = parts.task.value;
  parts.task.replaceChildren(element("option", { value: "" }, "any task"), ...dataset.tasks.map((task) => element("option", { value: task }, task)));
  parts.task.value = dataset.tasks.includes(before) ? before : "";
  draw();
  if (dataset.episodes.length && player.root.hidden) player.show(dataset, dataset.episodes[0].index);
}

function isShown(each) {
  const mark = parts.mark.value, quality = parts.quality.value;
  return (!parts.task.value || each.tasks.includes(parts.task.value))
    && (!mark || (mark === "success" ? each.success === true : mark === "failure" ? each.success === false : mark === "invalid" ? each.valid === false : each.success == null))
    && (!quality || (quality === "clean" ? each.filled === 0 : each.filled > 0));
}

export function draw(state) {
  if (state?.isMine !== undefined) isMine = state.isMine;
  if (state?.datasets_changed && state.datasets_changed.at_s !== changed) {
    const isFirst = changed === null;
    changed = state.datasets_changed.at_s;
    if (!isFirst) open();
  }
  const shown = dataset ? dataset.episodes.filter(isShown) : [];
  fill(parts.facts, dataset && [dataset.path, dataset.fps, dataset.version, dataset.is_recording, dataset.episodes.length], () => dataset ? facts([["folder", dataset.path], ["format", dataset.version], ["rate", `${dataset.fps} Hz`], ["embodiment", dataset.embodiment], ["episodes", String(dataset.episodes.length)],
    ["editing", dataset.is_recording ? "not while the recorder has it open" : "possible"]]) : element("p", { class: "empty" }, "No dataset: record one, or start the console with --datasets."));
  fill(parts.rows, [dataset?.id, shown, [...chosen]], () => shown.length ? table([["Choose"], ["Episode", "num"], ["Task", "wide"], ["Length", "num"], ["Success"], ["Valid"], ["Filled rows", "num"], ["Note"], ["Play back"]],
    shown.map((each) => [element("td", {}, element("input", { type: "checkbox", "aria-label": `choose episode ${each.index}`, checked: chosen.has(each.index), onchange: (event) => { event.target.checked ? chosen.add(each.index) : chosen.delete(each.index); draw(); } })),
      String(each.index), each.tasks.join("; "), `${each.seconds.toFixed(1)} s`, said(each.success), said(each.valid), each.filled == null ? "–" : `${(100 * each.filled).toFixed(1)} %`, each.note,
      element("td", {}, element("button", { type: "button", "aria-label": `show episode ${each.index}`, onclick: () => player.show(dataset, each.index) }, "Show"))])) : element("p", { class: "empty" }, "No episode."));
  text(parts.chosen, chosen.size ? `Chosen: ${[...chosen].sort((a, b) => a - b).join(", ")}` : "Choose episodes in the table.");
  for (const each of parts.edits) each.disabled = !isMine || !chosen.size || dataset?.is_recording;
}

const said = (mark) => (mark == null ? "–" : mark ? "yes" : "no");

async function edit(kind, label) {
  const output = parts.output.value.trim(), target = output ? `into a new dataset "${output}"` : "and replace the dataset";
  if (!confirm(`${label}: ${chosen.size} episodes of ${dataset.path}, ${target}?`)) return;
  for (const each of parts.edits) each.disabled = true;
  const answer = await ask("edit", { kind, dataset: dataset.id, episodes: [...chosen], text: parts.text.value, output });
  if (answer.ok && !output) chosen = new Set();
  draw();
}
