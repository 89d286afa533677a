// The page: reads its data, draws, and follows the controls.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const sliders = ["a", "b", "steps", "tokens"];
const choices = ["other", "profile", "map", "gamma"];

function shape(parent, tag, attributes, content) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (content !== undefined) node.textContent = content;
  parent.appendChild(node);
  return node;
}

function element(parent, tag, className, content) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (content !== undefined) node.textContent = content; // text, never markup
  parent.appendChild(node);
  return node;
}

function round(x) {
  return Number.isFinite(x) ? String(Number(x.toPrecision(6))) : "infinite";
}

// --- pictures

const box = { left: 36, right: 312, top: 8, bottom: 190 };

function frame(svg, bottom, highest, xLabel, xHighest) {
  svg.replaceChildren();
  shape(svg, "path", { class: "axis", d: `M${box.left} ${box.top}V${bottom}H${box.right}` });
  shape(svg, "text", { x: box.left - 4, y: box.top + 8, "text-anchor": "end" }, highest);
  shape(svg, "text", { x: box.left - 4, y: bottom, "text-anchor": "end" }, "0");
  shape(svg, "text", { x: box.left, y: bottom + 14 }, "0");
  shape(svg, "text", { x: box.right, y: bottom + 14, "text-anchor": "end" }, xHighest);
  shape(svg, "text", { x: (box.left + box.right) / 2, y: bottom + 14, "text-anchor": "middle" }, xLabel);
}

