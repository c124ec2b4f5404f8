// The distribution over the next token as bars, reshaped live; choosing, drawing, running; the tree.
const BARS = 12;

// Probabilities after temperature and top-p, in the order of the logits (falling): the same steps as sampling.py.
function shaped(logits, temperature, topP) {
  if (temperature === 0) return logits.map((_, i) => i === 0 ? 1 : 0);
  const raised = logits.map(l => Math.exp((l - logits[0]) / temperature));
  const sum = raised.reduce((a, b) => a + b, 0);
  let before = 0;
  const kept = raised.map((e, i) => {
    const p = e / sum, keep = i === 0 || topP >= 1 || before < topP;
    before += p;
    return keep ? p : 0;
  });
  const left = kept.reduce((a, b) => a + b, 0);
  return kept.map(p => p / left);
}

const settings = () => [Number($("temperature").value), Number($("top-p").value)];

function drawBars() {
  const { order, logits, at, ids } = state.now, [temperature, topP] = settings();
  const was = shaped(logits, 1, 1), now = shaped(logits, temperature, topP);
  $("temperature-now").textContent = temperature.toFixed(2);
  $("top-p-now").textContent = topP.toFixed(2);
  $("barstitle").textContent = state.at === null ? "What comes next" : `What was expected after token ${at}`;
  const came = state.at === null ? null : ids[at + 1];
  const shown = order.slice(0, BARS).map((_, i) => i);
  const place = order.indexOf(came);
  if (place >= BARS) shown[BARS - 1] = place;            // the token that came is always shown
  const most = Math.max(was[0], now[0]);
  $("bars").replaceChildren(...shown.map(i => {
    const id = order[i], item = make("li", null);
    const button = make("button", null, { "data-id": id, "data-p": now[i].toFixed(6),
      "aria-label": `${spoken(id)}, ${percent(now[i])}${id === came ? ", this one came" : ""}, choose` });
    if (!now[i]) button.classList.add("cut");
    const fill = make("span", null, { class: "fill", style: `width:${100 * now[i] / most}%` });
    const line = make("span", null, { class: "was", style: `width:${100 * was[i] / most}%` });
    button.append(fill, line, make("b", (id === came ? "▸ " : "") + label(id)), make("span", percent(now[i]), { class: "p" }));
    button.onclick = () => take([id]);
    item.append(button);
    return item;
  }));
  const rest = 1 - shown.reduce((sum, i) => sum + now[i], 0), kept = now.filter(p => p > 0).length;
  const bits = -now.reduce((sum, p) => sum + (p > 0 ? p * Math.log2(p) : 0), 0);
  $("rest").textContent = `${kept} of ${order.length} tokens can be drawn; the others of them hold ${percent(Math.max(rest, 0))}. ` +
    `Entropy ${bits.toFixed(2)} bits. The thin line is the model's own probability, before temperature and top-p.`;
}

function drawn() {
  const { order, logits } = state.now, p = shaped(logits, ...settings());
  let u = Math.random(), i = 0;
  while (i < p.length - 1 && (u -= p[i]) > 0) i++;
  while (p[i] === 0) i--;                                // rounding must not draw what was cut
  return order[i];
}

async function run() {
  state.running = !state.running;
  $("run").setAttribute("aria-pressed", state.running);
  $("run").textContent = state.running ? "Stop" : "Run";
  const end = state.about.special[0];
  for (let n = 0; state.running && n < 60 && state.ids.length < state.about.max_len - 4; n++) {
    const id = drawn();
    await take([id]);
    if (id === end) break;
    await new Promise(done => setTimeout(done, 60));
  }
  state.running = false;
  $("run").setAttribute("aria-pressed", false);
  $("run").textContent = "Run";
}

const newestTree = latest(body => ask("tree", body));
async function drawTree() {
  if (state.running) return;                             // it would be gone before anybody could read it
  const ids = state.at === null ? state.ids : state.ids.slice(0, state.at + 1);
  const tree = await newestTree({ model: $("model").value, ids, width: 3, depth: 3 });
  if (!tree) return;
  const branch = (node, path) => {
    const item = make("li", null), way = [...path, node.id];
    const button = make("button", label(node.id), { style: `--w:${100 * node.p}%`,
      "aria-label": `${way.map(spoken).join(", ")}: ${percent(node.path)}, choose` });
    button.onclick = () => take(way);
    item.append(button, make("small", percent(node.path)));
    if (node.next.length) {
      const below = make("ul", null);
      below.append(...node.next.filter((child, i) => i === 0 || child.path >= 0.001).map(child => branch(child, way)));
      item.append(below);
    }
    return item;
  };
  $("tree").replaceChildren(...tree.next.map(node => branch(node, [])));
}

for (const id of ["temperature", "top-p"]) $(id).oninput = () => state.now && drawBars();
$("best").onclick = () => take([state.now.order[0]]);
$("draw").onclick = () => take([drawn()]);
$("run").onclick = run;
$("undo").onclick = () => { if (state.history.length) { state.ids = state.history.pop(); state.at = null; refresh(); } };
$("text").oninput = typed;
