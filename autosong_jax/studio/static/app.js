// The page as a whole: which song is open, what has become of it, and what can be done with it.

import * as api from "./api.js";
import * as composer from "./composer.js";
import {$, clock, make, tell} from "./dom.js";
import {Live, wake} from "./live.js";
import * as player from "./player.js";
import * as takes from "./takes.js";

const SOON = 0.3; // seconds of a song that are not worth going on for

const songs = new Map();
let models = [];
let opened = null; // the id of the song in the deck
let compared = null; // that of the other one, of an A/B comparison
let sounding = "a";
let live = null;

const modelOf = (song) => models.find((model) => model.name === song.request.model);
const isActive = (song) => song.status === "queued" || song.status === "singing";
const newestFirst = () => [...songs.values()].sort((a, b) => (a.id < b.id ? 1 : -1));

async function begin() {
  const found = await api.models();
  models = found.models;
  composer.start(found);
  player.start((from, to) => {
    $("editing").open = true;
    $("from").value = from.toFixed(2);
    $("to").value = to.toFixed(2);
  });
  api.follow({song: changed, removed: gone, connected: refresh});
}

async function refresh() {
  try {
    const {songs: found, more} = await api.songs();
    const ids = new Set(found.map((song) => song.id));
    const oldest = found.at(-1)?.id || "";
    for (const id of [...songs.keys()]) if (id > oldest && !ids.has(id)) gone(id);
    found.forEach((song) => (song.id === opened ? changed(song) : songs.set(song.id, song)));
    $("older").hidden = !more;
    const first = newestFirst().find(isActive) || newestFirst().find((song) => song.status === "done");
    if (!opened && first) await open(first);
    else draw();
  } catch (error) {
    trouble(error);
  }
}

function draw() {
  const on = (act) => (id) => act(songs.get(id));
  takes.draw(newestFirst(), opened, compared, {open: on(open), compare: on(compare), remove: on(remove)});
}

// A song has changed.
function changed(song) {
  const before = songs.get(song.id);
  songs.set(song.id, song);
  if (song.id === opened) {
    if (isActive(song)) progress(song);
    else if (!before || isActive(before)) finished(song);
    else if (song.lines && !before.lines && sounding === "a") {
      player.showLines(song);
      offer(song);
    }
  } else if (before && isActive(before) && song.status === "done") {
    tell(`${takes.title(song)} is sung.`);
  }
  draw();
}

function gone(id) {
  songs.delete(id);
  if (id === compared) uncompare();
  if (id === opened) {
    stopLive();
    opened = null;
    const next = newestFirst().find((song) => song.status === "done");
    if (next) open(next);
    else empty();
  }
  draw();
}

function empty() {
  $("live").hidden = $("player").hidden = true;
  $("deck-title").textContent = "Nothing sung yet";
  $("deck-about").textContent = "Write some words and press Sing. You hear them while they are being sung.";
}

async function open(song) {
  if (opened !== song.id) {
    stopLive();
    if (!$("player").hidden) player.pause();
    uncompare();
  }
  opened = song.id;
  draw();
  await (isActive(song) ? listenLive(song) : deck(song));
}

// The deck with a song that is sung, or the reason why it is not; goes on playing at `at`, if it is given.
async function deck(song, at) {
  $("deck-title").textContent = takes.title(song);
  $("deck-about").textContent = song.status === "done" ? takes.about(song) : takes.state(song);
  $("live").hidden = true;
  $("player").hidden = song.status !== "done";
  if (song.status !== "done") return;
  offer(song);
  $("command").textContent = song.command;
  const model = modelOf(song);
  $("editing").hidden = !model?.edits;
  $("extending").hidden = !model;
  $("edit-lyrics").value = song.request.lyrics || "";
  $("from").value = $("to").value = "";
  try {
    await player.show(song, at);
    player.choosable(Boolean(model?.edits));
  } catch (error) {
    if (error.name !== "AbortError") trouble(error);
  }
}

function offer(song) {
  $("downloads").replaceChildren(...api.downloads(song).map(
    ([name, what, href]) => make("a", {href, download: true}, name, make("span", {}, what))));
}

async function listenLive(song) {
  stopLive();
  $("live").hidden = false;
  $("player").hidden = true;
  $("deck-title").textContent = takes.title(song);
  live = new Live(song);
  progress(song);
  live.draw();
  const mine = live;
  await mine.run();
}

function progress(song) {
  $("deck-about").textContent = takes.about(song);
  if (live) live.share = song.progress;
  const waits = song.status === "queued" || !song.progress;
  if (waits) $("live-progress").removeAttribute("value");
  else $("live-progress").value = song.progress;
  const heard = song.heard ? ` · ${clock(song.heard)} to hear` : "";
  $("live-about").textContent = `${takes.state(song)}${heard}`;
  $("listen").hidden = !live || !live.muted;
}

