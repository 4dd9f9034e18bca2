// The studio's REST API: /api/openapi.json describes it.

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The studio does not answer. Is it still running?");
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const {error} = await response.json().catch(() => ({}));
  throw new Error(error || `The studio answered with status ${response.status}.`);
}

const changing = (method, body, type) => ({
  method, body, headers: {"X-Studio": "1", ...(type && {"Content-Type": type})},
});
const json = (what, options) => ({...changing("POST", JSON.stringify(what), "application/json"), ...options});

export const models = () => ask("/api/models");
export const songs = (before) => ask(`/api/songs?limit=50${before ? `&before=${before}` : ""}`);
export const sing = (request) => ask("/api/songs", json(request));
export const remove = (id) => ask(`/api/songs/${id}`, changing("DELETE"));
export const peaks = (id, count) => ask(`/api/songs/${id}/peaks?count=${count}`);
export const lookAt = (model, lyrics, signal) => ask("/api/lyrics", json({model, lyrics}, {signal}));
export const upload = (file) => ask(`/api/uploads?name=${encodeURIComponent(file.name)}`, changing("POST", file));
export const audioUrl = (id) => `/api/songs/${id}/audio`;
export const streamUrl = (id) => `/api/songs/${id}/stream`;
export const downloads = (song) => [
  ["WAV", "16-bit", `/api/songs/${song.id}/audio?download`],
  ["FLAC", "16-bit, smaller", `/api/songs/${song.id}/audio?format=flac&download`],
  ["Codes", ".npy", `/api/songs/${song.id}/codes`],
  ...(song.lines ? [["Lines", ".lrc, karaoke", `/api/songs/${song.id}/lrc`]] : []),
  ["Recipe", ".json, command line", `/api/songs/${song.id}/json`],
];

// Calls back for every song that changes, is gone, and whenever the connection stands anew.
export function follow({song, removed, connected}) {
  const source = new EventSource("/api/events");
  source.addEventListener("song", (event) => song(JSON.parse(event.data)));
  source.addEventListener("removed", (event) => removed(JSON.parse(event.data)));
  source.addEventListener("open", connected);
}
