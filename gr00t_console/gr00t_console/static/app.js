// SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
// SPDX-License-Identifier: Apache-2.0
// The frame of the page: what the console tells, control, emergency stop, tabs. Each tab is a module that draws from `state`.
import { text } from "./dom.js";
import * as link from "./link.js";
import * as robot from "./robot.js";
import * as collect from "./collect.js";
import * as policy from "./policy.js";
import * as trials from "./trials.js";
import * as data from "./data.js";
import * as train from "./train.js";
import * as fleet from "./fleet.js";
import * as video from "./video.js";

const BEAT_MS = 250; // the server gives up after a second
const RETRY_MS = 500;
const VIDEO_RETRY_MS = 15000;
const modules = { robot, collect, policy, trials, data, train, fleet };
const state = { joints: {}, history: new Map(), pictures: new Map(), videos: new Map(), isMine: false, isConnected: false };
let tab = "robot", you = "";
let pictures = null, watched = "", endVideo = () => {};

function connectPictures() {
  if (pictures || state.videos.size) return;
  pictures = link.open("/pictures");
  pictures.binaryType = "arraybuffer";
  pictures.onmessage = (event) => {
    const bytes = new Uint8Array(event.data), end = 1 + bytes[0];
    const name = new TextDecoder().decode(bytes.subarray(1, end));
    robot.showPicture(name, new Blob([bytes.subarray(end)], { type: "image/jpeg" }), state);
  };
  pictures.onclose = () => {
    pictures = null;
    setTimeout(connectPictures, RETRY_MS);
  };
}

/** Watch videos instead of pictures where the console offers them; where they do not come, the pictures stay. */
function connectVideo() {
  const cameras = state.cameras || [], wanted = state.webrtc && cameras.length ? JSON.stringify(cameras) : "";
  if (wanted === watched) return;
  watched = wanted;
  endVideo();
  if (!wanted) return;
  endVideo = video.watch(cameras, (streams) => {
    state.videos = streams;
    pictures?.close();
    draw();
  }, () => {
    state.videos = new Map();
    connectPictures();
    draw();
    setTimeout(() => { if (watched === wanted) watched = ""; }, VIDEO_RETRY_MS);
  });
}

function take(message) {
  if (message.you) you = message.you;
  for (const [name, value] of Object.entries(message)) {
    if (name.startsWith("joints_")) takeJoints(value);
    else state[name] = value;
  }
  state.isMine = Boolean(state.control?.holder) && state.control.holder === you;
  state.receivedMs = performance.now();
  connectVideo();
  draw();
}

function takeJoints(found) {
  for (const [name, value] of Object.entries(found.values)) {
    state.joints[name] = value;
    const short = name.slice(name.indexOf(".") + 1);
    const past = state.history.get(short) || [];
    past.push([found.stamp_s, value]);
    while (past.length > 2 && found.stamp_s - past[0][0] > 6) past.shift();
    if (past.length > 1 && past[past.length - 2][0] > found.stamp_s) past.length = 0; // the clock was set back
    state.history.set(short, past);
  }
}

function stop() {
  if (link.isOpen()) link.ask("stop");
  else fetch("/stop", { method: "POST" }).then((answer) => link.toast(answer.ok ? "stop sent" : "STOP NOT SENT", !answer.ok),
    () => link.toast("STOP NOT SENT: no connection. Use the emergency stop of the robot.", true));
}

const STATES = { idle: "", running: "good", holding: "warn", stopped: "bad" };
let isDrawing = false;

function draw() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => { isDrawing = false; drawNow(); });
}

function drawNow() {
  const pill = document.getElementById("state"), found = state.policy;
  const name = !state.isConnected ? "not connected" : found ? found.state : "no policy node";
  text(pill, name);
  pill.className = `pill ${!state.isConnected ? "bad" : found ? STATES[found.state] : "off"}`;
  const control = state.control || {};
  text("holder", state.isMine ? `${control.name}, you have control` : control.name ? `${control.name} has control` : "");
  text("control", state.isMine ? "Release control" : "Take control");
  const button = document.getElementById("control");
  button.className = state.isMine ? "" : "primary";
  button.disabled = !state.isConnected || Boolean(control.name && !state.isMine);
  document.getElementById("name").hidden = state.isMine;
  drawBanner(control);
  modules[tab].draw(state);
}

function drawBanner(control) {
  const banner = document.getElementById("banner");
  let message = state.policy?.reason || state.policy?.instruction || "", kind = "";
  if (!state.isConnected) [message, kind] = ["Connection to the console is lost; reconnecting.", "bad"];
  else if (control.held) [message, kind] = [`The robot is held: ${control.held}. Continue with "Give back" on the Policy tab.`, "warn"];
  else if (control.is_taken_over) [message, kind] = [`${control.name || "Somebody"} commands the robot from the page.`, "warn"];
  banner.className = `banner ${kind}`;
  text(banner, message);
}

function show(name) {
  tab = name;
  for (const each of document.querySelectorAll("[role=tab]")) {
    const isChosen = each.getAttribute("aria-controls") === name;
    each.setAttribute("aria-selected", String(isChosen));
    each.tabIndex = isChosen ? 0 : -1;
    document.getElementById(each.getAttribute("aria-controls")).hidden = !isChosen;
  }
  if (location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
  modules[name].open?.(state);
  drawNow();
}

function begin() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  for (const each of tabs) {
    each.onclick = () => show(each.getAttribute("aria-controls"));
    each.onkeydown = (event) => {
      const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!way) return;
      const next = tabs[(tabs.indexOf(each) + way + tabs.length) % tabs.length];
      next.focus();
      next.click();
    };
  }
  for (const [name, module] of Object.entries(modules)) module.build(document.getElementById(name), state);
  // on pressing, not on releasing: an emergency stop must not wait
  const button = document.getElementById("stop");
  button.addEventListener("pointerdown", stop);
  button.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") stop(); });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.repeat) stop();
    else if (!event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey && !isTyping(event.target)) modules[tab].press?.(event.key, state);
  }, true);
  const name = document.getElementById("name");
  name.value = localStorage.getItem("name") || "";
  name.onchange = () => localStorage.setItem("name", name.value);
  document.getElementById("control").onclick = () =>
    state.isMine ? link.ask("release") : link.ask("take", { name: name.value || "operator" });
  document.getElementById("theme").onclick = switchTheme;
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
  setInterval(() => { if (state.isMine) link.beat(); }, BEAT_MS);
  setInterval(draw, 500); // ages go on
  const wanted = location.hash.slice(1);
  show(wanted in modules ? wanted : "robot");
  addEventListener("hashchange", () => { if (location.hash.slice(1) in modules) show(location.hash.slice(1)); });
  link.connect(take, (isConnected) => {
    state.isConnected = isConnected;
    if (!isConnected) watched = ""; // video is tried again with the next connection
    draw();
  });
  connectPictures();
}

function switchTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
  draw();
}

function isTyping(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}

begin();