// The open song is not being sung any more: the deck has it, and goes on from where it is heard.
async function finished(song) {
  const left = live && live.song.id === song.id && song.status === "done" ? live.left : 0;
  tell(song.status === "done" ? `${takes.title(song)} is sung.` : takes.state(song));
  stopLive();
  await deck(song, left > SOON ? Math.max(0, song.seconds - left) : undefined);
}

function stopLive() {
  live?.stop();
  live = null;
}

function compare(song) {
  compared = compared === song.id ? null : song.id;
  $("ab").hidden = !compared;
  draw();
  if (!compared) return hear("a");
  $("b").title = takes.about(song);
  $("a").title = takes.about(songs.get(opened));
  return hear("b");
}

function uncompare() {
  compared = null;
  sounding = "a";
  $("ab").hidden = true;
  mark();
}

function mark() {
  for (const name of ["a", "b"]) $(name).setAttribute("aria-pressed", String(sounding === name));
}

// Has one of two takes sound, from where the other is.
async function hear(which) {
  const song = songs.get(which === "b" ? compared : opened);
  if (!song || sounding === which) return;
  const at = player.playing() ? player.position() : undefined;
  sounding = which;
  mark();
  tell(`${which.toUpperCase()}: ${takes.about(song)}`);
  await deck(song, at);
}

const heardNow = () => songs.get(sounding === "b" && compared ? compared : opened);

async function ask(request) {
  wake();
  trouble(null);
  const song = await api.sing(request);
  songs.set(song.id, song);
  tell(song.position ? `In the queue, ${song.position} before it.` : "Singing begins.");
  $("deck").scrollIntoView({block: "nearest"});
  await open(song);
}

async function remove(song) {
  try {
    await api.remove(song.id);
    tell(isActive(song) ? "Cancelled." : "Removed.");
    gone(song.id);
  } catch (error) {
    trouble(error);
  }
}

function trouble(error) {
  $("trouble").textContent = error ? error.message : "";
}

// A form that asks for a song: its button waits, and what goes wrong is said.
function asking(form, button, request) {
  form.onsubmit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      const asked = await request();
      button.disabled = false;
      await ask(asked);
    } catch (error) {
      trouble(error);
    }
    button.disabled = false;
  };
}

// What a song was made of, but for where it began, how long it was, and its seed.
function again(song) {
  const {edit, prompt_audio: prompt, seed, ...rest} = song.request;
  const {duration, hybrid_seconds: lead, ...options} = rest.options;
  return {...rest, options};
}

asking($("write"), $("sing"), composer.request);
asking($("edit"), $("edit-sing"), () => {
  const song = heardNow(), from = Number($("from").value), to = Number($("to").value);
  if (!$("to").value || !(from < to)) throw new Error("Choose a part first: drag over the waveform, or give its seconds.");
  const span = [Math.max(from, 0), Math.min(to, song.frames / modelOf(song).frame_rate)];
  return {...again(song), lyrics: $("edit-lyrics").value, edit: {clip: {song: song.id}, spans: [span]}};
});
asking($("extend"), $("extend").querySelector("button"), () => {
  const song = heardNow(), by = Number($("extend-by").value);
  if (!(by > 0)) throw new Error("Make it longer: expected a number of seconds.");
  if (modelOf(song).edits) return {...again(song), edit: {clip: {song: song.id}, after: by}};
  const request = again(song);
  return {...request, prompt_audio: {song: song.id}, options: {...request.options, duration: song.seconds + by}};
});
for (const name of ["from", "to"]) {
  $(name).oninput = () => {
    const from = Number($("from").value), to = Number($("to").value);
    if ($("to").value && from < to) player.choose(from, to);
  };
}
$("cancel").onclick = () => remove(songs.get(opened));
$("listen").onclick = async () => {
  await live?.listen();
  $("listen").hidden = true;
};
$("reuse").onclick = () => composer.reuse(heardNow());
$("a").onclick = () => hear("a");
$("b").onclick = () => hear("b");
$("older").onclick = async () => {
  const {songs: found, more} = await api.songs(newestFirst().at(-1).id);
  found.forEach((song) => songs.set(song.id, song));
  $("older").hidden = !more;
  draw();
};
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea, button, summary, a");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("write").requestSubmit();
  else if (event.key === "Escape") $("saving").open = false;
  else if (typing || $("player").hidden) return;
  else if (event.key === " ") player.toggle();
  else if (event.key === "x" && compared) hear(sounding === "a" ? "b" : "a");
  else return;
  event.preventDefault();
});
document.addEventListener("click", (event) => {
  if (!event.target.closest("#saving")) $("saving").open = false;
});

begin().catch(trouble);