function line(svg, className, values, highest, bottom) {
  const path = values.map((value, i) => {
    const x = box.left + (box.right - box.left) * i / (values.length - 1);
    const y = bottom - (bottom - box.top) * Math.min(1, value / highest);
    return `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
  });
  shape(svg, "path", { class: className, d: path.join("") });
}

const times = Array.from({ length: 201 }, (_, i) => i / 200);

function drawCurves(one, two) {
  const alpha = at("alpha"), slope = at("slope");
  frame(alpha, box.bottom, "1", "generation time t", "1");
  line(alpha, "two", times.map(two.alpha), 1, box.bottom);
  line(alpha, "one", times.map(one.alpha), 1, box.bottom);
  frame(slope, box.bottom, "4+", "generation time t", "1");
  line(slope, "two", times.map(two.slope), 4, box.bottom);
  line(slope, "one", times.map(one.slope), 4, box.bottom);
  const middle = `at t = 0.5: ${round(one.alpha(0.5))}, slope ${round(one.slope(0.5))}`;
  alpha.setAttribute("aria-label", `alpha of ${one.spec} (solid) and ${two.spec} (dashed); ${middle}`);
  slope.setAttribute("aria-label", `slope of both; ${one.spec} ${middle}`);
}

function drawBars(plan, other, spec) {
  const svg = at("bars"), highest = Math.max(...plan, ...other), width = (box.right - box.left) / plan.length;
  frame(svg, box.bottom, String(highest), "pass", String(plan.length));
  const level = (count) => box.bottom - (box.bottom - box.top) * count / highest;
  plan.forEach((count, i) => shape(svg, "rect", {
    class: "bar", x: box.left + i * width + width * 0.1, width: width * 0.8,
    y: level(count), height: box.bottom - level(count),
  }));
  const outline = other.map((count, i) =>
    `${i ? "L" : "M"}${box.left + i * width} ${level(count)}H${box.left + (i + 1) * width}`);
  shape(svg, "path", { class: "step", d: outline.join("") });
  svg.setAttribute("aria-label", `tokens per pass: bars are ${spec}, the line is the other`);
  at("plan").textContent = plan.join(" ");
}

// five stops of viridis, read by people with any colour vision: dark is good
const stops = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

function colour(share) {
  const place = Math.max(0, Math.min(0.9999, share)) * 4, i = Math.floor(place);
  const mix = stops[i].map((low, c) => Math.round(low + (stops[i + 1][c] - low) * (place - i)));
  return `rgb(${mix.join(",")})`;
}

let mapDrawn = "";

function drawMap(a, b, value, key, label) {
  const svg = at("landscape"), cells = 19, size = 11.5, left = 40, bottom = 8 + cells * size;
  if (key !== mapDrawn) { // sliders a and b only move the point
    svg.replaceChildren();
    const values = [];
    for (let i = 0; i < cells; i++)
      for (let j = 0; j < cells; j++) values.push([i, j, value(0.1 * (i + 1), 0.1 * (j + 1))]);
    const finite = values.map((one) => one[2]).filter(Number.isFinite);
    const low = Math.min(...finite), high = Math.max(...finite);
    for (const [i, j, one] of values) {
      const share = (Math.log(one + 0.01) - Math.log(low + 0.01)) /
        (Math.log(high + 0.01) - Math.log(low + 0.01) || 1);
      const fill = Number.isFinite(one) ? colour(share) : "none";
      const cell = { x: left + i * size, y: bottom - (j + 1) * size, width: size, height: size };
      const node = shape(svg, "rect", { ...cell, fill, stroke: "none" });
      shape(node, "title", {}, `a ${(0.1 * (i + 1)).toFixed(1)}, b ${(0.1 * (j + 1)).toFixed(1)}: ${round(one)}`);
    }
    shape(svg, "text", { x: left, y: bottom + 14 }, "a = 0.1");
    shape(svg, "text", { x: left + cells * size, y: bottom + 14, "text-anchor": "end" }, "1.9");
    shape(svg, "text", { x: left - 4, y: bottom, "text-anchor": "end" }, "b 0.1");
    shape(svg, "text", { x: left - 4, y: 18, "text-anchor": "end" }, "1.9");
    shape(svg, "text", { x: left, y: bottom + 30 }, `dark ${round(low)}, bright ${round(high)}; empty: infinite`);
    mapDrawn = key;
  }
  for (const old of svg.querySelectorAll("circle")) old.remove();
  const cx = left + (a / 0.1 - 0.5) * size, cy = bottom - (b / 0.1 - 0.5) * size;
  shape(svg, "circle", { class: "point", cx, cy, r: 6 });
  shape(svg, "circle", { class: "ring", cx, cy, r: 7.5 });
  svg.setAttribute("aria-label", `${label} over a and b; the ring is a = ${a}, b = ${b}`);
}

// --- controls

function state() {
  return Object.fromEntries([
    ...sliders.map((id) => [id, Number(at(id).value)]), ...choices.map((id) => [id, at(id).value]),
  ]);
}

function curveOf(name) {
  const found = data.schedules[name];
  return found ? beta(...found) : { spec: `${name}()`, ...closedForms[name] };
}

function update() {
  const now = state();
  for (const id of sliders) at(`${id}-value`).textContent = now[id];
  const one = beta(now.a, now.b), two = curveOf(now.other);
  at("spec").textContent = one.spec;
  drawCurves(one, two);
  drawBars(makePlan(one, now.tokens, now.steps), makePlan(two, now.tokens, now.steps), one.spec);
  const [c, d] = now.gamma.split(",").map(Number);
  at("excess").textContent = round(energyExcess(now.a, now.b, c, d));
  const h = data.profiles[now.profile].h, steps = Math.min(now.steps, h.length);
  const cost = (curve) => planCost(h, makePlan(curve, h.length, steps));
  at("this-name").textContent = one.spec;
  at("other-name").textContent = two.spec;
  at("this-cost").textContent = round(cost(one));
  at("other-cost").textContent = round(cost(two));
  at("least-cost").textContent = h.length <= 512 ? round(leastCost(h, steps)) : "not computed here";
  frame(at("curve"), 130, h[0].toPrecision(3), `tokens revealed: entropy of the next, nats`, String(h.length));
  line(at("curve"), "one", h.length > 1 ? h : [h[0], h[0]], h[0] || 1, 130);
  at("curve").setAttribute("aria-label", data.profiles[now.profile].about);
  const energy = now.map === "energy";
  at("gamma-label").hidden = !energy;
  drawMap(now.a, now.b, energy ? (a, b) => energyExcess(a, b, c, d) : (a, b) => cost(beta(a, b)),
    energy ? `energy ${now.gamma}` : `cost ${now.profile} ${steps}`, energy ? "energy" : "predicted cost");
  history.replaceState(null, "", "#" + new URLSearchParams(now));
}

function restore() {
  const start = { ...data.start, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) };
  for (const id of [...sliders, ...choices]) {
    if (start[id] === undefined) continue;
    const before = at(id).value;
    at(id).value = start[id];
    if (!at(id).value) at(id).value = before; // a choice that this page does not have
  }
  update();
}

async function copy(words) {
  try {
    await navigator.clipboard.writeText(words);
    at("copied").textContent = "copied";
  } catch {
    at("copied").textContent = `copy it by hand: ${words}`;
  }
}

// --- recorded runs

let timer = null;

function wrongCells(run, units, pass) {
  const wrong = new Set();
  for (const unit of units) {
    const seen = new Map();
    for (const cell of unit) {
      if (run.when[cell] > pass) continue;
      const same = seen.get(run.pieces[cell]);
      if (same !== undefined) wrong.add(cell).add(same);
      seen.set(run.pieces[cell], cell);
    }
  }
  return wrong;
}

function showPass() {
  const recording = data.recordings[at("recording").value], pass = Number(at("pass").value);
  at("pass-value").textContent = `${pass} of ${at("pass").max}`;
  at("panels").replaceChildren();
  for (const run of recording.runs) {
    const panel = element(at("panels"), "div", "panel");
    const wrong = wrongCells(run, recording.units, pass);
    const left = run.when.filter((when) => when > pass).length;
    element(panel, "h3", "", run.schedule);
    const body = element(panel, "div", recording.columns ? "grid" : "text");
    if (recording.columns) body.style.gridTemplateColumns = `repeat(${recording.columns}, 1fr)`;
    run.pieces.forEach((piece, i) => {
      const when = run.when[i];
      if (when < 0) return; // padding
      const masked = when > pass;
      const kinds = [when === 0 && "given", masked && "masked", when && when === pass && "new",
        wrong.has(i) && "wrong"].filter(Boolean);
      element(body, "span", kinds.join(" "), masked ? (recording.columns ? "\u00b7" : "\u2591") : piece);
    });
    const cells = wrong.size ? `, ${wrong.size} cells in conflict` : "";
    element(panel, "p", "note", `${left} masked${cells}`);
  }
}

function chooseRecording() {
  const recording = data.recordings[at("recording").value];
  at("pass").max = Math.max(...recording.runs.map((run) => run.passes));
  at("pass").value = at("pass").max;
  at("about").textContent = recording.about;
  showPass();
}

function stop() {
  clearInterval(timer);
  timer = null;
  at("play").textContent = "Play";
}

function play() {
  if (timer) return stop();
  if (at("pass").value === at("pass").max) at("pass").value = 0;
  at("play").textContent = "Pause";
  showPass();
  timer = setInterval(() => {
    at("pass").value = Number(at("pass").value) + 1;
    showPass();
    if (at("pass").value === at("pass").max) stop();
  }, 500);
}

for (const name of [...Object.keys(closedForms), ...Object.keys(data.schedules)])
  element(at("other"), "option", "", name).value = name;
for (const [name, profile] of Object.entries(data.profiles))
  element(at("profile"), "option", "", `${name}: ${profile.about}`).value = name;
data.recordings.forEach((one, i) => (element(at("recording"), "option", "", one.title).value = i));
for (const id of [...sliders, ...choices]) at(id).addEventListener("input", update);
at("copy-spec").addEventListener("click", () => copy(at("spec").textContent));
at("copy-link").addEventListener("click", () => copy(location.href));
window.addEventListener("hashchange", restore);
restore();
if (data.recordings.length) {
  at("recordings").hidden = false;
  at("recording").addEventListener("input", () => { stop(); chooseRecording(); });
  at("pass").addEventListener("input", () => { stop(); showPass(); });
  at("play").addEventListener("click", play);
  chooseRecording();
}
if (data.table) {
  at("figures").hidden = false;
  at("figures-title").textContent = data.table.title;
  for (const [i, words] of [data.table.head, ...data.table.rows].entries()) {
    const row = element(at("table"), "tr");
    words.forEach((word, j) => element(row, i && j ? "td" : "th", "", word));
  }
}
