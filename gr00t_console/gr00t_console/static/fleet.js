// SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
// SPDX-License-Identifier: Apache-2.0
// Fleet tab: every robot that this machine hears, with a link to its own page. It only shows: STOP is that of this page's robot.
import { element, figures, fill, fixed, panel, path, table } from "./dom.js";

const parts = {};
const PILLS = { idle: "", running: "good", holding: "warn", stopped: "bad", failed: "bad", recording: "good", saving: "warn" };

export function build(root) {
  parts.sums = element("div");
  parts.robots = element("div");
  root.append(element("div", { class: "stack" }, panel("Fleet", parts.sums, element("p", { class: "muted" }, "STOP above stops the robot of this page only. To stop or operate another robot, open its page.")), panel("Robots", parts.robots)));
}

export function draw(state) {
  const robots = state.fleet || [];
  const count = (name) => robots.filter((each) => !each.is_lost && each.policy?.view.state === name).length;
  const sums = [["robots", robots.length], ["running", count("running")], ["holding", count("holding")], ["stopped", count("stopped")], ["lost", robots.filter((each) => each.is_lost).length]];
  fill(parts.sums, sums, () => figures(sums));
  fill(parts.robots, robots, () => robots.length ? table(
    [["Robot"], ["Policy"], ["Commands"], ["Checkpoint or server"], ["Holds", "num"], ["Stops", "num"], ["Clamps", "num"], ["Observation to chunk", "num"], ["Recorder"], ["Page"]],
    robots.map(row)) : element("p", { class: "empty" }, "No policy node and no recorder is heard."));
}

function row(robot) {
  const { policy, recorder } = robot, view = policy?.view;
  return [
    element("td", { "data-robot": robot.name }, element("b", {}, robot.name)),
    element("td", {}, robot.is_lost ? element("span", { class: "pill bad" }, `lost for ${robot.silent_s} s`) : pill(view?.state, "no policy node"),
      element("div", { class: "muted" }, policy?.reason || policy?.instruction || "")),
    view ? (view.device ? `${view.source} (${view.device})` : view.source) : "–",
    element("td", {}, path(robot.server || robot.checkpoint) || "–"),
    ...["holds", "stops", "clamps"].map((name) => view ? String(view[name]) : "–"),
    policy?.observation_s ? `${fixed(1000 * policy.observation_s, 0)} ms (p95 ${fixed(1000 * policy.observation_p95_s, 0)})` : "–",
    recorder ? element("td", {}, pill(recorder.state), element("div", { class: "muted" }, recorder.reason || `${recorder.episodes} episodes`)) : "–",
    robot.is_here ? "this page" : robot.page ? element("a", { href: robot.page, rel: "noopener", "aria-label": `operator page of ${robot.name}` }, "open") : "–",
  ];
}

function pill(name, otherwise = "–") {
  return element("span", { class: `pill ${name ? PILLS[name] : "off"}` }, name || otherwise);
}
