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

// Draws the list; `actions` are what its buttons do.
export function draw(songs, open, compared, actions) {
  const focused = document.activeElement?.dataset?.key;
  $("no-takes").hidden = songs.length > 0;
  $("takes").replaceChildren(...songs.map((song) => {
    const done = song.status === "done", bad = song.status === "failed";
    const name = title(song);
    const key = (what) => `${what} ${song.id}`;
    return make("li", {class: song.id === open ? "open" : undefined},
      make("button", {type: "button", class: "take", "data-key": key("open"), "aria-current": song.id === open ? "true" : undefined,
        onclick: () => actions.open(song)}, make("span", {}, name),
        make("small", {class: bad ? "bad" : undefined}, `${state(song)} · ${about(song)}`)),
      done && song.id !== open ? make("button", {type: "button", "data-key": key("compare"),
        "aria-label": `A/B: compare with ${name}, seed ${song.seed}`, "aria-pressed": song.id === compared ? "true" : "false",
        onclick: () => actions.compare(song)}, "A/B") : null,
      make("button", {type: "button", "data-key": key("remove"),
        "aria-label": `${done || bad || song.status === "interrupted" ? "Remove" : "Cancel"} ${name}, seed ${song.seed}`,
        onclick: () => actions.remove(song)}, "✕"));
  }));
  if (focused) document.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}
