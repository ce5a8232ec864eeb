// What the page says of one cell, and the cube's legend: plain elements, no HTML from text.

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "style") Object.assign(made.style, value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function rounded(value) {
  const size = Math.abs(value);
  const text = value === 0 ? "0" : size >= 0.01 && size < 1000 ? value.toPrecision(3) : value.toExponential(1);
  return text.replaceAll("-", "−");
}

function percent(share) { return `${Math.round(100 * share)} %`; }

// A value as text, with a bar from the middle (or, of a share, from the left) whose length is the part of the largest.
function amount(text, part, middle) {
  const width = `${Math.min(1, Math.abs(part)) * (middle ? 50 : 100)}%`, left = middle ? (part < 0 ? `calc(50% - ${width})` : "50%") : "0";
  const bar = element("i", { "aria-hidden": "true" }, element("b", { style: { width, marginLeft: left } }));
  return element("span", { class: middle ? "amount signed" : "amount" }, element("span", { style: { minWidth: "4.5em" } }, text), bar);
}

function arrivalText(arrival, step) {
  if (arrival < 0) return "out of it: no signal ever arrives";
  return `from step ${arrival} on (${arrival <= step ? "inside" : "outside"} at step ${step})`;
}

function neighboursText(found, tier) {
  const places = found.slice(0, 12).map(({ place }) => `(${place.join(",\u00a0")})`).join(" ");
  const own = tier === 0 ? "itself" : "", more = found.length > 12 ? " …" : "";
  return [own, found.length ? `${found.length}: ${places}${more}` : tier === 0 ? "" : "none"].filter(Boolean).join(" and ");
}

function inspect(box, cube, view) {
  const { rollout, chosen } = cube;
  if (chosen === null) {
    box.replaceChildren(element("p", { class: "hint" }, "No cell is chosen. Click one, or press an arrow key in the cube."));
    return "";
  }
  const step = Math.min(view.step, rollout.steps), place = rollout.place(chosen);
  const signal = rollout.level(rollout.signal[rollout.at(view.row, step) + chosen]);
  const weights = rollout.weights(view.row, step, chosen), neighbours = rollout.neighbours(chosen);
  const port = ["no port", "input port", "output port", "input and output port"][rollout.ports[chosen]];
  const rows = [
    ["Place", `x ${place[0]}, y ${place[1]}, z ${place[2]}; ${port}`],
    ["Light cone", arrivalText(rollout.arrival[chosen], step)],
    ["Signal", amount(rounded(signal), signal / rollout.top, false)],
    ...rollout.experts.map((name, k) => [`Gate: ${name}`, amount(percent(weights[k]), weights[k], false)]),
    ...["local", "functional", "distant"].map((name, tier) => [`Neighbours: ${name}`, neighboursText(neighbours[tier], tier)]),
    ...rollout.states(view.row, step, chosen).map((value, channel) =>
      [`Channel ${channel}`, amount(rounded(value), value / rollout.scale[channel], true)]),
  ];
  const body = rows.map(([name, value]) =>
    element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value)));
  const title = `The chosen cell of ${rollout.name} after step ${step}`;
  box.replaceChildren(element("table", {}, element("caption", {}, title), element("tbody", {}, ...body)));
  const most = weights.indexOf(Math.max(...weights));
  return `${rollout.name}: cell ${place.join(", ")}, ${port}, signal ${rounded(signal)}, gate mostly ${rollout.experts[most]} ${percent(weights[most])}`;
}

function legend(box, cube, view, palette) {
  const { rollout } = cube, dark = isDark();
  const dot = (colour, text, hollow) => element("span", {}, element("span", { class: "dot", style: hollow
    ? { border: `2px solid ${colour}` } : { background: colour } }), text);
  const bar = (flip) => {
    const colours = palette.signal.filter((_, k) => k % 15 === 0);
    if (flip) colours.reverse();
    return element("i", { class: "bar", "aria-hidden": "true", style: { background: `linear-gradient(90deg, ${colours})` } });
  };
  const parts = {
    signal: () => [`${rounded(rollout.top * 10 ** -SHOWN)} and less`, bar(!dark), `${rounded(rollout.top)}, the strongest (logarithmic)`,
      dot(inkOf("--idle"), "none")],
    gate: () => [...rollout.experts.map((name) => dot(palette.tiers[name], name)), "size: its weight", dot(inkOf("--idle"), "no signal")],
    arrival: () => ["step 0", bar(dark), `step ${rollout.last}`, "large: reached"],
  }[view.colour]();
  const ports = [dot(palette.input, "input port", true), dot(palette.output, "output port", true)];
  box.replaceChildren(...[...parts, ...ports, ...(view.front ? ["dashed ring: the front"] : [])].map((part) => element("span", {}, part)));
}
