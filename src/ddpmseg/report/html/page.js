"use strict";
// Texts of the study become text nodes and attributes only, never markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { blocks, timesteps, metrics, classes, examples, clusters } = data;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const byId = new Map(metrics.map((metric) => [metric.id, metric]));
  const state = {
    metric: metrics[0],
    at: null, // the cell pointed at, as [row, column]
    block: null, // the row whose line is looked at
    chosen: null, // the cell whose masks are shown
    hidden: new Set(),
  };
  const charts = [];

  // Small helpers

  function element(name, attributes = {}, ...children) {
    return fill(document.createElement(name), attributes, children);
  }
  function shape(name, attributes = {}, ...children) {
    return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  }
  function fill(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  const find = (selector) => document.querySelector(selector);
  const percent = (value) => (value === null ? "–" : (100 * value).toFixed(1));
  const share = (value) => (value > 0 && value < 0.0005 ? "<0.1%" : percent(value) + "%");
  // A network without timesteps has one column, and names for its blocks instead.
  const block = (row) => `block ${blocks[row]}` + (data.timeless && data.names[row] ? ` (${data.names[row]})` : "");
  const place = ([row, column]) => block(row) + (data.timeless ? "" : `, t = ${timesteps[column]}`);
  const same = (a, b) => a === b || (a && b && a[0] === b[0] && a[1] === b[1]);
  const valueAt = (metric, [row, column]) => metric.mean[row][column];
  const rgb = (channels) => `rgb(${channels.join(" ")})`;

  // Colours: lightness runs one way in each ramp, so that they work in grey too.

  const RAMPS = {
    light: {
      value: ["#f3efdc", "#d3e7c5", "#93d0bb", "#4aa9bd", "#2676ab", "#24418d", "#161c4e"],
      block: ["#2a1b78", "#6a1fa0", "#a6258f", "#d03d6a", "#e2663c", "#d79217"],
    },
    dark: {
      value: ["#20252f", "#24396a", "#25629b", "#3092a9", "#5fbfac", "#b1ddaf", "#f6f4cf"],
      block: ["#7d74ff", "#b072f5", "#e276cf", "#ff8a96", "#ffb067", "#ffe184"],
    },
  };
  const channels = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
  function ramp(kind) {
    const stops = RAMPS[dark.matches ? "dark" : "light"][kind].map(channels);
    return (share) => {
      const position = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
      const low = Math.min(Math.floor(position), stops.length - 2);
      return stops[low].map((c, i) => Math.round(c + (stops[low + 1][i] - c) * (position - low)));
    };
  }
  const blockColour = (row) => rgb(ramp("block")(blocks.length > 1 ? row / (blocks.length - 1) : 0));
  function inkOn([red, green, blue]) {
    return 0.3 * red + 0.59 * green + 0.11 * blue > 140 ? "#14161b" : "#ffffff";
  }
  function extent(metric) {
    const values = metric.mean.flat().filter((value) => value !== null);
    return values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
  }
  const within = (value, [low, high]) => (high > low ? (value - low) / (high - low) : 1);

  // One state, shown by all charts

  function pointAt(at, event) {
    if (!same(at, state.at)) {
      state.at = at;
      state.block = at && at[0];
      for (const chart of charts) chart.mark();
    }
    showTip(at, event);
  }
  function lookAtBlock(row) {
    state.block = row;
    for (const chart of charts) chart.mark();
  }
  function choose(at) {
    if (!examples || !at) return;
    state.chosen = at;
    for (const chart of charts) chart.mark();
    drawMasks();
    // On a narrow screen the column of the chosen cell is out of sight.
    const scroll = find("#masks .scroll");
    scroll.scrollLeft = scroll.scrollWidth;
  }
  function redraw(which = () => true) {
    const chosen = charts.filter(which);
    // All widths before any drawing: a width read in between makes the browser lay out again.
    const widths = chosen.map((chart) => chart.host && chart.host.clientWidth);
    chosen.forEach((chart, index) => chart.draw(widths[index]));
  }

  const tip = find("#tip");
  function showTip(at, event) {
    tip.hidden = !at || !event;
    if (tip.hidden) return;
    const metric = event.metric || state.metric;
    const value = valueAt(metric, at);
    const spread = metric.spread && metric.spread[at[0]][at[1]];
    const shown = value === null ? "missing" : percent(value) + (spread === null ? "" : ` ± ${percent(spread)}`) + " %";
    const key = at.join() + metric.id;
    if (tip.dataset.key !== key) {
      tip.dataset.key = key;
      tip.replaceChildren(element("p", {}, place(at)), element("b", {}, shown), element("p", {}, metric.label));
      const uri = examples && maskOf(at);
      if (uri) {
        const strip = element("div", { class: "strip" });
        for (let index = 0; index < Math.min(4, examples.count); index++) strip.append(tile({ uri, index }));
        tip.append(strip);
      }
    }
    const { width, height } = tip.getBoundingClientRect();
    const left = event.x + 18 + width < innerWidth ? event.x + 18 : event.x - 18 - width;
    const top = event.y + 14 + height < innerHeight ? event.y + 14 : event.y - 14 - height;
    const clamp = (value, high) => Math.max(8, Math.min(value, high));
    tip.style.transform = `translate(${clamp(left, innerWidth - width - 8)}px, ${clamp(top, innerHeight - height - 8)}px)`;
    if (event.spoken) find("#live").textContent = `${place(at)}: ${shown}`;
  }

  // Pointer, touch and keys in a chart: `nearest(x, y)` gives a cell or null, `centre` its position.
  function interact(svg, nearest, centre, metricOf) {
    const locate = (event) => {
      const box = svg.getBoundingClientRect();
      return nearest(event.clientX - box.left, event.clientY - box.top);
    };
    const tell = (event) => pointAt(locate(event), { x: event.clientX, y: event.clientY, metric: metricOf() });
    svg.addEventListener("pointermove", tell);
    svg.addEventListener("pointerdown", tell);
    svg.addEventListener("pointerleave", (event) => event.pointerType === "touch" || pointAt(null));
    svg.addEventListener("click", (event) => choose(locate(event)));
    svg.addEventListener("blur", () => pointAt(null));
    svg.addEventListener("keydown", (event) => {
      const steps = data.timeless
        ? { ArrowLeft: [-1, 0], ArrowRight: [1, 0] }
        : { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
      if (event.key === "Escape") return pointAt(null);
      if (event.key === "Enter" || event.key === " ") {
        choose(state.at);
      } else if (event.key in steps) {
        const limits = [blocks.length, timesteps.length];
        const start = state.at || metricOf().best || [0, 0];
        const step = state.at ? steps[event.key] : [0, 0];
        const at = start.map((value, axis) => Math.min(Math.max(value + step[axis], 0), limits[axis] - 1));
        const box = svg.getBoundingClientRect();
        const [x, y] = centre(at);
        pointAt(at, { x: box.left + x, y: box.top + y, metric: metricOf(), spoken: true });
      } else return;
      event.preventDefault();
    });
  }
  document.addEventListener("pointerdown", (event) => event.target.closest("svg") || pointAt(null));

  // Lines of a metric against the timestep

  function ticks(low, high, count) {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((candidate) => candidate >= rough);
    const values = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) values.push(i * step);
    return { step, values };
  }

  function curveChart(host, metricOf, { shortest, tallest, labelled }) {
    const svg = shape("svg", { role: "img", tabindex: 0 });
    host.append(svg);
    let x, y, height, marks;
    const known = (metric, row, column) => metric.mean[row][column] !== null;

    function draw(width) {
      const metric = metricOf();
      const controls = metric.controls;
      const [room, letters] = width < 520 ? [84, 9] : [136, 18];  // of the labels of the controls
      height = Math.round(Math.max(shortest, Math.min(width * 0.46, tallest)));
      const edge = { left: 36, right: controls.length ? room : 14, top: 26, bottom: 42 };
      const [lowT, highT] = [timesteps[0], timesteps.at(-1)];
      x = (t) => edge.left + 6 + ((width - edge.left - edge.right - 12) * (t - lowT)) / (highT - lowT);

      const low = Math.min(extent(metric)[0], ...controls.map((control) => control.value));
      const reach = metric.mean.flatMap((means, row) => means.map((mean, column) => mean + ((metric.spread && metric.spread[row][column]) || 0)));
      const high = Math.max(...reach, ...controls.map((control) => control.value), 0.01);
      const base = low > 0.5 * high ? low - 0.15 * (high - low) : 0;
      const { step, values } = ticks(100 * base, 100 * high * 1.04, height > 300 ? 6 : 4);
      const start = base ? 100 * base : 0;
      const end = 100 * high * 1.04;
      y = (value) => height - edge.bottom - ((height - edge.bottom - edge.top) * (100 * value - start)) / (end - start);

      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("height", height);
      const best = metric.best ? ` Best: ${percent(valueAt(metric, metric.best))} % at ${place(metric.best)}.` : "";
      svg.setAttribute("aria-label", `${metric.label} in percent against timestep, one line per decoder block.${best} Arrow keys move between cells.`);

      const frame = shape("g", { "aria-hidden": true });
      for (const value of values) {
        const at = y(value / 100);
        frame.append(shape("line", { class: "gridline", x1: edge.left, x2: width - edge.right, y1: at, y2: at }));
        frame.append(shape("text", { x: edge.left - 7, y: at + 4, "text-anchor": "end" }, value.toFixed(Number.isInteger(step) ? 0 : step < 0.1 ? 2 : 1)));
      }
      const floor = height - edge.bottom;
      frame.append(shape("line", { class: "axis", x1: edge.left, x2: width - edge.right, y1: floor, y2: floor }));
      for (const t of ticks(lowT, highT, Math.max(3, Math.min(10, width / 65))).values) {
        frame.append(shape("line", { class: "axis", x1: x(t), x2: x(t), y1: floor, y2: floor + 5 }));
        frame.append(shape("text", { x: x(t), y: floor + 18, "text-anchor": "middle" }, t.toFixed(0)));
      }
      if (labelled) frame.append(shape("text", { x: 0, y: 12 }, `${metric.label} (%)`));
      frame.append(shape("text", { x: width - edge.right, y: height - 4, "text-anchor": "end" }, "timestep t, more noise →"));

      let nearestLabel = Infinity;
      for (const control of [...controls].sort((a, b) => a.value - b.value)) {
        const at = y(control.value);
        const name = control.name.length > letters ? control.name.slice(0, letters - 1) + "…" : control.name;
        nearestLabel = Math.min(at + 4, nearestLabel - 14);
        frame.append(
          shape("line", { class: "control", x1: edge.left, x2: width - edge.right, y1: at, y2: at }),
          shape("text", { x: width - edge.right + 7, y: nearestLabel, class: "control-label" },
            `${name} ${percent(control.value)}`,
            shape("title", {}, `${control.name}: best cell ${percent(control.value)} % at block ${control.block}, t = ${control.timestep}`)),
        );
      }

      const lines = shape("g", { "aria-hidden": true });
      for (const [row, means] of metric.mean.entries()) {
        if (state.hidden.has(row)) continue;
        const curve = shape("g", { class: "curve", "data-row": row, stroke: blockColour(row), fill: blockColour(row) });
        let path = "";
        let whiskers = "";
        means.forEach((mean, column) => {
          if (mean === null) return;
          const [px, py] = [x(timesteps[column]).toFixed(1), y(mean).toFixed(1)];
          path += (column && known(metric, row, column - 1) ? "L" : "M") + px + " " + py;
          const spread = metric.spread && metric.spread[row][column];
          if (spread) whiskers += `M${px} ${y(mean - spread).toFixed(1)}V${y(mean + spread).toFixed(1)}`;
        });
        if (whiskers) curve.append(shape("path", { class: "whiskers", d: whiskers }));
        curve.append(shape("path", { class: "line", d: path }));
        means.forEach((mean, column) => {
          if (mean !== null) curve.append(shape("circle", { cx: x(timesteps[column]).toFixed(1), cy: y(mean).toFixed(1), r: width > 600 ? 2.1 : 1.6, stroke: "none" }));
        });
        lines.append(curve);
      }
      if (metric.best && !state.hidden.has(metric.best[0])) {
        const [row, column] = metric.best;
        const px = x(timesteps[column]);
        const anchor = px > width * 0.6 ? "end" : "start";
        const text = `best: ${place(metric.best)}: ${percent(metric.mean[row][column])}`;
        lines.append(shape("circle", { class: "ring", cx: px, cy: y(metric.mean[row][column]), r: 5 }));
        lines.append(shape("text", { class: "strong halo", x: px + (anchor === "end" ? -10 : 10), y: y(metric.mean[row][column]) - 8, "text-anchor": anchor }, text));
      }
      marks = shape("g", { "aria-hidden": true });
      svg.replaceChildren(frame, lines, marks);
      mark();
    }

    function mark() {
      const metric = metricOf();
      svg.classList.toggle("focused", state.block !== null && !state.hidden.has(state.block));
      for (const curve of svg.querySelectorAll(".curve")) curve.classList.toggle("on", Number(curve.dataset.row) === state.block);
      marks.replaceChildren();
      if (!state.at) return;
      const [row, column] = state.at;
      const px = x(timesteps[column]);
      marks.append(shape("line", { class: "hairline", x1: px, x2: px, y1: 26, y2: height - 42 }));
      if (known(metric, row, column)) {
        for (const kind of ["ring under", "ring"]) marks.append(shape("circle", { class: kind, cx: px, cy: y(metric.mean[row][column]), r: 5 }));
      }
    }

    function nearest(px, py) {
      const metric = metricOf();
      const offset = (column) => Math.abs(x(timesteps[column]) - px);
      const column = timesteps.reduce((least, _, index) => (offset(index) < offset(least) ? index : least), 0);
      const rows = blocks.map((_, row) => row).filter((row) => !state.hidden.has(row) && known(metric, row, column));
      if (!rows.length) return null;
      const away = (row) => Math.abs(y(metric.mean[row][column]) - py);
      return [rows.reduce((least, row) => (away(row) < away(least) ? row : least)), column];
    }
    const centre = ([row, column]) => [x(timesteps[column]), y(valueAt(metricOf(), [row, column]) || 0)];
    interact(svg, nearest, centre, metricOf);
    return { host, draw, mark, hasLines: true, follows: labelled };
  }

  // A metric by block, where there are no timesteps

  function barChart(host, metricOf, { small = false, follows = false, tall = 330 } = {}) {
    const svg = shape("svg", { role: "img", class: "bars" });
    if (!small) svg.setAttribute("tabindex", 0);
    host.append(svg);
    const named = !small && data.names.some(Boolean);
    const longest = Math.max(...data.names.map((name) => name.length));
    const edge = { left: small ? 0 : 36, right: small ? 2 : 14, top: small ? 4 : 26, bottom: small ? 2 : named ? 46 + 6.3 * Math.min(longest, 18) : 42 };
    let step, height, y, marks;

    function draw(width) {
      const metric = metricOf();
      const controls = small ? [] : metric.controls;
      edge.right = controls.length ? 84 : small ? 2 : 14;
      height = small ? 64 : tall;
      step = Math.min((width - edge.left - edge.right) / blocks.length, small ? 40 : 84);
      const right = edge.left + step * blocks.length;
      const whisker = (row) => (metric.spread && metric.spread[row][0]) || 0;
      const high = Math.max(...metric.mean.map(([mean], row) => (mean || 0) + whisker(row)), ...controls.map((control) => control.value), 0.01) * 1.08;
      const floor = height - edge.bottom;
      y = (value) => floor - ((floor - edge.top) * value) / high;
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("height", height);
      const best = metric.best ? ` Best: ${percent(valueAt(metric, metric.best))} % at ${place(metric.best)}.` : "";
      svg.setAttribute("aria-label", `${metric.label} in percent, a bar per block.${best}${small ? "" : " Arrow keys move between blocks."}`);

      const frame = shape("g", { "aria-hidden": true });
      if (!small) {
        const { step: apart, values } = ticks(0, 100 * high, height > 300 ? 6 : 4);
        for (const value of values) {
          const at = y(value / 100);
          frame.append(shape("line", { class: "gridline", x1: edge.left, x2: right, y1: at, y2: at }));
          frame.append(shape("text", { x: edge.left - 7, y: at + 4, "text-anchor": "end" }, value.toFixed(Number.isInteger(apart) ? 0 : 1)));
        }
        frame.append(shape("text", { x: 0, y: 12 }, `${metric.label} (%)`));
        frame.append(shape("text", { x: right, y: height - 4, "text-anchor": "end" }, "block"));
      }
      frame.append(shape("line", { class: "axis", x1: edge.left, x2: right, y1: floor, y2: floor }));
      let nearestLabel = Infinity;
      for (const control of [...controls].sort((a, b) => a.value - b.value)) {
        const at = y(control.value);
        nearestLabel = Math.min(at + 4, nearestLabel - 14);
        frame.append(
          shape("line", { class: "control", x1: edge.left, x2: right, y1: at, y2: at }),
          shape("text", { x: right + 7, y: nearestLabel, class: "control-label" }, `${control.name.slice(0, 9)} ${percent(control.value)}`),
        );
      }
      const bars = shape("g", { "aria-hidden": true });
      const gap = Math.min(6, step * 0.18);
      const every = Math.ceil(15 / step);
      metric.mean.forEach(([mean], row) => {
        const left = edge.left + row * step + gap / 2;
        const middle = edge.left + (row + 0.5) * step;
        if (mean === null) {
          bars.append(shape("rect", { class: "missing", x: left, y: edge.top, width: step - gap, height: floor - edge.top }));
        } else {
          const isBest = metric.best && metric.best[0] === row;
          bars.append(shape("rect", { x: left, y: y(mean), width: step - gap, height: floor - y(mean), fill: rgb(ramp("value")(isBest ? 0.85 : 0.52)) }));
          const spread = whisker(row);
          if (spread) bars.append(shape("path", { class: "whiskers", stroke: "currentColor", d: `M${middle} ${y(mean - spread)}V${y(mean + spread)}` }));
          if (!small && (step >= 30 || isBest)) bars.append(shape("text", { class: isBest ? "strong" : "", x: middle, y: y(mean + spread) - 5, "text-anchor": "middle" }, percent(mean)));
        }
        if (small || row % every) return;
        const name = data.names[row].length > 18 ? data.names[row].slice(0, 17) + "…" : data.names[row];
        if (named) frame.append(shape("text", { transform: `translate(${middle + 4} ${floor + 8}) rotate(-90)`, "text-anchor": "end" }, `${blocks[row]}  ${name}`));
        else frame.append(shape("text", { x: middle, y: floor + 16, "text-anchor": "middle" }, blocks[row]));
      });
      marks = shape("g", { "aria-hidden": true });
      svg.replaceChildren(hatching(), frame, bars, marks);
      mark();
    }

    function mark() {
      marks.replaceChildren();
      for (const [at, kind] of [[small ? null : state.chosen, "chosen"], [state.at, "pointed"]]) {
        if (!at) continue;
        const mean = valueAt(metricOf(), at) || 0;
        const box = { x: edge.left + at[0] * step, y: y(mean), width: step, height: height - edge.bottom - y(mean) };
        for (const part of ["under ", ""]) marks.append(shape("rect", { class: `ring ${part}${kind}`, ...box, rx: 1.5 }));
      }
    }
    function nearest(px) {
      const row = Math.floor((px - edge.left) / step);
      return row >= 0 && row < blocks.length ? [row, 0] : null;
    }
    const centre = (at) => [edge.left + (at[0] + 0.5) * step, y(valueAt(metricOf(), at) || 0)];
    interact(svg, nearest, centre, metricOf);
    return { host, draw, mark, follows };
  }

  // A metric by block and timestep

  function heatChart(host, metricOf, { small = false, rangeOf = extent } = {}) {
    const svg = shape("svg", { role: "img", class: "heat" });
    if (!small) svg.setAttribute("tabindex", 0);
    host.append(svg);
    let cellWidth, cellHeight, left, top, marks;

    function draw(width) {
      const metric = metricOf();
        const range = rangeOf(metric);
      const colour = ramp("value");
      const gap = small ? 0.5 : 1;
      left = small ? 0 : 52;
      top = small ? 0 : 22;
      cellWidth = Math.min((width - left - (small ? 2 : 0)) / timesteps.length, small ? 40 : 72);
      cellHeight = small ? Math.max(5, Math.min(cellWidth, 96 / blocks.length)) : Math.max(17, Math.min(cellWidth * 0.7, 30));
      const height = top + cellHeight * blocks.length + (small ? 1 : 22);
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("height", height);
      const best = metric.best ? ` Best: ${percent(valueAt(metric, metric.best))} % at ${place(metric.best)}.` : "";
      svg.setAttribute("aria-label", `${metric.label} in percent, decoder blocks by timesteps.${best}${small ? "" : " Arrow keys move between cells."}`);

      // Nothing but numbers goes in here. As markup thousands of cells are there at once.
      const cells = shape("g", { "aria-hidden": true });
      let markup = "";
      metric.mean.forEach((means, row) => means.forEach((mean, column) => {
        const [cx, cy] = corner([row, column]);
        const paint = mean === null ? null : colour(within(mean, range));
        const look = paint ? `class="cell" fill="${rgb(paint)}"` : 'class="cell missing"';
        markup += `<rect x="${cx.toFixed(2)}" y="${cy.toFixed(2)}" width="${(cellWidth - gap).toFixed(2)}" height="${(cellHeight - gap).toFixed(2)}" ${look}/>`;
        if (paint && !small && cellWidth >= 33) {
          markup += `<text class="value" x="${cx + (cellWidth - gap) / 2}" y="${cy + cellHeight / 2 + 3.5}" style="fill: ${inkOn(paint)}">${percent(mean)}</text>`;
        }
      }));
      cells.innerHTML = markup;
      const labels = shape("g", { "aria-hidden": true });
      if (!small) {
        const every = Math.ceil(11 / cellHeight);
        blocks.forEach((block, row) => row % every || labels.append(shape("text", { x: left - 8, y: corner([row, 0])[1] + cellHeight / 2 + 4, "text-anchor": "end" }, block)));
        const sparse = Math.ceil(30 / cellWidth);
        timesteps.forEach((t, column) => column % sparse || labels.append(shape("text", { x: corner([0, column])[0] + cellWidth / 2, y: height - 7, "text-anchor": "middle" }, t)));
        labels.append(shape("text", { x: 0, y: 12 }, "block"));
        labels.append(shape("text", { x: left - 8, y: height - 7, "text-anchor": "end" }, "t ="));
      }
      marks = shape("g", { "aria-hidden": true });
      svg.replaceChildren(hatching(), cells, labels, marks);
      if (!small) drawKey(metric, range);
      mark();
    }

    const corner = ([row, column]) => [left + column * cellWidth + (small ? 1 : 0), top + row * cellHeight + (small ? 0.5 : 0)];
    function outline(at, kind) {
      const [cx, cy] = corner(at);
      const gap = small ? 0.5 : 1;
      for (const part of ["under ", ""]) marks.append(shape("rect", { class: `ring ${part}${kind}`, x: cx, y: cy, width: cellWidth - gap, height: cellHeight - gap, rx: 1.5 }));
    }
    function mark() {
      marks.replaceChildren();
      const { best } = metricOf();
      if (best) outline(best, "top");
      if (state.chosen && !small) outline(state.chosen, "chosen");
      if (state.at) outline(state.at, "pointed");
    }
    function nearest(px, py) {
      const column = Math.floor((px - left) / cellWidth);
      const row = Math.floor((py - top) / cellHeight);
      return row >= 0 && column >= 0 && row < blocks.length && column < timesteps.length ? [row, column] : null;
    }
    const centre = (at) => corner(at).map((value, axis) => value + [cellWidth, cellHeight][axis] / 2);
    interact(svg, nearest, centre, metricOf);
    return { host, draw, mark, follows: !small };
  }

  function hatching() {
    return shape("defs", {}, shape("pattern", { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, shape("path", { d: "M0 0V5" })));
  }
  function drawKey(metric, range) {
    const colours = [0, 1, 2, 3, 4, 5, 6].map((stop) => rgb(ramp("value")(stop / 6)));
    const bar = element("i", { class: "ramp" });
    bar.style.background = `linear-gradient(90deg, ${colours.join(", ")})`;
    const sample = (kind) => shape("svg", { "aria-hidden": true }, shape("rect", { class: kind, x: 1, y: 1, width: 14, height: 12, rx: 1.5 }));
    const items = [element("span", {}, percent(range[0]), bar, percent(range[1]) + " %"), element("span", {}, sample("ring"), "best")];
    if (state.chosen) items.push(element("span", {}, sample("ring chosen"), element("a", { href: "#masks" }, `chosen: see masks of ${place(state.chosen)} ↓`)));
    if (metric.mean.flat().includes(null)) items.push(element("span", {}, sample("missing"), "missing"));
    find("#heat-key").replaceChildren(...items);
  }

  // Masks: one mosaic per cell, decoded when it is first shown

  const decoded = new Map();
  function mosaic(uri) {
    if (!decoded.has(uri)) {
      const image = new Image();
      image.src = uri;
      decoded.set(uri, image.decode().then(() => image));
    }
    return decoded.get(uri);
  }
  const look = { alone: null, pinned: null, over: false };
  const maskOf = ([row, column]) => examples.masks[`${blocks[row]},${timesteps[column]}`];

  function tile({ uri, index, isMask = false, label = "" }) {
    const canvas = element("canvas", { width: 1, height: 1, ...(label ? { role: "img", "aria-label": label } : { "aria-hidden": true }) });
    const context = canvas.getContext("2d", { willReadFrequently: isMask });
    let latest = 0;
    canvas.paint = async () => {
      const turn = ++latest;
      const [image, photo] = await Promise.all([mosaic(uri), mosaic(examples.images)]);
      // Decoding takes a while, in which the page may have asked for something else.
      if (turn !== latest) return;
      const side = (canvas.width = canvas.height = image.height);
      const lay = (mosaic) => context.drawImage(mosaic, index * mosaic.height, 0, mosaic.height, mosaic.height, 0, 0, side, side);
      lay(image);
      if (isMask && look.alone !== null) fade(context, side, classes[look.alone].rgb, look.over ? 0 : 36);
      if (!isMask || !look.over) return;
      context.globalCompositeOperation = "destination-in";
      context.fillStyle = "rgb(0 0 0 / 0.62)";
      context.fillRect(0, 0, side, side);
      context.globalCompositeOperation = "destination-over";
      lay(photo);
    };
    canvas.paint();
    return canvas;
  }
  function fade(context, side, [red, green, blue], alpha) {
    const pixels = context.getImageData(0, 0, side, side);
    const values = pixels.data;
    for (let i = 0; i < values.length; i += 4) {
      if (values[i] !== red || values[i + 1] !== green || values[i + 2] !== blue) values[i + 3] = alpha;
    }
    context.putImageData(pixels, 0, 0);
  }

  const asCell = ([block, timestep]) => [blocks.indexOf(block), timesteps.indexOf(timestep)];
  function drawHero() {
    const best = asCell(data.notable.best);
    const columns = [["image", examples.images], ["truth", examples.truths], [place(best), maskOf(best)]];
    const hero = find("#hero");
    for (let index = 0; index < Math.min(3, examples.count); index++) {
      for (const [name, uri] of columns) hero.append(uri ? tile({ uri, index, label: `${name}, example ${index + 1}` }) : element("span"));
    }
    for (const [name] of columns) hero.append(element("span", {}, name));
  }
  function drawMasks() {
    const panel = find(".masks");
    const columns = [
      { title: "image", uri: examples.images },
      { title: "truth", uri: examples.truths, isMask: true },
      ...["best", "median", "worst"].map((title) => ({ title, at: asCell(data.notable[title]) })),
      { title: "chosen", at: state.chosen },
    ];
    panel.replaceChildren();
    for (const column of columns) {
      const head = element("div", { class: "head" }, element("b", {}, column.title));
      if (column.at) head.append(place(column.at), element("br"), `mIoU ${percent(valueAt(byId.get("miou"), column.at))} %`);
      panel.append(head);
    }
    for (let index = 0; index < examples.count; index++) {
      for (const column of columns) {
        const uri = column.uri || (column.at && maskOf(column.at));
        const where = column.at ? `${column.title} cell, ${place(column.at)}` : column.title;
        if (uri) panel.append(tile({ uri, index, isMask: column.isMask || Boolean(column.at), label: `${where}, example ${index + 1}` }));
        else panel.append(element("div", { class: "blank" }, column.at ? "no mask kept" : index ? "" : "press a cell in a chart"));
      }
    }
    const key = find("#heat-key");
    if (key) drawKey(state.metric, extent(state.metric));
  }
  function repaint() {
    for (const canvas of find(".masks").querySelectorAll("canvas")) canvas.paint();
  }
  function tellThinning(id, step) {
    const note = ` To keep this page small, one pixel in ${step} is shown in each direction.`;
    if (step > 1) find(`#${id} figcaption`).append(note);
  }
  function setUpMasks() {
    const legend = find("#class-legend");
    const show = (index) => {
      look.alone = index;
      repaint();
    };
    const buttons = classes.map((entry, index) => {
      const swatch = element("i");
      swatch.style.background = rgb(entry.rgb);
      const button = element("button", { type: "button", "aria-pressed": false, title: entry.name }, swatch, element("span", {}, entry.name));
      button.addEventListener("pointerenter", (event) => event.pointerType === "touch" || show(index));
      button.addEventListener("pointerleave", (event) => event.pointerType === "touch" || show(look.pinned));
      button.addEventListener("click", () => {
        look.pinned = look.pinned === index ? null : index;
        buttons.forEach((other, i) => other.setAttribute("aria-pressed", i === look.pinned));
        show(look.pinned);
      });
      return button;
    });
    legend.append(...buttons);
    find("#over").addEventListener("change", (event) => {
      look.over = event.target.checked;
      repaint();
    });
    find("#over").checked = false;
    tellThinning("masks", examples.step);
    drawHero();
    drawMasks();
  }

  // The metric and the blocks shown

  function setUpMetrics() {
    const select = find("#metric");
    for (const kind of new Set(metrics.map((metric) => metric.kind))) {
      const group = element("optgroup", { label: kind });
      for (const metric of metrics) if (metric.kind === kind) group.append(element("option", { value: metric.id }, metric.label));
      select.append(group);
    }
    // Browsers keep the choice of a form over a reload, the rest of the page starts afresh.
    select.value = state.metric.id;
    select.addEventListener("change", () => showMetric(select.value));
    showMetric(state.metric.id);
    redraw((chart) => !chart.follows);
  }
  function showMetric(id) {
    state.metric = byId.get(id);
    find("#metric").value = id;
    for (const name of document.querySelectorAll(".metric-name")) name.textContent = state.metric.label;
    const { best } = state.metric;
    find("#best").replaceChildren();
    if (best) {
      const spread = state.metric.spread && state.metric.spread[best[0]][best[1]];
      const value = percent(valueAt(state.metric, best)) + (typeof spread === "number" ? ` ± ${percent(spread)}` : "") + " %";
      find("#best").append("best ", element("strong", {}, value), ` at ${place(best)}`);
    }
    redraw((chart) => chart.follows);
  }
  function setUpBlocks() {
    const legend = find("#blocks");
    legend.classList.add("blocks-off");
    const buttons = blocks.map((block, row) => {
      const button = element("button", { type: "button", "aria-label": `block ${block}` }, element("i"), String(block));
      button.addEventListener("pointerenter", () => lookAtBlock(row));
      button.addEventListener("pointerleave", () => lookAtBlock(null));
      button.addEventListener("focus", () => lookAtBlock(row));
      button.addEventListener("blur", () => lookAtBlock(null));
      button.addEventListener("click", () => {
        if (!state.hidden.delete(row)) state.hidden.add(row);
        redraw((chart) => chart.hasLines);
      });
      return button;
    });
    const all = element("button", { type: "button", class: "plain" });
    all.addEventListener("click", () => {
      if (state.hidden.size) state.hidden.clear();
      else blocks.forEach((_, row) => state.hidden.add(row));
      redraw((chart) => chart.hasLines);
    });
    legend.append(element("span", {}, blocks.length > 1 ? "block, deepest first" : "block"), ...buttons, all);
    charts.push({
      draw() {
        buttons.forEach((button, row) => {
          button.firstChild.style.background = blockColour(row);
          button.setAttribute("aria-pressed", !state.hidden.has(row));
          button.classList.toggle("off", state.hidden.has(row));
        });
        all.textContent = state.hidden.size ? "show all" : "hide all";
      },
      mark() {},
      hasLines: true,
    });
  }

  // Classes

  function setUpClasses() {
    const panel = find(".multiples");
    if (panel) {
      const oneScale = find("#one-scale");
      const ranked = data.ranked.map((label) => classes[label]);
      const whole = () => {
        const ranges = ranked.map((entry) => extent(byId.get(entry.metric)));
        return [Math.min(...ranges.map((range) => range[0])), Math.max(...ranges.map((range) => range[1]))];
      };
      const rangeOf = (metric) => (oneScale && oneScale.checked ? whole() : extent(metric));
      for (const entry of ranked) {
        const metric = byId.get(entry.metric);
        const name = element("button", { type: "button", title: `Chart ${entry.name} above` }, entry.name);
        name.addEventListener("click", () => {
          showMetric(metric.id);
          find(".explore").scrollIntoView();
        });
        const host = element("div", { class: "chart" });
        const top = element("div", { class: "top" }, element("strong", {}, percent(valueAt(metric, metric.best)) + " %"), ` ${place(metric.best)}`);
        const area = element("span", { class: "area", title: "share of all test pixels" }, share(entry.area));
        panel.append(element("div", {}, element("div", { class: "name" }, name, area), host, top));
        charts.push(data.timeless ? barChart(host, () => metric, { small: true }) : heatChart(host, () => metric, { small: true, rangeOf }));
      }
      if (oneScale) {
        oneScale.checked = false;
        oneScale.addEventListener("change", () => redraw());
      }
    }
    const rows = data.ranked.map((label) => {
      const { name, area, metric, rgb: colour } = classes[label];
      const { best, mean } = byId.get(metric);
      const [where, value] = [timesteps[best[1]], mean[best[0]][best[1]]];
      return { colour, values: data.timeless ? [name, area, block(best[0]), value] : [name, area, blocks[best[0]], where, value] };
    });
    const titles = ["class", "area (%)", "best block", ...(data.timeless ? [] : ["best t"]), "best IoU (%)"];
    const formats = [String, (area) => share(area).slice(0, -1), String, ...(data.timeless ? [] : [String]), percent];
    find("#class-table").append(table(`Best ${data.timeless ? "block" : "cell"} of every class`, titles, rows, formats));
  }

  function table(caption, titles, rows, formats) {
    const body = element("tbody");
    const write = () => body.replaceChildren(...rows.map(({ values, colour }) => {
      const cells = values.map((value, column) => element("td", typeof value === "string" ? { class: "text" } : {}, value === null ? "–" : formats[column](value)));
      if (colour) {
        const swatch = element("i");
        swatch.style.background = rgb(colour);
        cells[0].prepend(swatch);
      }
      return element("tr", {}, ...cells);
    }));
    const heads = titles.map((title, column) => {
      const button = element("button", { type: "button" }, title);
      const isText = typeof rows[0].values[column] === "string";
      const head = element("th", { scope: "col", ...(isText ? { class: "text" } : {}) }, button);
      button.addEventListener("click", () => {
        const falling = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : (a ?? -1) - (b ?? -1));
        rows.sort((a, b) => compare(a.values[column], b.values[column]) * (falling ? -1 : 1));
        write();
      });
      return head;
    });
    write();
    return element("table", { "aria-label": caption }, element("thead", {}, element("tr", {}, ...heads)), body);
  }

  // Clusters and components

  function setUpClusters() {
    const show = { kind: "labels", image: 0 };
    const panel = find(".maps");
    const across = data.timeless ? clusters.blocks.length + 1 : clusters.timesteps.length;
    panel.style.gridTemplateColumns = `${data.timeless ? "" : "max-content "}repeat(${across}, minmax(58px, 150px))`;
    const picture = (src, alt) => element("img", { src, alt });
    function draw() {
      const { kind, image } = show;
      if (data.timeless) drawRow(kind, image);
      else drawGrid(kind, image);
      for (const button of kinds) button.setAttribute("aria-pressed", button.dataset.kind === kind);
      pictures.forEach((button, index) => button.setAttribute("aria-pressed", index === image));
    }
    function drawRow(kind, image) {
      const what = kind === "labels" ? "clusters" : "principal components";
      const heads = ["image", ...clusters.blocks.map((number) => (blocks.includes(number) ? block(blocks.indexOf(number)) : `block ${number}`))];
      const parts = [picture(clusters.noised[image][0], `image ${image + 1}`), ...clusters.blocks.map((number, row) => picture(clusters[kind][image][row][0], `${what} of block ${number}`))];
      panel.replaceChildren(...heads.map((text) => element("span", { class: "column" }, text)), ...parts);
    }
    function drawGrid(kind, image) {
      const nodes = [element("span")];
      for (const t of clusters.timesteps) nodes.push(element("span", { class: "column" }, `t = ${t}`));
      const noised = element("span", { class: "row first" }, "image at t");
      nodes.push(noised, ...clusters.noised[image].map((src, column) => {
        const cell = picture(src, `image ${image + 1} noised at t = ${clusters.timesteps[column]}`);
        return element("div", { class: "first" }, cell);
      }));
      clusters.blocks.forEach((block, row) => {
        nodes.push(element("span", { class: "row" }, `block ${block}`));
        const what = kind === "labels" ? "clusters" : "principal components";
        clusters[kind][image][row].forEach((src, column) => nodes.push(picture(src, `${what} of block ${block} at t = ${clusters.timesteps[column]}`)));
      });
      panel.replaceChildren(...nodes);
    }
    const kinds = [...document.querySelectorAll(".switch button")];
    for (const button of kinds) {
      button.addEventListener("click", () => {
        show.kind = button.dataset.kind;
        draw();
      });
    }
    const pictures = clusters.images.map((src, image) => {
      const button = element("button", { type: "button", "aria-label": `image ${image + 1}` }, picture(src, ""));
      button.addEventListener("click", () => {
        show.image = image;
        draw();
      });
      return button;
    });
    find(".picker").append(...pictures);
    tellThinning("clusters", clusters.step);
    draw();
  }

  // The data itself, the command, the way around

  function setUpCells() {
    const text = [data.columns, ...data.rows].map((row) => row.map((value) => value ?? "").join(",")).join("\n") + "\n";
    find("#download").href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    const details = find("#cells details");
    details.addEventListener("toggle", () => {
      const host = find("#cells .table");
      if (!details.open || host.firstChild) return;
      const formats = data.columns.map((name, column) => (column < 3 ? String : name === "seconds" ? (value) => value.toFixed(1) : percent));
      host.append(table("All cells", data.columns, data.rows.map((values) => ({ values })), formats));
    });
  }
  function setUpCopy() {
    find("#copy").addEventListener("click", async () => {
      const code = find("#command");
      getSelection().selectAllChildren(code);
      let done = true;
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        done = document.execCommand("copy");
      }
      find("#copy").textContent = done ? "Copied" : "Press Ctrl+C";
      setTimeout(() => { find("#copy").textContent = "Copy"; }, 2000);
    });
  }
  function setUpNavigation() {
    for (const figure of document.querySelectorAll("figure")) {
      find("#nav").append(element("a", { href: `#${figure.id}` }, figure.dataset.title));
    }
  }

  const has = (id) => Boolean(document.getElementById(id));
  if (has("curves")) {
    setUpBlocks();
    charts.push(curveChart(find("#curves .chart"), () => state.metric, { shortest: 290, tallest: 460, labelled: true }));
  }
  if (has("profile")) charts.push(barChart(find("#profile .chart"), () => state.metric, { follows: true }));
  if (has("heatmap")) charts.push(heatChart(find("#heatmap .chart"), () => state.metric));
  if (has("sizes")) {
    for (const host of document.querySelectorAll("#sizes .chart")) {
      const metricOf = () => byId.get(host.dataset.metric);
      charts.push(data.timeless ? barChart(host, metricOf, { tall: 270 }) : curveChart(host, metricOf, { shortest: 230, tallest: 300, labelled: false }));
    }
  }
  if (has("classes")) setUpClasses();
  if (has("metric")) setUpMetrics();
  if (has("masks")) setUpMasks();
  if (has("clusters")) setUpClusters();
  if (has("copy")) setUpCopy();
  setUpCells();
  setUpNavigation();
  dark.addEventListener("change", () => redraw());
  const widths = new WeakMap();
  const observer = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const before = widths.get(target);
      widths.set(target, contentRect.width);
      if (before !== undefined && before !== contentRect.width) redraw((chart) => chart.host === target);
    }
  });
  for (const chart of charts) if (chart.host) observer.observe(chart.host);
  document.documentElement.dataset.drawn = "true";
})();
