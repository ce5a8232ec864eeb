// The page's state, its controls and its keys.

const content = JSON.parse(document.getElementById("data").textContent);
const control = (id) => document.getElementById(id);
const view = { step: 0, row: 0, yaw: 0.5, pitch: 0.3, zoom: 1, colour: "signal", threshold: 0, axis: -1, depth: 0.5,
  only: false, front: true, tiers: new Set([0, 1, 2]), chosen: null };
const TURN = Math.PI / 24, START = { yaw: view.yaw, pitch: view.pitch, zoom: view.zoom };
let clock = null;

const panes = content.runs.map((run) => {
  const rollout = new Rollout({ ...run.cube, name: run.name });
  const canvas = element("canvas", { tabindex: "0", role: "application", "aria-describedby": "keys",
    "aria-label": `Cube of ${rollout.shape.join(" × ")} cells of ${run.name}` });
  const caption = element("figcaption"), key = element("div", { class: "legend" }), box = element("div", { class: "inspection" });
  const figure = element("figure", content.runs.length === 1 ? { class: "single" } : {}, caption, canvas, key, box);
  control("cubes").append(figure);
  const pane = { run, rollout, canvas, caption, key, box, cube: new Cube(canvas, rollout, content.palette) };
  listen(pane);
  return pane;
});

function captionOf({ run, rollout }) {
  const step = Math.min(view.step, rollout.steps), all = rollout.shape.reduce((a, b) => a * b);
  const parts = [`${run.name}, ${run.rows[view.row]}, after step ${step} of ${rollout.steps}`];
  if (view.step > rollout.steps) parts.push("it takes no further step");
  else if (step > rollout.ended[view.row]) parts.push(`by its own rule this row ends after step ${rollout.ended[view.row]}`);
  const first = rollout.at(view.row, step), heard = rollout.signal.subarray(first, first + rollout.count).filter(Boolean).length;
  parts.push(`a signal in ${heard.toLocaleString("en")} of ${rollout.count.toLocaleString("en")} cells`);
  if (rollout.count < all)
    parts.push(`decimated: ${rollout.count.toLocaleString("en")} of ${all.toLocaleString("en")} cells, in ${rollout.sides.join(" × ")} evenly chosen planes`);
  parts.push("signal to 2\u00a0%, states to 0.4\u00a0% of a channel's largest");
  return parts.join("; ");
}

function draw(say = false) {
  const spoken = panes.map(({ cube, rollout, box, key, caption, ...pane }) => {
    cube.chosen = view.chosen && rollout.join(view.chosen.map((part, axis) => Math.round(part * (rollout.sides[axis] - 1))));
    cube.draw(view);
    caption.textContent = captionOf({ rollout, ...pane });
    legend(key, cube, view, content.palette);
    return inspect(box, cube, view);
  });
  const { rollout } = panes[0];
  control("step").value = view.step;
  control("step-text").textContent = `${view.step} of ${control("step").max}`;
  control("threshold-text").textContent = view.threshold ? panes.map((pane) => rounded(pane.rollout.level(view.threshold))).join(" · ") : "any";
  const cut = view.axis < 0 ? null : panes.map((pane) =>
    pane.rollout.planes[view.axis][Math.round(view.depth * (pane.rollout.sides[view.axis] - 1))]);
  control("depth-text").textContent = cut ? `${"xyz"[view.axis]} = ${cut.join(" · ")}` : "–";
  for (const id of ["depth", "only"]) control(id).disabled = view.axis < 0;
  for (const id of ["step", "threshold", "depth"]) control(id).ariaValueText = control(`${id}-text`).textContent;
  document.documentElement.dataset.drawn = panes.map((pane) => pane.cube.drawn.length).join(" ");
  if (say) control("said").textContent = spoken.filter(Boolean).join("; ");
}

function go(step) {
  view.step = Math.max(0, Math.min(Number(control("step").max), step));
  draw();
}

function play(on) {
  clearInterval(clock);
  clock = null;
  if (on) {
    if (view.step >= Number(control("step").max)) go(0);
    const pace = matchMedia("(prefers-reduced-motion: reduce)").matches ? 2000 : 700;
    clock = setInterval(() => {
      go(view.step + 1);
      if (view.step >= Number(control("step").max)) play(false);
    }, pace);
  }
  control("play").textContent = on ? "Pause" : "Play";
  control("play").setAttribute("aria-pressed", String(on));
}

function turn(yaw, pitch) {
  view.yaw += yaw;
  view.pitch = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, view.pitch + pitch));
  draw();
}

function zoom(factor) {
  view.zoom = Math.max(0.5, Math.min(4, view.zoom * factor));
  draw();
}

