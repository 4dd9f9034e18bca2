// Elements, and how times are written. Texts of songs are only ever set as text, never as HTML.

export const $ = (id) => document.getElementById(id);

// make("button", {class: "take", onclick}, "Open", child): an element with properties, attributes and children.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element[name] = value;
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function clock(seconds, digits = 1) {
  const whole = Math.max(0, seconds || 0);
  const rest = (whole % 60).toFixed(digits);
  return `${Math.floor(whole / 60)}:${rest.padStart(digits ? digits + 3 : 2, "0")}`;
}

// What screen readers say next.
export function tell(text) {
  $("status").textContent = text;
}

export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
