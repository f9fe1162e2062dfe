// Live transcription over /v1/stream; docs/serving.md describes its messages.
const RATE = 16000;
const WIDTHS = [16, 32, 64, 128]; // frames of 20 ms
const BUFFERED = 1 << 18; // bytes that may wait in the socket while a file is sent

const $ = (id) => document.getElementById(id);
const secret = new URLSearchParams(location.hash.slice(1)).get("token");
const finals = []; // {start, end, text}
let stream = null;

class Stream {
  constructor(name) {
    this.name = name;
    this.sent = 0; // samples
    this.closed = false;
    this.done = new Promise((resolve) => { this.resolve = resolve; });
    const url = new URL("v1/stream", location.href.replace(/^http/, "ws"));
    url.hash = "";
    if (secret) url.searchParams.set("token", secret);
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.opened = new Promise((resolve, reject) => {
      this.socket.onopen = () => {
        this.socket.send(JSON.stringify({ type: "start", sample_rate: RATE, chunk_size: width() }));
        resolve();
      };
      this.socket.onerror = () => reject(new Error("The server cannot be reached, or it wants a token (#token=...)."));
    });
    this.socket.onmessage = (message) => this.take(JSON.parse(message.data));
    this.socket.onclose = () => { this.closed = true; this.resolve(); };
  }

  take(message) {
    if (message.type === "started") {
      $("state").textContent = `${Math.round(message.state_bytes / 1024)} KiB, always`;
    } else if (message.type === "partial") {
      $("partial").textContent = message.text;
      this.showDelay(message);
    } else if (message.type === "final") {
      $("partial").textContent = "";
      addFinal(message);
      this.showDelay(message);
    } else if (message.type === "done") {
      say(`${this.name}: ${message.seconds.toFixed(1)} s transcribed.`);
    } else if (message.type === "error") {
      say(message.message, true);
    }
  }

  showDelay(message) {
    if (this.live) $("delay").textContent = `${Math.max(0, this.sent / RATE - message.end).toFixed(1)} s`;
  }

  send(samples) {
    if (this.closed || this.socket.readyState !== WebSocket.OPEN) return;
    const pcm = new Int16Array(samples.length);
    for (let i = 0; i < samples.length; i++) pcm[i] = Math.max(-1, Math.min(1, samples[i])) * 32767;
    this.socket.send(pcm.buffer);
    this.sent += samples.length;
    $("audio").textContent = `${(this.sent / RATE).toFixed(1)} s`;
  }

  setWidth(frames) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type: "chunk_size", frames }));
  }

  finish() {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type: "finish" }));
    return this.done;
  }
}

function width() {
  return WIDTHS[$("chunk").value];
}

function say(text, error = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

function clock(seconds, point = ".") {
  const ms = Math.round(seconds * 1000);
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  return `${two(ms / 3600000)}:${two((ms / 60000) % 60)}:${two((ms / 1000) % 60)}${point}${String(ms % 1000).padStart(3, "0")}`;
}

function addFinal({ start, end, text }) {
  finals.push({ start, end, text });
  const line = document.createElement("p");
  const time = document.createElement("time");
  time.textContent = clock(start).slice(3, 8);
  line.append(time, " ", text); // text nodes: nothing of it is markup
  $("transcript").append(line);
  line.scrollIntoView({ block: "nearest" });
  for (const id of ["save-text", "save-srt", "clear"]) $(id).disabled = false;
}

function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function startMicrophone() {
  if (!navigator.mediaDevices) throw new Error("This page may use the microphone on localhost or over https only.");
  const media = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  const context = new AudioContext({ sampleRate: RATE });
  await context.audioWorklet.addModule("recorder.js");
  const current = new Stream("Microphone");
  current.live = true;
  await current.opened;
  const source = context.createMediaStreamSource(media);
  const recorder = new AudioWorkletNode(context, "recorder");
  recorder.port.onmessage = ({ data }) => current.send(data);
  source.connect(recorder);
  current.stop = async () => {
    source.disconnect();
    for (const track of media.getTracks()) track.stop();
    await context.close();
    await current.finish();
  };
  current.done.then(() => { if (stream === current) stop(); });
  return current;
}

async function stop() {
  const current = stream;
  stream = null;
  $("microphone").setAttribute("aria-pressed", "false");
  $("microphone").firstElementChild.textContent = "Start microphone";
  if (current && current.stop) await current.stop();
}

async function transcribeFile(file) {
  say(`Reading ${file.name} …`);
  const bytes = await file.arrayBuffer();
  let audio;
  try {
    audio = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes);
  } catch {
    throw new Error(`${file.name} is not audio that this browser can read.`);
  }
  const samples = audio.getChannelData(0).slice();
  for (let channel = 1; channel < audio.numberOfChannels; channel++) {
    audio.getChannelData(channel).forEach((value, i) => { samples[i] += value; });
  }
  if (audio.numberOfChannels > 1) samples.forEach((value, i) => { samples[i] = value / audio.numberOfChannels; });
  const current = new Stream(file.name);
  await current.opened;
  stream = current;
  say(`Transcribing ${file.name} …`);
  for (let place = 0; place < samples.length && !current.closed; place += RATE / 4) {
    current.send(samples.subarray(place, place + RATE / 4));
    while (current.socket.bufferedAmount > BUFFERED) await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await current.finish();
  if (stream === current) stream = null;
}

function guarded(action) {
  return async (...args) => {
    try {
      await action(...args);
    } catch (error) {
      stop();
      say(error.name === "NotAllowedError" ? "The browser does not allow the microphone."
        : error.name === "NotFoundError" ? "There is no microphone." : error.message, true);
    }
  };
}

$("microphone").onclick = guarded(async () => {
  if (stream) {
    await stop();
    return;
  }
  say("Listening …");
  $("microphone").setAttribute("aria-pressed", "true");
  $("microphone").firstElementChild.textContent = "Stop microphone";
  stream = await startMicrophone();
});
$("file").onchange = guarded(async () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (file) {
    await stop();
    await transcribeFile(file);
  }
});
$("chunk").oninput = () => {
  const seconds = (width() / 50).toFixed(2);
  $("seconds").textContent = `${seconds} s`;
  $("chunk").setAttribute("aria-valuetext", `${seconds} seconds`);
  if (stream) stream.setWidth(width());
};
$("save-text").onclick = () => save("transcript.txt", finals.map(({ text }) => `${text}\n`).join(""));
$("save-srt").onclick = () => save("transcript.srt", finals.map(({ start, end, text }, i) =>
  `${i + 1}\n${clock(start, ",")} --> ${clock(end, ",")}\n${text}\n`).join("\n"));
$("clear").onclick = () => {
  finals.length = 0;
  $("transcript").replaceChildren();
  for (const id of ["save-text", "save-srt", "clear"]) $(id).disabled = true;
};

fetch("health").then((answer) => answer.json()).then(({ model }) => { $("model").textContent = model; }).catch(() => {});
