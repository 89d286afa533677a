// The mathematics of the page, as mdm_schedules computes it in Python: curves, plans, energies, costs.
"use strict";

// log Gamma(x) for x > 0, by Lanczos' approximation (g = 7)
function logGamma(x) {
  const c = [
    0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313,
    -176.61502916214059, 12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6,
    1.5056327351493116e-7,
  ];
  if (x < 0.5) return Math.log(Math.PI / Math.sin(Math.PI * x)) - logGamma(1 - x);
  let sum = c[0];
  for (let i = 1; i < 9; i++) sum += c[i] / (x - 1 + i);
  const t = x + 6.5;
  return 0.5 * Math.log(2 * Math.PI) + (x - 0.5) * Math.log(t) - t + Math.log(sum);
}

function logBeta(a, b) {
  return logGamma(a) + logGamma(b) - logGamma(a + b);
}

// the continued fraction of the incomplete beta function (DLMF 8.17.22), by Lentz's method
function fraction(a, b, x) {
  let upper = 1, lower = 1 / (1 - (a + b) * x / (a + 1)), value = lower;
  for (let m = 1; m < 500; m++) {
    const even = m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m));
    const odd = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1));
    let step = 1;
    for (const factor of [even, odd]) {
      upper = 1 + factor * x / upper;
      lower = 1 / (1 + factor * x * lower);
      step = upper * lower;
      value *= step;
    }
    if (Math.abs(step - 1) < 1e-16) break;
  }
  return value;
}

// the CDF of a Beta(a, b) law at t, and 1 minus it, each without cancellation
function betaCdf(a, b, t) {
  if (t <= 0) return [0, 1];
  if (t >= 1) return [1, 0];
  const front = Math.exp(a * Math.log(t) + b * Math.log1p(-t) - logBeta(a, b));
  if (t < (a + 1) / (a + b + 2)) {
    const low = front * fraction(a, b, t) / a;
    return [low, 1 - low];
  }
  const high = front * fraction(b, a, 1 - t) / b;
  return [1 - high, high];
}

function square(x) {
  return x * x;
}

// alpha and alpha_dot of Beta(a, b) (arXiv 2509.13866, Section 4)
function beta(a, b) {
  const endSlope = (power) =>
    power > 0.5 ? 0 : power < 0.5 ? Infinity : square(Math.PI * Math.exp(-logBeta(a, b)));
  return {
    spec: `beta(a=${text(a)}, b=${text(b)})`,
    alpha(t) {
      const [low, high] = betaCdf(a, b, t);
      return low < 0.5 ? square(Math.sin(Math.PI / 2 * low)) : 1 - square(Math.sin(Math.PI / 2 * high));
    },
    slope(t) {
      if (t <= 0) return endSlope(a);
      if (t >= 1) return endSlope(b);
      const density = Math.exp((a - 1) * Math.log(t) + (b - 1) * Math.log1p(-t) - logBeta(a, b));
      return Math.PI / 2 * Math.sin(Math.PI * Math.min(...betaCdf(a, b, t))) * density;
    },
  };
}

// a number as Python writes it: 1.0, 0.9
function text(x) {
  return Number.isInteger(x) ? `${x}.0` : String(x);
}

const half = Math.PI / 2;
const closedForms = {
  "linear": { alpha: (t) => t, slope: () => 1 },
  "sine": { alpha: (t) => Math.sin(half * t), slope: (t) => half * Math.sin(half * (1 - t)) },
  "squared_sine": {
    alpha: (t) => square(Math.sin(half * t)),
    slope: (t) => Math.PI * Math.sin(half * t) * Math.sin(half * (1 - t)),
  },
  "cosine": {
    alpha: (t) => (t >= 1 ? 1 : 2 * square(Math.sin(half / 2 * t))),
    slope: (t) => half * Math.sin(half * t),
  },
};

// integers that sum to `tokens`, one for each step: Schedule.plan
function makePlan(curve, tokens, steps) {
  const plan = [];
  const last = Math.min(tokens, steps);
  let rounded = 0, raised = 0, before = 0;
  for (let i = 1; i <= steps; i++) {
    const target = Math.floor(tokens * curve.alpha(i / steps) + 0.5 + 1e-9);
    rounded = Math.max(rounded, Math.min(target, tokens));
    raised = Math.max(raised, rounded - i); // at least one token a step
    const room = i < last ? tokens - last + i : tokens;
    const revealed = Math.min(raised + i, room);
    plan.push(revealed - before);
    before = revealed;
  }
  return plan;
}

// the energy of Beta(a, b) over its minimum pi^2, under the gamma of Beta(c, d); Infinity if it diverges
function energyExcess(a, b, c, d) {
  if (2 * a <= c || 2 * b <= d) return Infinity;
  return Math.exp(logBeta(2 * a - c, 2 * b - d) + logBeta(c, d) - 2 * logBeta(a, b));
}

// nats that a plan costs in random order, from a profile h: InformationProfile.cost
function planCost(h, plan) {
  let cost = 0, start = 0;
  for (const size of plan) {
    for (let n = start; n < start + size; n++) cost += h[start] - h[n];
    start += size;
  }
  return cost;
}

// the least cost of any plan with so many steps, by dynamic programming
function leastCost(h, steps) {
  const n = h.length;
  steps = Math.min(steps, n);
  const sums = [0];
  for (const value of h) sums.push(sums[sums.length - 1] + value);
  const group = (from, to) => (to - from) * h[from] - (sums[to] - sums[from]);
  let best = Array.from({ length: n + 1 }, (_, m) => (m ? group(0, m) : 0));
  for (let k = 2; k <= steps; k++) {
    const next = new Array(n + 1).fill(Infinity);
    for (let m = k; m <= n; m++)
      for (let j = k - 1; j < m; j++) next[m] = Math.min(next[m], best[j] + group(j, m));
    best = next;
  }
  return best[n];
}