// What a key does to the view, in the cube with Shift held for arrows, or its button; whether it is one that does.
function look(key) {
  const turns = { ArrowLeft: [-TURN, 0], ArrowRight: [TURN, 0], ArrowUp: [0, -TURN], ArrowDown: [0, TURN] };
  if (turns[key]) turn(...turns[key]);
  else if (key === "+" || key === "-") zoom(key === "+" ? 1.15 : 1 / 1.15);
  else if (key === "Home") { Object.assign(view, START); draw(); }
  else return false;
  return true;
}

// Move the chosen cell by one plane of this cube; the first key chooses the cell in its middle.
function move(rollout, axis, by) {
  const last = rollout.sides.map((side) => Math.max(1, side - 1));
  if (view.chosen === null) view.chosen = rollout.sides.map((side, k) => Math.floor(side / 2) / last[k]);
  else view.chosen[axis] = Math.max(0, Math.min(1, view.chosen[axis] + by / last[axis]));
  if (rollout.sides[axis] === 1) view.chosen[axis] = 0;
  draw(true);
}

function listen({ canvas, rollout, ...pane }) {
  let from = null, moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    from = [event.clientX, event.clientY];
    moved = 0;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    const [x, y] = [event.clientX - from[0], event.clientY - from[1]];
    moved += Math.abs(x) + Math.abs(y);
    from = [event.clientX, event.clientY];
    turn(x / 150, y / 150);
  });
  canvas.addEventListener("pointercancel", () => { from = null; }); // the page scrolls
  canvas.addEventListener("pointerup", (event) => {
    from = null;
    if (moved > 4) return;
    const box = canvas.getBoundingClientRect(), own = panes.find((each) => each.canvas === canvas).cube;
    const hit = own.pick(event.clientX - box.left, event.clientY - box.top);
    view.chosen = hit === null ? null : rollout.split(hit).map((plane, axis) => plane / Math.max(1, rollout.sides[axis] - 1));
    draw(true);
  });
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 1], ArrowDown: [1, -1], PageUp: [2, 1], PageDown: [2, -1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (!event.shiftKey && moves[event.key]) move(rollout, ...moves[event.key]);
    else if (look(event.key)) { /* the view has changed */ }
    else if (event.key === " ") play(clock === null);
    else if (event.key === "Escape") { view.chosen = null; draw(true); }
    else return;
    event.preventDefault();
  });
}

function connect() {
  control("step").max = Math.max(...panes.map((pane) => pane.rollout.steps));
  const shared = Math.min(...panes.map((pane) => pane.run.rows.length));
  panes[0].run.rows.slice(0, shared).forEach((label, row) => control("row").append(new Option(label, row)));
  const set = (id, type, take) => control(id).addEventListener(type, (event) => { take(event.target); draw(); });
  set("step", "input", (input) => { play(false); view.step = Number(input.value); });
  set("row", "change", (input) => { view.row = Number(input.value); });
  set("colour", "change", (input) => { view.colour = input.value; });
  set("front", "change", (input) => { view.front = input.checked; });
  set("threshold", "input", (input) => { view.threshold = Number(input.value); });
  set("axis", "change", (input) => { view.axis = ["x", "y", "z"].indexOf(input.value); });
  set("depth", "input", (input) => { view.depth = Number(input.value) / 100; });
  set("only", "change", (input) => { view.only = input.checked; });
  set("tiers", "change", (input) => { view.tiers[input.checked ? "add" : "delete"](Number(input.value)); });
  control("play").addEventListener("click", () => play(clock === null));
  document.querySelectorAll("#turning button").forEach((button) =>
    button.addEventListener("click", () => look(button.dataset.key)));
  control("controls").addEventListener("submit", (event) => event.preventDefault());
  Object.values(content.palette.tiers).forEach((colour, tier) => {
    Object.assign(document.querySelectorAll("#tiers i")[tier].style, { borderColor: colour, borderTopStyle: ["dotted", "solid", "dashed"][tier] });
  });
  window.addEventListener("resize", () => draw());
  matchMedia("screen and (prefers-color-scheme: dark)").addEventListener("change", () => { draw(); drawCharts(content); });
  // Paper cannot be opened.
  const closed = [...document.querySelectorAll("details")];
  window.addEventListener("beforeprint", () => closed.forEach((each) => { each.dataset.was = each.open; each.open = true; }));
  window.addEventListener("afterprint", () => closed.forEach((each) => { each.open = each.dataset.was === "true"; }));
  window.addEventListener("load", () => drawCharts(content));
  go(Math.floor(panes[0].rollout.steps / 2));
}

connect();
