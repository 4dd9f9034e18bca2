// The list of takes: what is sung, is being sung and waits.

import {$, clock, make} from "./dom.js";

export function title(song) {
  const {lyrics, genre, description} = song.request;
  const first = (lyrics || "").split("\n").map((line) => line.trim()).find((line) => line && !/^\[[^[\]]+\]$/.test(line));
  return first || description || genre || "Without words";
}

export function state(song) {
  if (song.status === "queued") return song.position <= 1 ? "Next in the queue" : `Waiting, ${song.position} before it`;
  if (song.status === "singing") {
    return song.progress ? `Singing, ${Math.floor(100 * song.progress)} %` : "Getting ready to sing";
  }
  if (song.status === "done") return clock(song.seconds, 1);
  return song.status === "failed" ? song.error : "Interrupted: the studio was stopped";
}

export function about(song) {
  const {request} = song;
  const how = request.edit ? (request.edit.spans.length ? "a part sung anew" : "made longer")
    : request.prompt_audio?.song ? "made longer" : null;
  return [how, request.genre, `seed ${song.seed}`, request.model, when(song)].filter(Boolean).join(" · ");
}

function when(song) {
  const time = new Date(song.created), today = new Date().toDateString() === time.toDateString();
  return time.toLocaleString([], today ? {timeStyle: "short"} : {dateStyle: "medium", timeStyle: "short"});
}

const rows = new Map(); // by id: the row, what it was made for, and where it says how far the song is

// Draws the list; `actions` are what its buttons do with the song of an id. A row stays the same element while nothing
// but its progress changes, so that it can be clicked and keeps the focus.
export function draw(songs, open, compared, actions) {
  $("no-takes").hidden = songs.length > 0;
  for (const id of [...rows.keys()]) if (!songs.some((song) => song.id === id)) rows.delete(id);
  for (const song of songs) {
    const made = JSON.stringify([song.status, song.id === open, song.id === compared]);
    if (rows.get(song.id)?.made !== made) rows.set(song.id, row(song, made, open, compared, actions));
    rows.get(song.id).said.textContent = `${state(song)} · ${about(song)}`;
  }
  const list = songs.map((song) => rows.get(song.id).element);
  if (list.length === $("takes").children.length && list.every((one, i) => one === $("takes").children[i])) return;
  const focused = document.activeElement?.dataset?.key;
  $("takes").replaceChildren(...list);
  if (focused) document.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

function row(song, made, open, compared, actions) {
  const done = song.status === "done", over = done || song.status === "failed" || song.status === "interrupted";
  const name = `${title(song)}, seed ${song.seed}`;
  const said = make("small", {class: song.status === "failed" && "bad"});
  const button = (what, properties, ...children) => make("button", {
    type: "button", "data-key": `${what} ${song.id}`, onclick: () => actions[what](song.id), ...properties}, ...children);
  const element = make("li", {class: song.id === open && "open"},
    button("open", {class: "take", "aria-current": song.id === open && "true"}, make("span", {}, title(song)), said),
    done && song.id !== open ? button("compare", {"aria-label": `A/B: compare with ${name}`,
      "aria-pressed": String(song.id === compared)}, "A/B") : null,
    button("remove", {"aria-label": `${over ? "Remove" : "Cancel"} ${name}`}, "✕"));
  return {element, made, said};
}
