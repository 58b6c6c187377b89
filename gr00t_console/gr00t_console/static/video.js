// SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
// SPDX-License-Identifier: Apache-2.0
// Pictures as video over WebRTC, where the console was started with --webrtc.
const GATHER_MS = 1000, CONNECT_MS = 10000;

/**
 * Receive the videos of cameras: `onVideos(streams by name)` once they come, `onEnd()` once when they do not, or no longer.
 * Returns a function that ends them.
 */
export function watch(cameras, onVideos, onEnd) {
  const connection = new RTCPeerConnection();
  const names = new Map(cameras.map((name) => [connection.addTransceiver("video", { direction: "recvonly" }), name]));
  const streams = new Map();
  let isOver = false;
  function end() {
    if (isOver) return;
    isOver = true;
    connection.close();
    onEnd();
  }
  connection.ontrack = ({ transceiver, receiver, track }) => {
    if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0; // the newest picture, not an even motion
    streams.set(names.get(transceiver), new MediaStream([track]));
  };
  connection.onconnectionstatechange = () => {
    if (connection.connectionState === "connected") onVideos(streams);
    else if (["failed", "disconnected", "closed"].includes(connection.connectionState)) end();
  };
  setTimeout(() => { if (connection.connectionState !== "connected") end(); }, CONNECT_MS);
  connect(connection, cameras).catch((error) => {
    console.warn(`no video, pictures instead: ${error.message}`);
    end();
  });
  return end;
}

async function connect(connection, cameras) {
  await connection.setLocalDescription();
  await new Promise((resolve) => {
    connection.onicegatheringstatechange = () => { if (connection.iceGatheringState === "complete") resolve(); };
    setTimeout(resolve, GATHER_MS);
  });
  const body = JSON.stringify({ sdp: connection.localDescription.sdp, cameras });
  const response = await fetch("/api/webrtc", { method: "POST", body }), answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  await connection.setRemoteDescription({ type: "answer", sdp: answer.sdp });
}
