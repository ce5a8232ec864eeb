// Curves and gate usage, by plotly; each has its words for those who do not see it.

function drawCharts(content) {
  const style = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: inkOf("--ink"), size: 13, family: getComputedStyle(document.body).fontFamily },
    margin: { l: 55, r: 15, t: 45, b: 80 }, legend: { orientation: "h", y: -0.3 } };
  const axis = { gridcolor: inkOf("--line"), zerolinecolor: inkOf("--line"), automargin: true };
  const colours = isDark() ? { train: "#56B4E9", validation: "#E69F00" } : { train: "#0072B2", validation: "#D55E00" };
  const [curves, gates] = ["curves", "gates"].map((id) => document.getElementById(id));
  const chart = (home, traces, title, x, y, words) => {
    const box = element("div", { class: "chart", role: "img", "aria-label": `${title}. ${words}` });
    home.append(box);
    const margin = { ...style.margin, b: traces.length > 1 ? 80 : 45 };
    const layout = { ...style, margin, title: { text: title, font: { size: 14, weight: 600 }, x: 0, xref: "paper" },
      xaxis: { ...axis, title: { text: x, standoff: 4 } }, yaxis: { ...axis, ...y } };
    Plotly.newPlot(box, traces, layout, { displayModeBar: false, responsive: true });
  };
  [curves, gates].forEach((home) => home.replaceChildren());

  const several = content.runs.length > 1;
  const panels = new Map();
  content.runs.forEach((run, number) => {
    for (const [name, series] of Object.entries(run.curves)) {
      const [, split, quantity] = name.match(/^(?:(.*)\/)?([^/]*)$/);
      if (!panels.has(quantity)) panels.set(quantity, []);
      panels.get(quantity).push({ x: series.map(([step]) => step), y: series.map(([, value]) => value),
        // Marks tell validation from training without colours, and a lone point draws no line.
        mode: series.filter(([, value]) => value !== null).length < 2 ? "markers" : split === "train" ? "lines" : "lines+markers",
        name: several ? `${split}, ${run.name}` : split ?? quantity,
        line: { color: colours[split] ?? inkOf("--accent"), dash: ["solid", "dash"][number], width: 2 } });
    }
  });
  for (const [quantity, traces] of panels) {
    const [label, better] = content.metrics[quantity] ?? [quantity, null];
    const found = traces.flatMap((trace) => trace.y).filter((value) => value !== null);
    const log = Math.min(...found) > 0 && Math.max(...found) > 20 * Math.min(...found);
    const words = traces.map(({ name, y }) => `${name}: from ${rounded(y[0] ?? NaN)} to ${rounded(y.at(-1) ?? NaN)}`).join("; ");
    chart(curves, traces, label, "update", { type: log ? "log" : "linear",
      title: { text: better ? `${better} is better` : "" } }, words);
  }
  if (!panels.size) curves.append(element("p", {}, "This run logged no curves."));

  const share = { range: [0, 1], tickformat: ".0%" };
  for (const run of content.runs) {
    const name = several ? `, ${run.name}` : "", { usage, experts } = run.cube;
    const over = (weights, x) => experts.map((expert, k) => ({ x, y: weights.map((step) => step[k]), name: expert,
      stackgroup: "one", mode: "lines", line: { color: content.palette.tiers[expert], width: 1 } }));
    const words = (weights) => experts.map((expert, k) => `${expert}: ${percent(weights[0][k])} to ${percent(weights.at(-1)[k])}`).join("; ");
    chart(gates, over(usage, usage.map((_, step) => step)), `Over the steps of a rollout${name}`, "step", share, words(usage));
    const epochs = experts.every((expert) => run.gates[expert])
      ? run.gates[experts[0]].map((_, k) => experts.map((expert) => run.gates[expert][k]?.[1] ?? null)) : [];
    if (epochs.length > 1)
      chart(gates, over(epochs, epochs.map((_, k) => k + 1)), `Over training, at the last step${name}`, "epoch", share, words(epochs));
  }
}
