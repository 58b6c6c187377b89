// SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
// SPDX-License-Identifier: Apache-2.0
// Trials tab: judge trials of the policy; success with its interval per checkpoint.
import { ask } from "./link.js";
import { element, figures, fill, fixed, panel, path, table, text } from "./dom.js";

const parts = {}, buttons = {};
const percent = (share) => `${(100 * share).toFixed(1)} %`;

export function build(root) {
  const button = (name, label, kind, action) => (buttons[name] = element("button", { type: "button", class: kind, onclick: action }, label));
  parts.instruction = element("input", { id: "trial-task", maxlength: "1000", autocomplete: "off" });
  parts.limit = element("input", { id: "trial-limit", type: "number", min: "0", value: "60", inputmode: "numeric" });
  parts.note = element("input", { id: "trial-note", maxlength: "1000", autocomplete: "off" });
  parts.now = element("div");
  parts.groups = element("div");
  parts.rows = element("div");
  parts.table = element("p", { class: "muted" });
  root.append(element("div", { class: "grid cols-side" },
    element("div", { class: "stack" }, panel("Trial", parts.now,
      element("div", { class: "field" }, element("label", { for: "trial-task" }, "Task"), parts.instruction),
      element("div", { class: "field" }, element("label", { for: "trial-limit" }, "Time limit in seconds, 0 for none"), parts.limit),
      element("div", { class: "field" }, element("label", { for: "trial-note" }, "Note"), parts.note),
      element("div", { class: "big" },
        button("begin", "Start trial", "primary", () => ask("trial_begin", { instruction: parts.instruction.value, time_limit_s: Number(parts.limit.value) || 0 })),
        button("success", "Success", "", () => end(true)), button("failure", "Failure", "", () => end(false)), button("cancel", "Does not count", "", () => ask("trial_cancel"))),
      element("p", { class: "muted" }, "Prepare the scene, start, and judge how it ended. Success and failure also end the task."))),
    element("div", { class: "stack" },
      panel("Success by checkpoint", parts.groups),
      panel("Trials", parts.rows, element("div", { class: "row spread" }, parts.table, element("div", { class: "row" },
        element("a", { href: "/api/trials.csv", download: true }, "CSV"), element("a", { href: "/api/trials.json", download: true }, "JSON")))))));
}

async function end(success) {
  if ((await ask("trial_end", { success, note: parts.note.value })).ok) parts.note.value = "";
}

export function draw(state) {
  const trials = state.trials || { groups: [], trials: [], pairs: [] }, isOn = state.isMine && Boolean(state.policy);
  for (const [name, is] of Object.entries({ begin: isOn && !trials.running, success: isOn && trials.running, failure: isOn && trials.running, cancel: isOn && trials.running })) buttons[name].disabled = !is;
  fill(parts.now, [trials.running, state.policy?.state], () => figures([["trial", trials.running ? `number ${trials.running.number}` : "none"], ["policy", state.policy?.state || "absent"]]));
  if (!parts.instruction.value && state.policy?.instruction) parts.instruction.value = state.policy.instruction;
  fill(parts.groups, [trials.groups, trials.pairs], () => trials.groups.length ? [
    table([["Checkpoint"], ["Task", "wide"], ["Done", "num"], ["Success", "num"], ["95 % interval", "num"], ["0 to 100 %"], ["Time", "num"], ["Holds", "num"], ["Clamps", "num"]],
      trials.groups.map((each) => [element("td", {}, path(each.checkpoint)), each.task, `${each.successes} of ${each.trials}`, percent(each.share), each.interval.map(percent).join(" to "),
        element("td", {}, interval(each)), each.median_time_s == null ? "–" : `${fixed(each.median_time_s, 1)} s`, String(each.holds), String(each.clamps)])),
    ...trials.pairs.map((each) => element("p", { class: "muted" }, `${short(each.first)} and ${short(each.second)} on the same ${each.scenes} scenes: only the first in ${each.only_first}, only the second in ${each.only_second}; p = ${each.p.toPrecision(3)}`))]
    : element("p", { class: "empty" }, "No trial yet."));
  fill(parts.rows, trials.trials, () => trials.trials.length ? table([["Number", "num"], ["Begun"], ["Task", "wide"], ["Result"], ["Time", "num"], ["Chunks", "num"], ["Holds", "num"], ["Clamps", "num"], ["Takeovers", "num"], ["Note"]],
    [...trials.trials].reverse().map((each) => [String(each.seed), each.begun.replace("T", " ").slice(0, 19), each.task, element("td", {}, element("span", { class: each.success ? "ok" : "fault" }, each.success ? "success" : "failure")),
      `${fixed(each.time_s, 1)} s`, String(each.chunks), String(each.holds), String(each.clamps), String(each.takeovers), each.note])) : element("p", { class: "empty" }, "No trial yet."));
  text(parts.table, trials.table ? `Table: ${trials.table}` : "");
}

const short = (name) => name.split("/").filter(Boolean).at(-1) || name;

function interval(group) {
  const band = element("i"), mark = element("b"), box = element("div", { class: "interval", role: "img", "aria-label": `${percent(group.share)}, between ${group.interval.map(percent).join(" and ")}` }, band, mark);
  band.style.left = `${100 * group.interval[0]}%`;
  band.style.width = `${100 * (group.interval[1] - group.interval[0])}%`;
  mark.style.left = `${100 * group.share}%`;
  return box;
}
