"use strict";

const STEP = Math.SQRT2;
const MOST = 16; // how many times as large as the whole picture fits

function element(tag, name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), { className: name }, properties);
  made.append(...children);
  return made;
}

function player(photo) {
  const cards = [...photo.querySelectorAll("figure button")];
  const rows = [...photo.querySelectorAll(".row:not(.original)")];
  const middle = rows[Math.floor(rows.length / 2)].querySelector("button");
  const state = { left: 0, right: cards.indexOf(middle), split: 50, zoom: 1 };

  const pictures = { left: element("img", "", { alt: "" }), right: element("img", "", { alt: "" }) };
  const tags = { left: element("span", "tag left"), right: element("span", "tag right") };
  const sheet = element("div", "sheet", {}, pictures.left, pictures.right);
  const view = element("div", "view", { tabIndex: 0 }, sheet);
  const divider = element("div", "divider");
  const stage = element("div", "stage", {}, view, tags.left, tags.right, divider);
  const split = element("input", "split", { type: "range", min: 0, max: 100, step: 0.5, value: 50 });
  const choices = () => cards.map((card, at) => new Option(card.dataset.label, at));
  const picks = { left: element("select", "", {}, ...choices()), right: element("select", "", {}, ...choices()) };
  const button = (text, label, act) => {
    const made = element("button", "", { type: "button", textContent: text, title: label, onclick: act });
    made.setAttribute("aria-label", label);
    return made;
  };
  const shown = element("output", "");
  view.setAttribute("role", "group");
  view.setAttribute("aria-label", "Two versions of the picture under a divider");
  split.setAttribute("aria-label", "Where the divider is");

  const fitted = () => view.clientWidth;
  const pixelForPixel = () => Number(getComputedStyle(photo).getPropertyValue("--width")) / fitted();

  function showSplit() {
    const x = view.scrollLeft + (state.split / 100) * view.clientWidth;
    pictures.right.style.clipPath = `inset(0 0 0 ${x}px)`;
    divider.style.left = `${state.split}%`;
    split.value = state.split;
    split.setAttribute("aria-valuetext", `${Math.round(state.split)} % from the left`);
  }

  function showVersions() {
    for (const side of ["left", "right"]) {
      const card = cards[state[side]];
      pictures[side].src = card.querySelector("img").src;
      tags[side].textContent = card.dataset.label;
      picks[side].value = state[side];
      cards.forEach((each, at) => each.classList.toggle(`is-${side}`, at === state[side]));
    }
    cards.forEach((each, at) => each.setAttribute("aria-pressed", at === state.right));
  }

  function setSplit(percent) {
    state.split = Math.min(100, Math.max(0, percent));
    showSplit();
  }

  function setZoom(zoom) {
    const centre = (offset, visible, whole) => (offset + visible / 2) / whole;
    const x = centre(view.scrollLeft, view.clientWidth, sheet.clientWidth);
    const y = centre(view.scrollTop, view.clientHeight, sheet.clientHeight);
    state.zoom = Math.min(MOST, Math.max(1, zoom));
    sheet.style.width = `${100 * state.zoom}%`;
    view.classList.toggle("enlarged", state.zoom > 1);
    view.scrollLeft = x * sheet.clientWidth - view.clientWidth / 2;
    view.scrollTop = y * sheet.clientHeight - view.clientHeight / 2;
    showZoom();
  }

  function showZoom() {
    shown.textContent = `${Math.round((100 * state.zoom) / pixelForPixel())} %`;
    showSplit();
  }

  function choose(side, at) {
    state[side] = at;
    showVersions();
  }

  function swap() {
    [state.left, state.right] = [state.right, state.left];
    showVersions();
  }

  function drag(event) {
    if (event.button !== 0) return;
    const onDivider = event.target === divider;
    const pans = state.zoom > 1 && !onDivider;
    if (pans && event.pointerType !== "mouse") return; // fingers scroll the picture
    const start = { x: event.clientX + view.scrollLeft, y: event.clientY + view.scrollTop };
    const move = (moved) => {
      if (pans) {
        view.scrollTo(start.x - moved.clientX, start.y - moved.clientY);
      } else {
        const box = view.getBoundingClientRect();
        setSplit((100 * (moved.clientX - box.left)) / box.width);
      }
    };
    const stop = () => {
      stage.removeEventListener("pointermove", move);
      for (const name of ["pointerup", "pointercancel"]) stage.removeEventListener(name, stop);
    };
    stage.setPointerCapture(event.pointerId);
    stage.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, stop);
    if (!pans && event.pointerType === "mouse") move(event);
  }

  const keys = {
    "+": () => setZoom(state.zoom * STEP),
    "=": () => setZoom(state.zoom * STEP),
    "-": () => setZoom(state.zoom / STEP),
    "0": () => setZoom(1),
    "1": () => setZoom(pixelForPixel()),
    x: swap,
  };
  const keysAtFit = { ArrowLeft: () => setSplit(state.split - 2), ArrowRight: () => setSplit(state.split + 2) };
  stage.addEventListener("keydown", (event) => {
    const act = keys[event.key] ?? (state.zoom === 1 ? keysAtFit[event.key] : undefined);
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });
  stage.addEventListener("pointerdown", drag);
  view.addEventListener("scroll", showSplit);
  split.addEventListener("input", () => setSplit(Number(split.value)));
  for (const side of ["left", "right"]) {
    picks[side].addEventListener("change", () => choose(side, Number(picks[side].value)));
  }
  cards.forEach((card, at) => {
    card.title = "Show at the right; with Shift, at the left";
    card.addEventListener("click", (event) => choose(event.shiftKey ? "left" : "right", at));
  });
  new ResizeObserver(showZoom).observe(view);

  photo.querySelector(".player").append(
    stage,
    split,
    element(
      "div",
      "controls",
      {},
      element("label", "", {}, "Left", picks.left),
      button("⇄", "Swap left and right", swap),
      element("label", "", {}, "Right", picks.right),
      element(
        "div",
        "zoom",
        {},
        button("−", "Reduce", keys["-"]),
        shown,
        button("+", "Enlarge", keys["+"]),
        button("1:1", "One pixel for each pixel", keys["1"]),
        button("Fit", "Whole picture", keys["0"]),
      ),
    ),
  );
  showVersions();
  showZoom();
}

document.querySelectorAll(".photo").forEach(player);
