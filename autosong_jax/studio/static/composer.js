// The form: what is to be sung, with those controls alone that the chosen model takes.

import * as api from "./api.js";
import {$, make} from "./dom.js";

const TAGS = ["verse", "chorus", "bridge", "outro"];
const TEXTS = {genre: ["Genre", "pop"], description: ["Description", "slow pop ballad"]};
const CLIPS = {
  prompt_audio: ["Begin with", "The song goes on from this recording."],
  melody: ["Melody", "The song follows its tune."],
  backing: ["Backing", "The song is sung to it, and is as long."],
  style_audio: ["Style", "A few seconds that it is to sound like."],
};
const OPTIONS = {
  top_k: ["Top k", "0 for all"], top_p: ["Top p", ""], cfg_scale_min: ["Guidance at the end", ""],
  steps: ["Passes", "20, 10, 10"], arrangement: ["Spans", ["nonoverlap", "stride1"]],
  confidence: ["Confidence", ["max", "product"]], hybrid_seconds: ["Step by step", "seconds"],
  latent_steps: ["Steps to a latent", ""],
};
const DRAFT = "studio-lyrics";

let models = [];
let looking = null;
let timer = 0;

export const model = () => models.find((found) => found.name === $("model").value);

export function start(found) {
  models = found.models;
  $("model").append(...models.map((one) => make("option", {value: one.name}, one.name)));
  $("model").onchange = show;
  $("tags").append(...TAGS.map((tag) => make("button", {type: "button", onclick: () => insert(tag)}, `[${tag}]`)));
  $("lyrics").value = localStorage.getItem(DRAFT) || "";
  $("lyrics").oninput = written;
  show();
}

function show() {
  const it = model();
  $("words").hidden = !it.texts.includes("lyrics");
  const before = Object.fromEntries(Object.keys(TEXTS).map((name) => [name, $(name)?.value || ""]));
  $("texts").replaceChildren(...Object.entries(TEXTS).filter(([name]) => it.texts.includes(name)).map(
    ([name, [label, hint]]) => make("label", {}, label, make("input", {id: name, placeholder: hint, maxlength: 2000}))));
  for (const [name, value] of Object.entries(before)) if ($(name)) $(name).value = value;
  $("duration").placeholder = round(it.seconds);
  $("duration").max = it.max_seconds;
  $("temperature").placeholder = it.options.temperature?.default ?? "";
  $("temperature-field").hidden = !it.options.temperature;
  $("clips").replaceChildren(...it.clips.map(clip));
  $("scales").replaceChildren(...Object.entries(it.sources).map(scale));
  $("guiding").hidden = !Object.keys(it.sources).length;
  const options = Object.keys(OPTIONS).filter((name) => it.options[name]);
  $("options").replaceChildren(...options.map((name) => option(name, it.options[name].default)));
  $("finer").hidden = !options.length;
  count();
}

function clip(name) {
  const [label, hint] = CLIPS[name];
  const input = make("input", {id: name, type: "file", accept: "audio/*,.flac,.wav,.ogg,.mp3", "aria-describedby": `${name}-hint`});
  return make("label", {}, label, input, make("span", {class: "hint", id: `${name}-hint`}, hint));
}

function scale([name, {scale: value}]) {
  const id = `scale-${name}`;
  const number = make("input", {id, type: "number", step: "any", min: -100, max: 100, value, inputmode: "decimal",
    "aria-label": `Guidance of ${name}`});
  const range = make("input", {type: "range", min: 0, max: Math.max(10, 2 * value), step: 0.1, value,
    "aria-label": `Guidance of ${name}, by a slider`});
  range.oninput = () => { number.value = range.value; };
  number.oninput = () => { range.value = number.value; };
  number.dataset.default = value;
  return make("div", {class: "scale"}, make("span", {}, name[0].toUpperCase() + name.slice(1)), range, number);
}

function option(name, value) {
  const [label, hint] = OPTIONS[name];
  if (Array.isArray(hint)) {
    return make("label", {}, label, make("select", {id: `option-${name}`},
      make("option", {value: ""}, `${value} (default)`), ...hint.map((one) => make("option", {value: one}, one))));
  }
  const shown = Array.isArray(value) ? value.join(", ") : value ?? hint;
  return make("label", {}, label, make("input", {id: `option-${name}`, placeholder: shown, inputmode: "decimal"}));
}

function insert(tag) {
  const field = $("lyrics");
  const [before, after] = [field.value.slice(0, field.selectionStart), field.value.slice(field.selectionEnd)];
  const gap = !before || before.endsWith("\n\n") ? "" : before.endsWith("\n") ? "\n" : "\n\n";
  const inserted = `${gap}[${tag}]\n`;
  field.value = before + inserted + after;
  field.focus();
  field.selectionStart = field.selectionEnd = before.length + inserted.length;
  written();
}

