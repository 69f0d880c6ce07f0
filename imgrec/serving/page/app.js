"use strict";
const SHOWN = 5; // classes of an answer
const language = (navigator.languages || [navigator.language]).find((one) => /^(en|zh)/i.test(one)) || "en";
const code = language.toLowerCase().startsWith("zh") ? "zh" : "en";
const say = WORDS[code];
const at = (id) => document.getElementById(id);
const percent = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 1 });
const headers = () => {
  const token = sessionStorage.getItem("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
};
let models = [];
let turn = 0; // of the newest picture: answers to an older one are not shown
let shown = null; // its address

function write(element, text) { element.textContent = text; }

function complain(text) {
  write(at("problem"), text);
  at("problem").hidden = !text;
}

async function fetched(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch {
    throw new Error(say.notReached);
  }
  if (answer.status === 401) {
    at("sign-in").hidden = false;
    at("ask").hidden = true;
    at("token").focus();
  }
  const told = await answer.json().catch(() => ({ error: `${answer.status}` }));
  if (answer.status === 422) throw new Error(say.unread(told.error));
  if (!answer.ok) throw new Error(told.error);
  return told;
}

async function begin() {
  try {
    models = (await fetched("v1/models")).models;
  } catch (error) {
    complain(error.message);
    return;
  }
  complain("");
  at("sign-in").hidden = true;
  at("ask").hidden = false;
  write(at("about"), say.models(models.map((one) => one.name).join(", ")));
  // Who recognizes small pictures of one colour is asked about drawings.
  if (models.every((one) => Math.max(one.height, one.width) <= 64)) openDrawing();
}

async function ask(picture) {
  const mine = ++turn;
  complain("");
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(picture);
  at("shown").src = shown;
  at("shown").alt = say.yourPicture;
  at("cards").replaceChildren();
  write(at("state"), say.looking);
  at("answer").hidden = false;
  const answers = await Promise.all(
    models.map((model) =>
      fetched(`v1/models/${encodeURIComponent(model.name)}/predict`, {
        method: "POST", body: picture, headers: { "Content-Type": picture.type || "application/octet-stream" },
      }).then((told) => ({ model, told }), (error) => ({ model, error })),
    ),
  );
  if (mine !== turn) return;
  const good = answers.filter((one) => one.told);
  const bad = answers.filter((one) => one.error);
  at("cards").replaceChildren(...good.map(({ model, told }) => card(model, told, picture)));
  at("answer").hidden = !good.length;
  write(at("state"), good.length ? say.done(good.length) : "");
  if (bad.length) complain([...new Set(bad.map((one) => one.error.message))].join(" "));
}

function card(model, told, picture) {
  const [answer] = told.predictions;
  const made = at("card").content.cloneNode(true);
  const article = made.querySelector("article");
  const part = (name) => made.querySelector(name);
  write(part("h2"), model.name);
  write(part(".label"), `${answer.label} ${percent.format(answer.probability)}`);
  if (answer.abstained) {
    write(part(".unsure"), say.unsure);
    part(".unsure").hidden = false;
  }
  const ranked = Object.entries(answer.probabilities).sort((one, other) => other[1] - one[1]).slice(0, SHOWN);
  part(".shares").replaceChildren(...ranked.map(([name, share]) => shareRow(name, share)));
  if (model.coverage !== null && answer.possible.length > 1) {
    write(part(".possible"), say.possible(answer.possible.join(", "), percent.format(model.coverage)));
    part(".possible").hidden = false;
  }
  write(part("summary"), say.more);
  const facts = { [say.version]: told.version, [say.kind]: model.arch, [say.classes]: model.class_names.join(", "), ...model.facts };
  part("dl").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [term("dt", name), term("dd", value)]));
  const button = part(".explain");
  write(button, say.explain);
  button.addEventListener("click", () => explain(model, picture, article));
  return made;
}

function shareRow(name, share) {
  const row = document.createElement("li");
  const bar = document.createElement("progress");
  bar.max = 1;
  bar.value = share;
  bar.setAttribute("aria-hidden", "true");
  row.append(bar, term("span", name), term("span", percent.format(share)));
  return row;
}

function term(kind, text) {
  const element = document.createElement(kind);
  write(element, text);
  return element;
}

async function explain(model, picture, article) {
  const button = article.querySelector(".explain");
  button.disabled = true;
  complain("");
  try {
    const told = await fetched(`v1/models/${encodeURIComponent(model.name)}/explain`, { method: "POST", body: picture });
    const figure = article.querySelector(".looked");
    const image = figure.querySelector("img");
    image.src = told.looked_at;
    image.alt = say.lookedAt(told.label);
    write(figure.querySelector("figcaption"), say.explained);
    figure.hidden = false;
    button.hidden = true;
  } catch (error) {
    complain(error.message);
    button.disabled = false;
  }
}

function take(files) {
  const [file] = files;
  if (!file) return;
  if (file.type && !file.type.startsWith("image/")) {
    complain(say.noPicture);
    return;
  }
  ask(file);
}

// Drawing.
const canvas = at("canvas");
const pen = canvas.getContext("2d", { willReadFrequently: true });

function clearCanvas() {
  pen.fillStyle = at("dark").checked ? "#000" : "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.strokeStyle = at("dark").checked ? "#fff" : "#000";
  pen.lineWidth = canvas.width / 10;
  pen.lineCap = pen.lineJoin = "round";
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
}

function openDrawing() {
  at("drawing").hidden = false;
  at("draw").setAttribute("aria-expanded", "true");
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pen.beginPath();
  pen.moveTo(...place(event));
  pen.lineTo(...place(event));
  pen.stroke();
});
canvas.addEventListener("pointermove", (event) => {
  if (!canvas.hasPointerCapture(event.pointerId)) return;
  pen.lineTo(...place(event));
  pen.stroke();
});
at("clear").addEventListener("click", clearCanvas);
at("dark").addEventListener("change", clearCanvas);
at("recognize").addEventListener("click", () => canvas.toBlob(ask, "image/png"));
at("draw").addEventListener("click", () => {
  at("drawing").hidden = !at("drawing").hidden;
  at("draw").setAttribute("aria-expanded", String(!at("drawing").hidden));
});

// Files.
at("choose").addEventListener("click", () => at("file").click());
at("photograph").addEventListener("click", () => at("camera").click());
for (const id of ["file", "camera"]) {
  at(id).addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = "";
  });
}
document.addEventListener("paste", (event) => take(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  take(event.dataTransfer.files);
});
at("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", at("token").value);
  at("token").value = "";
  begin();
});

document.documentElement.lang = code;
for (const element of document.querySelectorAll("[data-say]")) write(element, say[element.dataset.say]);
canvas.setAttribute("aria-label", say.canvas);
clearCanvas();
begin();
