"use strict";
// What all views share: asking the server, the state of the text, tokens as buttons, tabs.
const $ = id => document.getElementById(id);
const state = { about: null, ids: [], now: null, at: null, view: "next", history: [], running: false, key: "" };

async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (state.key) headers.Authorization = "Bearer " + state.key;
  const answer = await fetch("/page/" + path, { method: "POST", headers, body: JSON.stringify(body) });
  const value = await answer.json();
  if (answer.status === 401) $("keyform").hidden = false;
  if (!answer.ok) throw new Error(value.error.message);
  return value;
}

// Run something that asks the server; what goes wrong is said at the top of the page.
async function attempt(work) {
  try {
    const value = await work();
    $("problem").hidden = true;
    return value;
  } catch (error) {
    $("problem").textContent = error instanceof TypeError ? "The server does not answer: is it still running?" : error.message;
    $("problem").hidden = false;
    state.running = false;
  }
}

// Only the newest answer counts: an older one that comes late is dropped.
function latest(work) {
  let newest = 0;
  return async (...values) => {
    const mine = ++newest;
    const value = await work(...values);
    return mine === newest ? value : undefined;
  };
}

function later(work, wait) {
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(work, wait); };
}

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const label = id => state.about.labels[id];
const spoken = id => label(id).replaceAll("␣", " space ").replaceAll("⏎", " line end ").trim() || "blank";
const percent = p => p >= 0.0995 ? (100 * p).toFixed(0) + "%" : p >= 0.001 ? (100 * p).toFixed(1) + "%" : p > 0 ? "<0.1%" : "0%";
const shade = bits => bits === null ? "s0" : "s" + [1, 3, 6, 10].filter(b => bits >= b).length;

function say(text) { $("said").textContent = text; }

// The tokens of the text as buttons; pressing one shows what the model expected in its place.
function drawTokens() {
  const { ids, bits, best } = state.now;
  $("seen").replaceChildren(...ids.map((id, i) => {
    const how = bits[i] === null ? "the beginning" : bits[i].toFixed(1) + " bits of surprise";
    const wanted = best[i] === null || best[i] === id ? "" : ", most expected was " + spoken(best[i]);
    const button = make("button", label(id), { class: shade(bits[i]), title: how + wanted,
      "aria-label": `token ${i}, ${spoken(id)}, ${how}${wanted}`, "aria-pressed": state.at !== null && i === state.at + 1 });
    button.onclick = () => { state.at = i === 0 || state.at === i - 1 ? null : i - 1; refresh(); };
    return button;
  }));
}

// Ask about the text and draw the view that is open.
const newest = latest(body => ask("next", body));
async function refresh(body = { ids: state.ids }) {
  await attempt(async () => {
    if (state.at !== null && !body.ids) state.at = null;
    const now = await newest({ model: $("model").value, ...body, ...(state.at === null ? {} : { at: state.at }) });
    if (!now) return;
    state.now = now;
    state.ids = now.ids;
    if (body.ids) $("text").value = textOf();
    drawTokens();
    if (state.view === "next") { drawBars(); await drawTree(); }
    if (state.view === "inside") await drawInside();
  });
}

const textOf = () => state.now.text;

function take(ids) {
  state.history.push(state.ids);
  if (state.at !== null) state.ids = state.ids.slice(0, state.at + 1);
  state.at = null;
  state.ids = [...state.ids, ...ids];
  say("added " + ids.map(spoken).join(", "));
  return refresh();
}

const typed = later(() => { state.history.push(state.ids); refresh({ text: $("text").value }); }, 250);

// Tabs: arrow keys move, as the WAI-ARIA pattern asks.
const VIEWS = ["next", "inside", "chat", "tokens"];
function show(view, focus) {
  state.view = view;
  for (const name of VIEWS) {
    const tab = $("tab-" + name), on = name === view;
    tab.setAttribute("aria-selected", on);
    tab.tabIndex = on ? 0 : -1;
    $("view-" + name).hidden = !on;
    if (on && focus) tab.focus();
  }
  $("shared").hidden = view === "chat" || view === "tokens";
  location.hash = view;
  if (!state.about) return;
  if (view === "tokens") drawPieces(); else if (view !== "chat") refresh();
}
VIEWS.forEach((name, i) => {
  $("tab-" + name).onclick = () => show(name);
  $("tab-" + name).onkeydown = event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) show(VIEWS[(i + step + VIEWS.length) % VIEWS.length], true);
    if (event.key === "Home") show(VIEWS[0], true);
    if (event.key === "End") show(VIEWS.at(-1), true);
  };
});
