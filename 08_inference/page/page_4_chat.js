// One question to every stage, the tokens of any text, and the beginning.
const STAGES = { base: "Base: trained on text alone", sft: "SFT: shown answers", dpo: "DPO: told which answers are better", grpo: "GRPO: rewarded for right ones" };

async function askAll(event) {
  if (event) event.preventDefault();
  const text = $("question").value.trim();
  if (!text) return;
  const cards = state.about.models.map(model => {
    const card = make("article", null, { "data-model": model });
    card.append(make("h3", STAGES[model] || model), make("p", "…", { class: "read" }));
    return card;
  });
  $("answers").replaceChildren(...cards);
  for (const card of cards) {
    await attempt(async () => {
      const answer = await ask("chat", { model: card.dataset.model, text,
        temperature: Number($("chat-temperature").value), seed: Number($("seed").value) });
      card.querySelector(".read").textContent = answer.read || "(nothing)";
      if (answer.is_sum) card.append(make("small", `its own words, ones digit first: ${answer.sent}=${answer.words.trim()}`));
      card.append(make("small", `${answer.tokens} tokens, ${answer.seconds.toFixed(2)} s`), make("small", "asked as: " + answer.asked));
    });
  }
}

const newestPieces = latest(body => ask("tokens", body));
function drawPieces() {
  return attempt(async () => {
    const found = await newestPieces({ text: $("raw").value });
    if (!found) return;
    const n = found.ids.length;
    $("counts").textContent = `${found.characters} characters, ${found.bytes} bytes, ${n} tokens` + (n ? `: ${(found.bytes / n).toFixed(2)} bytes a token` : "");
    $("pieces").replaceChildren(...found.ids.map(id => make("button", label(id), { title: "id " + id, "aria-label": `${spoken(id)}, id ${id}` })));
  });
}

function chip(text, work) {
  const button = make("button", text, { type: "button" });
  button.onclick = work;
  return button;
}

async function begin() {
  await attempt(async () => {
    const about = state.about = await ask("models", {});
    $("about").textContent = `${about.models.join(", ")}: ${(about.parameters / 1e6).toFixed(2)} million parameters, ${about.layers} layers of ${about.heads} heads, ${about.labels.length} tokens. Trained on this machine; nothing leaves it.`;
    $("model").replaceChildren(...about.models.map(m => make("option", m)));
    $("model").value = about.chosen;
    for (const [id, n] of [["layer", about.layers], ["head", about.heads]])
      $(id).replaceChildren(...Array.from({ length: n }, (_, i) => make("option", String(i + 1), { value: i })));
    const texts = [...about.examples.slice(0, 1).map(q => `<|user|>${q}<|bot|>`), "163+423=", "The module of ", "Return a "];
    $("examples").replaceChildren(...texts.map(t => chip(t, () => { $("text").value = t; state.at = null; state.history.push(state.ids); refresh({ text: t }); })));
    $("questions").replaceChildren(...[...about.examples, "361+324", "589+467"].map(q => chip(q, () => { $("question").value = q; askAll(); })));
    $("question").value = about.examples[0] || "361+324";
    $("text").value = texts[0];
    const view = VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "next";
    await refresh({ text: texts[0] });
    show(view);
    document.body.dataset.ready = "yes";
  });
}

$("ask").onsubmit = askAll;
$("raw").oninput = later(drawPieces, 200);
$("model").onchange = () => refresh();
$("keyform").onsubmit = event => {
  event.preventDefault();
  state.key = $("key").value;
  $("key").value = "";                        // a wrong one must not be in the way of the next
  $("keyform").hidden = true;
  begin();
};
begin();
