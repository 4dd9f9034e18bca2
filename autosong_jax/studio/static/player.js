// A song that is sung: its waveform, where it is, the lines on it, and a part of it that is chosen by dragging.

import * as api from "./api.js";
import {$, clock, color, make} from "./dom.js";
import RegionsPlugin from "./vendor/wavesurfer-regions.js";
import WaveSurfer from "./vendor/wavesurfer.js";

const COUNT = 900; // peaks

let wave = null;
let regions = null;
let noDragging = null;
let lines = [];
let region = null;
let chosen = () => {};

const colors = () => ({waveColor: color("--wave"), progressColor: color("--accent"), cursorColor: color("--ink")});

export function start(onChosen) {
  chosen = onChosen;
  regions = RegionsPlugin.create();
  wave = WaveSurfer.create({container: $("wave"), height: 96, barWidth: 3, barGap: 2, barRadius: 2, cursorWidth: 1,
    normalize: true, plugins: [regions], ...colors()});
  wave.on("timeupdate", moved);
  for (const event of ["play", "pause", "finish"]) wave.on(event, toggled);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => wave.setOptions(colors()));
  regions.on("region-created", (made) => {
    regions.getRegions().filter((other) => other !== made).forEach((other) => other.remove());
    region = made;
  });
  for (const event of ["region-created", "region-updated"]) regions.on(event, ({start: from, end}) => chosen(from, end));
  $("play").onclick = () => wave.playPause();
  $("wave").onkeydown = (event) => {
    const by = {ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageDown: -5, PageUp: 5}[event.key];
    const to = {Home: 0, End: wave.getDuration()}[event.key];
    if (by === undefined && to === undefined) return;
    event.preventDefault();
    wave.setTime(Math.min(Math.max(to ?? wave.getCurrentTime() + by, 0), wave.getDuration()));
  };
}

// Shows a song; goes on playing at `at` if it is given.
export async function show(song, at) {
  unchoose();
  $("end").textContent = clock(song.seconds);
  $("wave").setAttribute("aria-valuemax", song.seconds.toFixed(1));
  showLines(song);
  const {peaks} = await api.peaks(song.id, COUNT);
  await wave.load(api.audioUrl(song.id), [peaks], song.seconds);
  if (at !== undefined) {
    wave.setTime(Math.min(at, song.seconds));
    await wave.play();
  }
  moved(wave.getCurrentTime());
}

// The lines of the song that is shown, once it is known when they are sung.
export function showLines(song) {
  lines = song.lines || [];
  $("lane").replaceChildren(...lines.map((line) => make("span", {
    style: `left: ${100 * line.start / song.seconds}%; width: ${100 * (line.end - line.start) / song.seconds}%`,
    title: line.text}, line.text)));
  $("lines").replaceChildren(...lines.map((line) => make("li", {}, make("button", {
    type: "button", onclick: () => playFrom(line.start)}, make("time", {}, clock(line.start)), line.text))));
}

export const playing = () => wave.isPlaying();
export const position = () => wave.getCurrentTime();
export const toggle = () => wave.playPause();
export const pause = () => wave.pause();

function playFrom(seconds) {
  wave.setTime(seconds);
  wave.play();
}

function toggled() {
  $("play").classList.toggle("on", wave.isPlaying());
  $("play").setAttribute("aria-label", wave.isPlaying() ? "Pause" : "Play");
}

function moved(seconds) {
  $("now").textContent = clock(seconds);
  $("wave").setAttribute("aria-valuenow", seconds.toFixed(1));
  $("wave").setAttribute("aria-valuetext", `${clock(seconds)} of ${clock(wave.getDuration())}`);
  for (const list of [$("lane").children, $("lines").querySelectorAll("button")]) {
    for (const [i, line] of lines.entries()) {
      const now = seconds >= line.start && seconds < line.end && (seconds > 0 || wave.isPlaying());
      list[i]?.classList.toggle("now", now);
      if (list[i]?.tagName === "BUTTON") now ? list[i].setAttribute("aria-current", "true") : list[i].removeAttribute("aria-current");
    }
  }
}

// Whether a part can be chosen by dragging.
export function choosable(yes) {
  noDragging?.();
  noDragging = yes ? regions.enableDragSelection({color: tint(), minLength: 0.05}) : null;
  if (!yes) unchoose();
}

export function choose(from, to) {
  if (region) region.setOptions({start: from, end: to});
  else regions.addRegion({start: from, end: to, color: tint(), minLength: 0.05});
}

export function unchoose() {
  regions.clearRegions();
  region = null;
}

const tint = () => `color-mix(in srgb, ${color("--accent")} 22%, transparent)`;
