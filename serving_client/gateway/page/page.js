"use strict";

const MAX_REQUESTS = 4; // at the same time; further pictures wait in the queue
const LABELS = 5; // per picture

const element = (id) => document.getElementById(id);
const queue = [];
let active = 0; // requests in flight
let added = 0; // pictures
let answered = 0;

async function fetchJson(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The gateway does not answer. Check that it is running.");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw new Error(body.detail || `The gateway answered with status ${response.status}.`);
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
  const model = await fetchJson("v1/model");
  element("title").textContent = document.title = model.name;
  showFact("Version", model.version);
  showFact("Input", `${model.input.width_px} × ${model.input.height_px} px`);
  if (model.backbone) {
    showFact("Backbone", model.backbone);
  }
  for (const [split, figures] of Object.entries(model.metrics)) {
    if ("accuracy" in figures) {
      showFact(`Accuracy on ${split} data`, percent(figures.accuracy));
    }
  }
  showFact(`Labels (${model.labels.length})`, model.labels.join(", "));
}

function percent(value) {
  return `${(100 * value).toFixed(1)}%`;
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
    added += 1;
  }
  startRequests();
}

function startRequests() {
  while (active < MAX_REQUESTS && queue.length) {
    active += 1;
    classify(queue.shift()).finally(() => {
      active -= 1;
      answered += 1;
      startRequests();
    });
  }
  element("progress").textContent = answered < added ? `${answered} of ${added} classified` : "";
}

async function classify({ file, result }) {
  const scores = result.querySelector(".scores");
  try {
    const answer = await fetchJson(`v1/classify?top_k=${LABELS}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: file,
    });
    const best = answer.results[0].scores;
    result.querySelector("img").alt = best[0].label;
    scores.replaceChildren(...best.map(scoreItem));
  } catch (error) {
    const item = document.createElement("p");
    item.className = "error";
    item.textContent = error.message;
    scores.replaceWith(item);
  }
}

function scoreItem({ label, probability }) {
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
  event.target.value = ""; // so that the same file can be chosen again
});

// Accept pictures anywhere on the page: the browser would open one that is dropped outside the frame.
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
