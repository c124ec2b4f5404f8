// The guess of every layer (a table) and where a head looks (lines).
const ROW = 22, WIDTH = 380;

const newestLayers = latest(body => ask("layers", body));
async function drawInside() {
  const inside = await newestLayers({ model: $("model").value, ids: state.ids,
    layer: Number($("layer").value), head: Number($("head").value) });
  if (!inside) return;
  drawLens(inside);
  drawLines(inside);
}

function drawLens({ ids, best, p }) {
  const table = $("lens"), head = make("tr", null), body = make("tbody", null), top = make("thead", null);
  head.append(make("th", "after", { scope: "col" }), ...ids.map(id => make("th", label(id), { scope: "col" })));
  top.append(head);
  for (let layer = best.length - 1; layer >= 0; layer--) {
    const row = make("tr", null), name = layer === 0 ? "embedding" : "layer " + layer;
    row.append(make("th", name, { scope: "row" }), ...ids.map((_, t) => {
      const others = best[layer][t].map((id, i) => `${label(id)} ${percent(p[layer][t][i])}`).join("\n");
      return make("td", label(best[layer][t][0]), { title: others,
        style: `background: rgb(var(--lens) / ${0.6 * p[layer][t][0]})` });
    }));
    body.append(row);
  }
  table.replaceChildren(make("caption", "Columns are the tokens of the text, each cell the likeliest next token behind it; the top row is what the model says."), top, body);
}

function drawLines({ ids, attention }) {
  const svg = $("lines"), kind = "http://www.w3.org/2000/svg", n = ids.length, height = n * ROW + 12;
  const longest = Math.min(14, Math.max(...ids.map(id => label(id).length))), from = longest * 8 + 14, to = from + 190;
  svg.setAttribute("viewBox", `0 0 ${Math.max(WIDTH, to + longest * 8 + 14)} ${height}`);
  svg.setAttribute("width", Math.max(WIDTH, to + longest * 8 + 14));
  svg.setAttribute("height", height);
  const y = i => i * ROW + ROW / 2 + 6, put = (tag, attributes, text) => {
    const element = document.createElementNS(kind, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const cut = id => label(id).length > 14 ? label(id).slice(0, 13) + "…" : label(id);
  const lines = [], ends = [];
  attention.forEach((weights, t) => weights.forEach((w, s) => {
    if (w >= 0.02) lines.push(put("line", { x1: from, y1: y(s), x2: to, y2: y(t), "data-t": t,
      "stroke-opacity": Math.min(1, w), "stroke-width": 1 + 2.5 * w }));
  }));
  let chosen = null;
  const only = t => {
    chosen = chosen === t ? null : t;
    for (const line of lines) line.style.display = chosen === null || Number(line.dataset.t) === chosen ? "" : "none";
    ends.forEach((end, i) => { end.classList.toggle("on", i === chosen); end.setAttribute("aria-pressed", i === chosen); });
    const told = attention[t].map((w, s) => [w, s]).sort((a, b) => b[0] - a[0]).slice(0, 4)
      .map(([w, s]) => `${label(ids[s])} (token ${s}) ${percent(w)}`).join(",  ");
    $("looks").textContent = chosen === null ? "Choose a token on the right to see its lines alone." : `${label(ids[t])} (token ${t}) looks at: ${told}`;
  };
  const names = ids.map((id, s) => put("text", { x: from - 6, y: y(s) + 4, "text-anchor": "end", "aria-hidden": "true" }, cut(id)));
  ids.forEach((id, t) => {
    const end = put("g", { class: "to", tabindex: 0, role: "button", "aria-pressed": false, "aria-label": `token ${t}, ${spoken(id)}: where it looks` });
    end.append(put("text", { x: to + 6, y: y(t) + 4 }, cut(id)));
    end.onclick = () => only(t);
    end.onkeydown = event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); only(t); } };
    ends.push(end);
  });
  svg.replaceChildren(...lines, ...names, ...ends);
  $("looks").textContent = "Choose a token on the right to see its lines alone.";
}

for (const id of ["layer", "head"]) $(id).onchange = () => attempt(drawInside);
