// A song that is heard while it is being made: its samples come in over fetch, and Web Audio plays them one after
// another.

import {streamUrl} from "./api.js";
import {$, color} from "./dom.js";

const HEADER = 44; // bytes of a WAV file before its samples
const AHEAD = 0.25; // seconds that are kept ready, so that there is no gap between two pieces
const BAR = 0.04; // seconds that are one number of the waveform
const PITCH = 5; // pixels from one of its bars to the next

// One context for the page: browsers let it sound once it was resumed by a click.
let context = null;

export function wake() {
  context ??= new AudioContext();
  return context.resume();
}

export class Live {
  constructor(song) {
    this.song = song;
    this.bars = [];
    this.due = 0; // when the next piece is to sound, in the context's time
    this.playing = new Set();
    this.aborting = new AbortController();
    this.loudest = 0;
    this.share = 0; // of the song that has come, for how much of the width is drawn
    this.muted = !context || context.state !== "running";
  }

  // Reads to the end; gives whether all of it came.
  async run() {
    try {
      const response = await fetch(streamUrl(this.song.id), {signal: this.aborting.signal});
      if (!response.ok) return false;
      const reader = response.body.getReader();
      let rest = new Uint8Array(0), begun = false;
      for (;;) {
        const {value, done} = await reader.read();
        if (done) return true;
        let bytes = new Uint8Array(rest.length + value.length);
        bytes.set(rest);
        bytes.set(value, rest.length);
        if (!begun && bytes.length < HEADER) {
          rest = bytes;
          continue;
        }
        if (!begun) bytes = bytes.slice(HEADER);
        begun = true;
        const whole = bytes.length - bytes.length % (2 * this.song.channels);
        rest = bytes.slice(whole);
        if (whole) this.#sound(new DataView(bytes.buffer, bytes.byteOffset, whole));
      }
    } catch {
      return false;
    }
  }

  // Lets what comes from now on be heard.
  async listen() {
    await wake();
    this.muted = false;
  }

  stop() {
    this.aborting.abort();
    for (const source of this.playing) source.stop();
    this.playing.clear();
  }

  // When what has come so far has been heard, in seconds from now.
  get left() {
    return this.muted || !context ? 0 : Math.max(0, this.due - context.currentTime);
  }

  #sound(view) {
    const {channels, sample_rate: rate} = this.song;
    const length = view.byteLength / (2 * channels);
    const data = Array.from({length: channels}, () => new Float32Array(length));
    for (let i = 0; i < length; i++) {
      for (let c = 0; c < channels; c++) data[c][i] = view.getInt16(2 * (i * channels + c), true) / 32768;
    }
    this.#measure(data[0], rate);
    this.draw();
    if (this.muted) return;
    const buffer = context.createBuffer(channels, length, rate);
    data.forEach((samples, c) => buffer.copyToChannel(samples, c));
    const source = new AudioBufferSourceNode(context, {buffer});
    source.connect(context.destination);
    source.onended = () => this.playing.delete(source);
    this.playing.add(source);
    if (this.due < context.currentTime) this.due = context.currentTime + AHEAD;
    source.start(this.due);
    this.due += buffer.duration;
  }

  #measure(samples, rate) {
    const width = Math.round(BAR * rate);
    for (let start = 0; start < samples.length; start += width) {
      let loudest = 0;
      for (let i = start; i < Math.min(start + width, samples.length); i++) loudest = Math.max(loudest, Math.abs(samples[i]));
      this.bars.push(loudest);
      this.loudest = Math.max(this.loudest, loudest);
    }
  }

  draw() {
    const canvas = $("live-wave");
    const width = canvas.clientWidth, height = canvas.clientHeight, ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const drawing = canvas.getContext("2d");
    drawing.scale(ratio, ratio);
    drawing.fillStyle = color("--accent");
    const columns = Math.min(Math.floor(width / PITCH * (this.share || 1)), this.bars.length);
    for (let i = 0; i < columns; i++) {
      const [from, to] = [i, i + 1].map((end) => Math.floor(end * this.bars.length / columns));
      const tall = Math.max(3, Math.max(...this.bars.slice(from, to)) / (this.loudest || 1) * height);
      drawing.beginPath();
      drawing.roundRect(i * PITCH, (height - tall) / 2, PITCH - 2, tall, 2);
      drawing.fill();
    }
  }
}
