"use strict";

const AT_ONCE = 4; // requests; the others wait here
const LABELS = 5;

const element = (id) => document.getElementById(id);
const queue = [];
let active = 0;
let asked = 0;
let answered = 0;

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The gateway does not answer.");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw new Error(body.detail || `The gateway answered ${response.status}.`);
  }
  return body;
}

function showFact(name, value) {
  const term = document.createElement("dt");
  const text = document.createElement("dd");
  term.textContent = name;
  text.textContent = value;
  element("card").append(term, text);
}

async function showCard() {
  const model = await ask("v1/model");
  element("title").textContent = document.title = model.name;
  showFact("Version", model.version);
  showFact("Input", `${model.input.width_px} × ${model.input.height_px} px`);
  if (model.backbone) {
    showFact("Backbone", model.backbone);
  }
  for (const [split, figures] of Object.entries(model.metrics)) {
    if ("accuracy" in figures) {
      showFact(`Accuracy, ${split}`, percent(figures.accuracy));
    }
  }
  showFact(`${model.labels.length} labels`, model.labels.join(", "));
}

function percent(value) {
  return `${(100 * value).toFixed(1)} %`;
}

function add(files) {
  for (const file of files) {
    const result = element("result").content.cloneNode(true).firstElementChild;
    const image = result.querySelector("img");
    image.onload = () => URL.revokeObjectURL(image.src);
    image.onerror = () => image.removeAttribute("src");
    image.src = URL.createObjectURL(file);
    result.querySelector("h3").textContent = file.name;
    element("results").prepend(result);
    queue.push({ file, result });
    asked += 1;
  }
  work();
}

function work() {
  while (active < AT_ONCE && queue.length) {
    active += 1;
    classify(queue.shift()).finally(() => {
      active -= 1;
      answered += 1;
      work();
    });
  }
  element("progress").textContent = answered < asked ? `${answered} of ${asked} answered` : "";
}

async function classify({ file, result }) {
  const scores = result.querySelector(".scores");
  try {
    const answer = await ask(`v1/classify?top_k=${LABELS}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: file,
    });
    const found = answer.results[0].scores;
    result.querySelector("img").alt = found[0].label;
    scores.replaceChildren(...found.map(scoreOf));
  } catch (error) {
    const item = document.createElement("p");
    item.className = "error";
    item.textContent = error.message;
    scores.replaceWith(item);
  }
}

function scoreOf({ label, probability }) {
  const item = element("score").content.cloneNode(true).firstElementChild;
  item.querySelector(".label").textContent = label;
  const bar = item.querySelector(".bar");
  bar.setAttribute("aria-label", label);
  bar.setAttribute("aria-valuenow", probability);
  bar.setAttribute("aria-valuetext", percent(probability));
  bar.firstElementChild.style.width = `${100 * probability}%`;
  item.querySelector(".percent").textContent = percent(probability);
  return item;
}

element("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = ""; // the same file may be chosen again
});

// Anywhere on the page, so that a picture beside the frame does not replace the page.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  element("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) {
    element("drop").classList.remove("over");
  }
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  element("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));

showCard().catch((error) => {
  element("problem").textContent = error.message;
  element("problem").hidden = false;
});
