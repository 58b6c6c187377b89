// SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
// SPDX-License-Identifier: Apache-2.0
// The connection to the console: what it tells, requests and their answers, and short messages to the person.
import { element } from "./dom.js";

const RETRY_MS = 500;
const TOAST_MS = 6000;
let socket, number = 0;
const waiting = new Map();

const client = sessionStorage.getItem("client") || random();
sessionStorage.setItem("client", client);

function random() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Open a socket of the console; `path` begins with a slash. */
export function open(path) {
  return new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`);
}

/** Connect, and again whenever the connection is lost. `take` gets each message, `change` whether there is a connection. */
export function connect(take, change) {
  socket = open(`/state?client=${client}`);
  socket.onopen = () => change(true);
  socket.onmessage = (event) => receive(JSON.parse(event.data), take);
  socket.onclose = () => {
    for (const resolve of waiting.values()) resolve({ ok: false, text: "connection lost" });
    waiting.clear();
    change(false);
    setTimeout(() => connect(take, change), RETRY_MS);
  };
}

export function isOpen() {
  return socket?.readyState === WebSocket.OPEN;
}

/** Tell the console that the person who has control is still there. */
export function beat() {
  if (isOpen()) socket.send("beat");
}

function receive(message, take) {
  if (message.answer) {
    waiting.get(message.answer.id)?.(message.answer);
    waiting.delete(message.answer.id);
    return;
  }
  if (message.notice) toast(message.notice.text);
  take(message);
}

/** Send a request; resolves to {ok, text}. What was refused is shown. */
export function ask(what, fields = {}, { isQuiet = false } = {}) {
  if (!isOpen()) return Promise.resolve({ ok: false, text: "not connected" });
  const id = ++number;
  socket.send(JSON.stringify({ do: what, id, ...fields }));
  return new Promise((resolve) => waiting.set(id, (answer) => {
    if (answer.text && (!answer.ok || !isQuiet)) toast(answer.text, !answer.ok);
    resolve(answer);
  }));
}

export function toast(message, isBad = false) {
  const box = element("div", { class: isBad ? "toast bad" : "toast" }, message);
  const all = document.getElementById("toasts");
  all.append(box);
  while (all.children.length > 4) all.firstChild.remove();
  setTimeout(() => box.remove(), TOAST_MS);
}
