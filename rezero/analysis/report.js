"use strict";
// data.facets has one value per entry, or a list of values. Filters the entries of a report by its table, lists those that remain by the hundred, and unpacks a card when it is
// opened. Only cards, whose values Python escaped, are set as HTML; all else is set as text.
const at = id => document.getElementById(id);
const data = JSON.parse(at("data").textContent);
const STEP = 100;
const GOOD = new Set(["right", "won", "both right"]);
const texts = data.texts.map(pair => pair.join("\n").toLowerCase());
const passages = data.passages.map(text => text.toLowerCase());
const selects = new Map();
const blocks = new Map();
let shown = [], listed = 0;

function node(tag, text = "", properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  made.textContent = text;
  return made;
}

for (const name of data.names) {
  const counts = new Map();
  for (const value of data.facets[name].flat()) counts.set(value, (counts.get(value) ?? 0) + 1);
  const select = node("select");
  select.append(node("option", "all", { value: "" }));
  for (const value of [...counts.keys()].sort()) {
    select.append(node("option", `${value} (${counts.get(value)})`, { value: `=${value}` }));
  }
  const label = node("label", `${name} `);
  label.append(select);
  at("facets").append(label);
  selects.set(name, select);
}
if (data.reward.every(value => value === null)) {
  for (const id of ["low", "high"]) at(id).parentElement.hidden = true;
}

// Every word must be in an entry's own text or in one of its passages; each passage is searched once.
function holdsWords(query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const found = words.map(word => passages.map(text => text.includes(word)));
  return i => words.every((word, w) => texts[i].includes(word) || data.hits[i].some(hit => found[w][hit]));
}

function filter() {
  const wanted = data.names.map(name => [data.facets[name], selects.get(name).value.slice(1)]);
  const chosen = wanted.filter(([, value]) => value !== "");
  const low = at("low").value === "" ? -Infinity : Number(at("low").value);
  const high = at("high").value === "" ? Infinity : Number(at("high").value);
  const bounded = low > -Infinity || high < Infinity;
  const holds = holdsWords(at("text").value);
  shown = [];
  for (let i = 0; i < texts.length; i++) {
    const reward = data.reward[i];
    if (bounded && (reward === null || reward < low || reward > high)) continue;
    if (chosen.every(([values, value]) => [values[i]].flat().includes(value)) && holds(i)) shown.push(i);
  }
  at("list").replaceChildren();
  listed = 0;
  more();
  at("count").textContent = `${shown.length} of ${texts.length}; open one to read it`;
}

function more() {
  at("list").append(...shown.slice(listed, listed + STEP).map(entry));
  listed = Math.min(shown.length, listed + STEP);
  at("more").hidden = listed === shown.length;
  at("more").textContent = `more (${shown.length - listed})`;
}

function entry(i) {
  const outcome = data.facets.outcome[i];
  const about = data.names.filter(name => name !== "outcome").map(name => `${name}: ${[data.facets[name][i]].flat().join(", ")}`);
  if (data.reward[i] !== null) about.push(`reward: ${data.reward[i]}`);
  const made = node("details");
  const summary = node("summary");
  summary.append(node("span", outcome, { className: GOOD.has(outcome) ? "chip good" : "chip" }));
  summary.append(` ${data.texts[i][0]} `, node("small", `(${about.join(", ")})`));
  made.append(summary);
  made.addEventListener("toggle", () => open(made, i), { once: true });
  return made;
}

async function open(made, i) {
  const body = node("div", "…");
  made.append(body);
  try {
    body.innerHTML = (await block(Math.floor(i / data.size)))[i % data.size];
  } catch (error) {
    body.textContent = `this browser cannot unpack the card: ${error}`;
  }
}

function block(number) {
  if (!blocks.has(number)) {
    const packed = Uint8Array.from(atob(data.blocks[number]), letter => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    blocks.set(number, new Response(stream).json());
  }
  return blocks.get(number);
}

at("filters").addEventListener("input", filter);
at("filters").addEventListener("submit", event => event.preventDefault());
at("filters").addEventListener("reset", () => setTimeout(filter));
at("more").addEventListener("click", more);
new IntersectionObserver(([seen]) => seen.isIntersecting && more()).observe(at("more"));
filter();