function written() {
  localStorage.setItem(DRAFT, $("lyrics").value);
  count();
}

// How long the lyrics are: at once by counting, and soon after what the model makes of them.
function count() {
  const lines = $("lyrics").value.split("\n").map((line) => line.trim())
    .filter((line) => line && !/^\[[^[\]]+\]$/.test(line));
  const characters = lines.reduce((sum, line) => sum + [...line].length, 0);
  const said = `${plural(lines.length, "line")}, ${plural(characters, "character")}`;
  if (!$("count").textContent.startsWith(said)) $("count").textContent = said;
  clearTimeout(timer);
  looking?.abort();
  if (!model().texts.includes("lyrics")) return;
  timer = setTimeout(() => look(said), 250);
}

async function look(said) {
  looking = new AbortController();
  const lyrics = $("lyrics").value.trim();
  try {
    const report = await api.lookAt(model().name, lyrics, looking.signal);
    const lost = report.length > report.max_length;
    $("count").textContent = lyrics ? `${said} · ${report.length} of ${report.max_length} that fit` : said;
    const items = report.unknown.map(({text, why}) => make("li", {}, make("b", {}, text), ` ${why}`));
    if (lost) {
      const rest = lyrics.slice(report.read).trim();
      items.unshift(make("li", {}, "Too long: the model does not read the end, from ", make("b", {}, rest.slice(0, 40))));
    }
    $("strange").replaceChildren(...items);
  } catch (error) {
    if (error.name !== "AbortError") $("strange").replaceChildren(make("li", {}, error.message));
  }
}

const plural = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const round = (number) => Math.round(number * 100) / 100;

function number(id) {
  const field = $(id);
  const text = field ? field.value.trim() : "";
  if (field?.validity.badInput || (text && !Number.isFinite(Number(text)))) {
    field.focus();
    throw new Error(`${field.closest("label")?.firstChild.textContent.trim() || id}: expected a number.`);
  }
  return text ? Number(text) : undefined;
}

// What the form asks for, as POST /api/songs takes it; recordings are sent first.
export async function request() {
  const it = model();
  const asked = {model: it.name, options: {}};
  for (const name of it.texts) if ($(name).value.trim()) asked[name] = $(name).value;
  if (number("seed") !== undefined) asked.seed = number("seed");
  for (const name of ["duration", "temperature"]) {
    if (it.options[name] && number(name) !== undefined) asked.options[name] = number(name);
  }
  const scales = Object.keys(it.sources).filter(
    (name) => $(`scale-${name}`).value && $(`scale-${name}`).value !== $(`scale-${name}`).dataset.default);
  if (scales.length) {
    asked.options.cfg_scales = Object.fromEntries(scales.map((name) => [name, number(`scale-${name}`)]));
  }
  for (const name of Object.keys(OPTIONS)) {
    const text = $(`option-${name}`)?.value.trim();
    if (!text) continue;
    if (Array.isArray(OPTIONS[name][1])) asked.options[name] = text;
    else if (name === "steps") asked.options.steps = text.split(/[\s,]+/).map(Number);
    else asked.options[name] = number(`option-${name}`);
  }
  for (const name of it.clips) {
    const [file] = $(name).files;
    if (!file) continue;
    $(name).uploaded ??= new Map();
    const key = `${file.name} ${file.size} ${file.lastModified}`;
    if (!$(name).uploaded.has(key)) $(name).uploaded.set(key, (await api.upload(file)).id);
    asked[name] = {upload: $(name).uploaded.get(key)};
  }
  return asked;
}

// Fills the form with what a song was made of.
export function reuse(song) {
  const asked = song.request;
  if (models.some((one) => one.name === asked.model)) {
    $("model").value = asked.model;
    show();
  }
  for (const name of ["lyrics", "genre", "description"]) if ($(name)) $(name).value = asked[name] || "";
  $("duration").value = asked.options.duration ?? "";
  $("temperature").value = asked.options.temperature ?? "";
  $("seed").value = song.seed;
  for (const [name, value] of Object.entries(asked.options.cfg_scales || {})) {
    if ($(`scale-${name}`)) {
      $(`scale-${name}`).value = value;
      $(`scale-${name}`).oninput();
    }
  }
  for (const name of Object.keys(OPTIONS)) {
    if ($(`option-${name}`)) $(`option-${name}`).value = [asked.options[name] ?? ""].flat().join(", ");
  }
  written();
  $("lyrics").focus();
}
