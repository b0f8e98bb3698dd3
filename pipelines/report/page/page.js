"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const page = JSON.parse(byId("data").textContent);
  const videos = page.videos;
  const state = { theta: null, video: null, frame: 0, view: null, order: "worst", shown: new Set() };
  const CLASS_COLOURS = ["green", "pink", "sky", "olive", "alarm", "orange"];
  const DASHES = [[], [6, 3], [2, 3], [9, 3, 2, 3]];

  // ---- data ------------------------------------------------------------------------------------------------------

  function bytes(text) {
    const raw = atob(text), out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }

  for (const [index, video] of videos.entries()) {
    const values = bytes(video.values).buffer;
    video.index = index;
    video.values = video.wide ? new Float64Array(values) : new Float32Array(values);
    video.edges = video.edges ? new Uint32Array(bytes(video.edges).buffer) : null;
    video.clock = video.fps || video.footage.clock || null;
    video.peak = video.values.reduce((a, b) => Math.max(a, b), -Infinity);
  }

  const edge = (video, i) => (video.edges ? video.edges[i] : i);

  function stepAt(video, frame) {
    if (!video.edges) return Math.min(Math.max(frame, 0), video.values.length - 1);
    let low = 0, high = video.values.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (video.edges[middle] <= frame) low = middle; else high = middle - 1;
    }
    return low;
  }

  function curvesOf(video) {
    const given = video.curves;
    if (given && !given.ready) {
      given.edges = new Uint32Array(bytes(given.edges).buffer);
      given.values = bytes(given.values);
      given.ready = true;
    }
    return given;
  }

  // ---- the definitions of `vad eval` (pipelines/metrics/operating.py) --------------------------------------------

  const thetaOf = (video) => state.theta ?? video.theta ?? page.threshold ?? middle();
  const middle = () => (page.limits[0] + page.limits[1]) / 2;

  /* Maximal stretches of frames [start, end) with a score at or above theta. */
  function above(video, theta) {
    const found = [], values = video.values;
    let open = -1;
    for (let i = 0; i < values.length; i++) {
      if (values[i] >= theta) { if (open < 0) open = edge(video, i); }
      else if (open >= 0) { found.push([open, edge(video, i)]); open = -1; }
    }
    if (open >= 0) found.push([open, video.frames]);
    return found;
  }

  /* Alarms: stretches closer than one second count as one, where the frame rate is known. */
  function joined(stretches, fps) {
    const gap = Math.max(fps ? page.merge_s * fps : 0, 1), out = [];
    for (const [start, end] of stretches) {
      const last = out[out.length - 1];
      if (last && start - last[1] < gap) last[1] = end; else out.push([start, end]);
    }
    return out;
  }

  function peakIn(video, start, end) {
    let best = -Infinity;
    for (let i = stepAt(video, start); i < video.values.length && edge(video, i) < end; i++) best = Math.max(best, video.values[i]);
    return best;
  }

  /* One to one, highest alarm first, each takes the free event that it overlaps most, from IoU 0.1 on. */
  function matched(video, alarms) {
    const taken = new Array(video.positives.length).fill(false);
    const order = alarms.map((alarm, i) => i).sort((a, b) => alarms[b].peak - alarms[a].peak || a - b);
    for (const i of order) {
      let best = -1, event = -1;
      for (const [k, [start, end]] of video.positives.entries()) {
        if (taken[k]) continue;
        const shared = Math.min(alarms[i].end, end) - Math.max(alarms[i].start, start);
        const union = alarms[i].end - alarms[i].start + (end - start) - shared;
        const overlap = Math.max(shared, 0) / union;
        if (overlap > best) { best = overlap; event = k; }
      }
      if (best >= page.event_iou) { taken[event] = true; alarms[i].event = event; alarms[i].overlap = best; }
    }
    return taken.filter(Boolean).length;
  }

  const touches = (start, end, others) => others.some(([a, b]) => Math.min(end, b) > Math.max(start, a));

  function alarmsOf(video, theta) {
    const alarms = joined(above(video, theta), video.fps).map(([start, end]) => ({
      start, end, peak: peakIn(video, start, end), event: null, on: touches(start, end, video.positives),
    }));
    matched(video, alarms);
    return alarms;
  }

  function tallyOf(video, theta) {
    const raw = above(video, theta), alarms = joined(raw, video.fps);
    let marked = 0, right = 0, hits = 0, wrong = 0;
    for (const [start, end] of raw) {
      marked += end - start;
      for (const [a, b] of video.positives) right += Math.max(0, Math.min(end, b) - Math.max(start, a));
    }
    for (const [a, b] of video.positives) hits += touches(a, b, raw);
    for (const [start, end] of alarms) wrong += !touches(start, end, video.positives);
    return { marked, right, hits, wrong, alarms: alarms.length };
  }

  function operate(pick) {
    const sum = { marked: 0, right: 0, frames: 0, positives: 0, events: 0, hits: 0, found: 0, alarms: 0, normalAlarms: 0, hours: 0, normalMarked: 0, normalFrames: 0 };
    const tallies = [];
    let clocked = true;
    for (const video of videos) {
      const theta = pick(video), tally = tallyOf(video, theta);
      tallies.push(tally);
      sum.marked += tally.marked; sum.right += tally.right; sum.hits += tally.hits; sum.alarms += tally.alarms;
      sum.frames += video.frames; sum.events += video.positives.length;
      for (const [a, b] of video.positives) sum.positives += b - a;
      if (video.positives.length && tally.alarms) sum.found += matched(video, alarmsOf(video, theta));
      if (video.abnormal) continue;
      sum.normalAlarms += tally.alarms; sum.normalMarked += tally.marked; sum.normalFrames += video.frames;
      if (video.fps) sum.hours += video.frames / video.fps; else clocked = false;
    }
    sum.hours /= 3600;
    return {
      ...sum, tallies,
      faPerHour: clocked && sum.hours ? sum.normalAlarms / sum.hours : null,
      hitRate: sum.events ? sum.hits / sum.events : null,
      precision: sum.events && sum.alarms ? sum.found / sum.alarms : null,
      recall: sum.events ? sum.found / sum.events : null,
      far: sum.normalFrames ? sum.normalMarked / sum.normalFrames : null,
      tpr: sum.positives ? sum.right / sum.positives : null,
      fpr: sum.frames > sum.positives ? (sum.marked - sum.right) / (sum.frames - sum.positives) : null,
    };
  }

  // ---- words -----------------------------------------------------------------------------------------------------

  const percent = (value, digits = 1) => (value === null ? "–" : (100 * value).toFixed(digits));
  const score = (value) => (Math.abs(value) >= 1000 || (value !== 0 && Math.abs(value) < 0.001) ? value.toExponential(2) : value.toFixed(3));

  function clockText(seconds, digits = 1) {
    const whole = Math.max(0, seconds), h = Math.floor(whole / 3600), m = Math.floor((whole % 3600) / 60);
    const s = (whole % 60).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
    return h ? `${h}:${String(m).padStart(2, "0")}:${s}` : `${m}:${s}`;
  }

  const secondsOf = (video, frame) => (frame + video.offset) / video.clock;
  const place = (video, frame, digits = 1) => (video.clock ? clockText(secondsOf(video, frame), digits) : `frame ${frame + video.offset}`);

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "text") node.textContent = value;
      else if (key in node && key !== "list") node[key] = value;
      else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  }

  // ---- colours ---------------------------------------------------------------------------------------------------

  const probe = make("span", { hidden: true });
  document.body.append(probe);
  let palette = {};
  function readColours() {
    palette = {};
    for (const name of ["paper", "card", "ink", "soft", "line", "strong", "blue", "truth", "orange", ...CLASS_COLOURS]) {
      probe.style.color = `var(--${name})`;
      palette[name] = getComputedStyle(probe).color;
    }
  }
  const faded = (colour, alpha) => colour.replace(/^rgba?\(([^)]+)\)$/, (_, rgb) => `rgba(${rgb.split(",").slice(0, 3).join(",")}, ${alpha})`);

  // ---- SVG charts ------------------------------------------------------------------------------------------------

  const SVG = "http://www.w3.org/2000/svg";
  const W = 290, H = 250, LEFT = 40, RIGHT = 8, TOP = 8, BOTTOM = 36;

  function shape(tag, attributes, text) {
    const node = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  const QUARTERS = [0, 0.25, 0.5, 0.75, 1];

  function chart(host, { xTop = 1, xTicks = QUARTERS, xScale = (v) => v, xWord, yWord, label, xLabel = (v) => (100 * v).toFixed(0) }) {
    const svg = shape("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label });
    const x = (v) => LEFT + (xScale(v) / xScale(xTop)) * (W - LEFT - RIGHT), y = (v) => H - BOTTOM - v * (H - TOP - BOTTOM);
    for (const tick of xTicks) {
      svg.append(shape("line", { class: "grid", x1: x(tick), x2: x(tick), y1: y(0), y2: y(1) }));
      svg.append(shape("text", { x: x(tick), y: H - BOTTOM + 14, "text-anchor": "middle" }, xLabel(tick)));
    }
    for (const tick of QUARTERS) {
      svg.append(shape("line", { class: "grid", x1: x(0), x2: x(xTop), y1: y(tick), y2: y(tick) }));
      svg.append(shape("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, (100 * tick).toFixed(0)));
    }
    svg.append(shape("text", { x: (LEFT + W - RIGHT) / 2, y: H - 4, "text-anchor": "middle" }, xWord));
    svg.append(shape("text", { x: 10, y: (TOP + H - BOTTOM) / 2, "text-anchor": "middle", transform: `rotate(-90 10 ${(TOP + H - BOTTOM) / 2})` }, yWord));
    host.replaceChildren(svg);
    const line = (xs, ys, name) => svg.append(shape("path", { class: name, d: xs.map((v, i) => `${i ? "L" : "M"}${x(v).toFixed(1)} ${y(ys[i]).toFixed(1)}`).join("") }));
    const mark = shape("circle", { class: "mark", r: 5, visibility: "hidden" });
    const put = (v, w) => {
      if (v === null || w === null) return mark.setAttribute("visibility", "hidden");
      mark.setAttribute("cx", x(Math.min(v, xTop))); mark.setAttribute("cy", y(w)); mark.setAttribute("visibility", "visible");
      svg.append(mark);
    };
    return { svg, line, put, x, y };
  }

  const nothing = (host, why) => host.replaceChildren(make("p", { className: "hint", text: why }));
  const charts = {};

  function drawRanking() {
    if (!page.roc) {
      for (const id of ["chart-roc", "chart-pr"]) nothing(byId(id), "All frames have one label: there is nothing to rank.");
      return;
    }
    charts.roc = chart(byId("chart-roc"), { xWord: "false positive rate, %", yWord: "true positive rate, %", label: "ROC curve of all frames" });
    charts.roc.line([0, 1], [0, 1], "chance");
    charts.roc.line(page.roc[0], page.roc[1], "curve");
    charts.pr = chart(byId("chart-pr"), { xWord: "recall, %", yWord: "precision, %", label: "Precision over recall of all frames" });
    charts.pr.line([0, 1], [page.positive_share, page.positive_share], "chance");
    charts.pr.line(page.pr[0], page.pr[1], "curve");
  }

  function drawIou() {
    const host = byId("chart-iou");
    if (!host || !page.iou.length) return;
    const top = Math.max(...page.iou.flatMap((line) => line.x));
    const plot = chart(host, { xTop: top, xWord: "temporal IoU", yWord: "mAP, %", label: "mAP over temporal IoU", xLabel: (v) => v.toFixed(top > 0.5 ? 2 : 1), xTicks: [0, 0.2, 0.4, 0.6, 0.8, 1].map((part) => part * top) });
    page.iou.forEach((line, i) => {
      plot.line(line.x, line.y, `curve s${i}`);
      plot.svg.append(shape("line", { class: `curve s${i}`, x1: LEFT + 90, x2: LEFT + 116, y1: TOP + 10 + 15 * i, y2: TOP + 10 + 15 * i }));
      plot.svg.append(shape("text", { x: LEFT + 122, y: TOP + 14 + 15 * i }, line.name));
    });
  }

  const idle = () => new Promise((done) => (window.requestIdleCallback || setTimeout)(done));

  /* Thresholds from the highest score down; where alarms begin to merge the curve turns back and is drawn faint. */
  async function drawAlarmCurve() {
    const host = byId("chart-fa");
    const every = [...new Set(videos.flatMap((v) => thinned(v.values)))].sort((a, b) => b - a);
    const picked = every.filter((_, i) => i % Math.ceil(every.length / 160) === 0 || i === every.length - 1);
    const points = [];
    let rest = 0;
    for (const theta of picked) {
      if (performance.now() > rest) { await idle(); rest = performance.now() + 25; }
      const { faPerHour, hitRate } = operate(() => theta);
      if (faPerHour !== null && hitRate !== null) points.push({ theta, faPerHour, hitRate });
    }
    if (!points.length) {
      nothing(host, videos.some((v) => v.positives.length) ? "No normal video with a known frame rate: false alarms per hour cannot be counted." : "No event: nothing can be hit.");
      return;
    }
    const most = points.reduce((best, p, i) => (p.faPerHour > points[best].faPerHour ? i : best), 0);
    const decades = Math.max(1, Math.ceil(Math.log10(points[most].faPerHour || 1)));
    charts.fa = chart(host, {
      xTop: 10 ** decades, xTicks: [0, ...Array.from({ length: decades + 1 }, (_, i) => 10 ** i)], xScale: (v) => Math.log10(1 + v),
      xWord: "false alarms per hour of normal video", yWord: "events hit, %", xLabel: String,
      label: "Share of events hit over false alarms per hour, on a logarithmic scale from zero",
    });
    const rising = points.slice(0, most + 1), falling = points.slice(most);
    charts.fa.line([0, ...rising.map((p) => p.faPerHour)], [0, ...rising.map((p) => p.hitRate)], "curve");
    if (falling.length > 1) charts.fa.line(falling.map((p) => p.faPerHour), falling.map((p) => p.hitRate), "curve faint");
    host.classList.add("picks");
    charts.fa.svg.append(shape("title", {}, "Click to take the threshold of this point"));
    charts.fa.svg.addEventListener("click", (event) => {
      const box = charts.fa.svg.getBoundingClientRect();
      const px = ((event.clientX - box.left) / box.width) * W, py = ((event.clientY - box.top) / box.height) * H;
      const away = (p) => Math.hypot(charts.fa.x(p.faPerHour) - px, charts.fa.y(p.hitRate) - py);
      setTheta(points.reduce((best, p) => (away(p) < away(best) ? p : best)).theta);
    });
    update();
  }

  function thinned(values) {
    const most = Math.max(1, Math.ceil(values.length / 400)), out = [];
    for (let i = 0; i < values.length; i += most) out.push(values[i]);
    return out;
  }

  // ---- threshold -------------------------------------------------------------------------------------------------

  const STEPS = 1000;
  const knob = { low: 0, span: 1, power: 1 };

  /* The slider is bent so that its middle is the middle of the scores, which often crowd near zero. */
  function bend() {
    const all = videos.flatMap((v) => thinned(v.values)).sort((a, b) => a - b);
    const high = Math.max(...videos.map((v) => v.peak));
    knob.low = all[0]; knob.span = high - knob.low || 1;
    const half = (all[Math.floor(all.length * 0.7)] - knob.low) / knob.span;
    knob.power = half > 0 && half < 0.5 ? Math.min(6, Math.log(half) / Math.log(0.5)) : 1;
  }

  const fromKnob = (position) => +(knob.low + knob.span * (position / STEPS) ** knob.power).toPrecision(4);
  const toKnob = (theta) => STEPS * Math.min(1, Math.max(0, (theta - knob.low) / knob.span)) ** (1 / knob.power);

  function setTheta(theta) {
    state.theta = theta;
    update();
  }

  /* The newest work of a kind, once a picture. */
  const waiting = new Map();
  function later(kind, work) {
    if (!waiting.has(kind)) requestAnimationFrame(() => { const newest = waiting.get(kind); waiting.delete(kind); newest(); });
    waiting.set(kind, work);
  }

  function update() {
    const now = operate(thetaOf);
    videos.forEach((video, i) => { video.tally = now.tallies[i]; });
    const perVideo = state.theta === null && videos.some((v) => v.theta !== undefined);
    const theta = state.theta ?? page.threshold ?? middle();
    if (document.activeElement !== byId("theta")) byId("theta").value = toKnob(theta);
    byId("theta").setAttribute("aria-valuetext", String(theta));
    if (document.activeElement !== byId("theta-number")) byId("theta-number").value = perVideo ? "per camera" : String(theta);
    byId("theta-reset").disabled = state.theta === null;
    showFigures(now);
    showMatrix(now);
    charts.roc?.put(now.fpr, now.tpr);
    charts.pr?.put(now.marked ? now.tpr : null, now.marked ? now.right / now.marked : null);
    charts.fa?.put(now.faPerHour, now.hitRate);
    const again = byId("again").content.textContent.trim();
    byId("theta-source").textContent = state.theta === null
      ? `Threshold as evaluated: ${page.threshold === null && !perVideo ? "none was learnt, the slider starts in the middle of the scores" : page.threshold_source || "given"}.`
      : `Alarm where a score is at or above the threshold; alarms closer than ${page.merge_s} s count once.` + (again ? ` The same by command: ${again} --threshold ${theta}` : "");
    refreshList();
    showEvents();
    drawTimeline();
  }

  function showFigures(now) {
    const facts = [
      ["False alarms per hour", now.faPerHour === null ? "–" : now.faPerHour.toFixed(now.faPerHour < 100 ? 1 : 0), "", "fa"],
      ["Events hit", percent(now.hitRate), now.events ? `% · ${now.hits} of ${now.events}` : "", "hit"],
      ["Alarms", String(now.alarms), "", "alarms"],
      ["Event precision", percent(now.precision), "%", "precision minor"],
      ["Event recall", percent(now.recall), "%", "recall minor"],
      ["Normal frames above", percent(now.far, 2), "%", "far minor"],
    ];
    byId("figures").replaceChildren(...facts.map(([word, value, unit, name]) =>
      make("div", { className: name }, make("dt", { text: word }), make("dd", {}, value, make("small", { text: unit ? ` ${unit}` : "" })))));
  }

  function showMatrix(now) {
    const { right, marked, positives, frames } = now, normal = frames - positives;
    const cell = (count, of) => make("td", {}, of ? `${percent(count / of)} %` : "–", make("small", { text: count.toLocaleString("en") }));
    const head = (text, scope) => make("th", { text, scope });
    byId("matrix").replaceChildren(make("table", {},
      make("thead", {}, make("tr", {}, make("td"), head("alarm", "col"), head("no alarm", "col"))),
      make("tbody", {},
        make("tr", {}, head("anomalous", "row"), cell(right, positives), cell(positives - right, positives)),
        make("tr", {}, head("normal", "row"), cell(marked - right, normal), cell(normal - (marked - right), normal)))));
  }

  // ---- list of videos --------------------------------------------------------------------------------------------

  const ORDERS = {
    worst: (a, b) => (a.auc ?? (a.abnormal ? 2 : 3)) - (b.auc ?? (b.abnormal ? 2 : 3)) || b.peak - a.peak,
    false: (a, b) => b.tally.wrong - a.tally.wrong || b.peak - a.peak,
    peak: (a, b) => b.peak - a.peak,
    missed: (a, b) => b.positives.length - b.tally.hits - (a.positives.length - a.tally.hits) || (a.auc ?? 2) - (b.auc ?? 2),
    name: (a, b) => a.id.localeCompare(b.id, "en", { numeric: true }),
  };
  let listed = [];
  let watcher = null;

  function buildRows() {
    const drawn = (entries) => entries.forEach((entry) => { if (entry.isIntersecting) drawSpark(entry.target); });
    watcher = new IntersectionObserver(drawn, { root: byId("list"), rootMargin: "200px" });
    for (const video of videos) {
      const canvas = make("canvas", { "aria-hidden": "true" });
      canvas.video = video;
      video.row = make("div", { className: "row", id: `video-${video.index}`, role: "option", "aria-selected": "false" },
        make("span", { className: "name", text: video.id, title: video.id }),
        make("span", { className: "auc", text: video.auc === null ? "" : `AUC ${percent(video.auc)}` }),
        canvas,
        make("span", { className: "tag", text: video.classes.join(", ") || (video.abnormal ? "anomalous" : "normal") }),
        (video.tallyText = make("span", { className: "tally" })));
      video.row.addEventListener("click", () => select(video));
      watcher.observe(canvas);
    }
    const names = [...new Set(videos.flatMap((v) => v.classes))];
    names.sort((a, b) => page.classes.indexOf(a) - page.classes.indexOf(b) || a.localeCompare(b));
    byId("class").append(...names.map((name) => make("option", { value: name, text: name })));
  }

  function refreshList() {
    for (const video of videos) {
      const { wrong, hits } = video.tally, parts = [];
      if (wrong) parts.push(make("b", { text: `${wrong} false alarm${wrong > 1 ? "s" : ""}` }));
      if (video.positives.length) parts.push(`${hits} of ${video.positives.length} hit`);
      video.tallyText.replaceChildren(...parts.flatMap((part, i) => (i ? [" · ", part] : [part])));
    }
    const wanted = byId("class").value, part = byId("search").value.toLowerCase();
    const found = videos.filter((v) => (!wanted || v.classes.includes(wanted)) && v.id.toLowerCase().includes(part)).sort(ORDERS[state.order]);
    const same = found.length === listed.length && found.every((v, i) => v === listed[i]);
    listed = found;
    if (!same) byId("list").replaceChildren(...found.map((v) => v.row));
    byId("count").textContent = found.length === videos.length ? `${videos.length} videos` : `${found.length} of ${videos.length} videos`;
  }

  /* Each pixel column shows the range of the scores in it, so that no peak is lost. */
  function ranges(video, from, to, columns) {
    const low = new Float64Array(columns).fill(Infinity), high = new Float64Array(columns).fill(-Infinity);
    const scale = columns / (to - from);
    for (let i = stepAt(video, Math.floor(from)); i < video.values.length; i++) {
      const start = edge(video, i), end = video.edges ? video.edges[i + 1] : i + 1;
      if (start >= to) break;
      const first = Math.max(0, Math.floor((start - from) * scale)), last = Math.min(columns - 1, Math.ceil((end - from) * scale) - 1);
      for (let c = first; c <= last; c++) {
        if (video.values[i] < low[c]) low[c] = video.values[i];
        if (video.values[i] > high[c]) high[c] = video.values[i];
      }
    }
    return { low, high };
  }

  function sized(canvas, width, height) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(width * ratio)); canvas.height = Math.max(1, Math.round(height * ratio));
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    return pen;
  }

  function drawSpark(canvas) {
    const video = canvas.video, width = canvas.clientWidth || 300, height = 18;
    const pen = sized(canvas, width, height), [bottom, top] = page.limits;
    const y = (v) => height - 3 - ((v - bottom) / (top - bottom)) * (height - 4);
    for (const [start, end] of video.positives) {
      pen.fillStyle = faded(palette.truth, 0.35);
      const x = (start / video.frames) * width, w = Math.max(1.5, ((end - start) / video.frames) * width);
      pen.fillRect(x, 0, w, height - 2);
      pen.fillStyle = palette.truth;
      pen.fillRect(x, height - 2, w, 2);
    }
    const columns = Math.round(width), { low, high } = ranges(video, 0, video.frames, columns);
    pen.fillStyle = palette.blue;
    for (let c = 0; c < columns; c++) {
      const a = y(Math.min(high[c], top)), before = c ? y(Math.min(high[c - 1], top)) : a;
      const b = y(Math.max(low[c], bottom));
      pen.fillRect(c, Math.min(a, before), 1, Math.max(1, Math.abs(before - a), b - a));
    }
  }

  // ---- one video -------------------------------------------------------------------------------------------------

  const AXIS = { left: 42, right: 14, top: 24, bottom: 40 };
  let player = null;

  function select(video) {
    state.video?.row.setAttribute("aria-selected", "false");
    state.video = video; state.frame = 0; state.view = [0, video.frames];
    video.row.setAttribute("aria-selected", "true");
    byId("list").setAttribute("aria-activedescendant", video.row.id);
    const list = byId("list"), row = video.row;
    if (row.offsetTop < list.scrollTop + list.offsetTop) list.scrollTop = row.offsetTop - list.offsetTop;
    else if (row.offsetTop + row.offsetHeight > list.scrollTop + list.offsetTop + list.clientHeight) list.scrollTop = row.offsetTop + row.offsetHeight - list.offsetTop - list.clientHeight;
    byId("video-name").textContent = video.id;
    byId("video-facts").textContent = [
      video.classes.join(", "),
      `${video.frames.toLocaleString("en")} frames${video.fps ? ` at ${+video.fps.toFixed(3)} per second` : ", frame rate unknown"}`,
      video.auc === null ? "" : `AUC ${percent(video.auc)}`,
      `highest score ${score(video.peak)}`,
    ].filter(Boolean).join(" · ");
    showStage(video);
    showChips(video);
    showEvents();
    drawTimeline();
    moveTo(0, { seek: false });
  }

  const ABSENT = {
    moved: "The video is not where the dataset says it is:",
    frames: "A folder of frames, which a page cannot play (vad report --embed adds a small preview):",
  };

  function showStage(video) {
    const stage = byId("stage"), preview = byId(`preview-${video.index}`), { href, path, state: why } = video.footage;
    if (player?.src.startsWith("blob:")) URL.revokeObjectURL(player.src);
    player = null;
    if (!preview && !href) {
      stage.replaceChildren(make("div", { className: "absent" }, make("p", { text: ABSENT[why] || "No video." }), make("code", { text: path })));
      return;
    }
    player = make("video", { controls: true, muted: true, playsInline: true, preload: "auto", "aria-label": `Video ${video.id}` });
    player.src = preview ? URL.createObjectURL(new Blob([bytes(preview.textContent)], { type: "video/mp4" })) : href;
    stage.replaceChildren(player);
    if (why === "replaced") stage.append(make("p", { text: "This file has another size than the one whose features were extracted." }));
    if (preview) stage.append(make("p", {}, "Small preview. ", href ? make("a", { href, text: "The video itself" }) : ""));
    const mine = player;
    mine.addEventListener("error", () => {
      if (mine === player) stage.append(make("p", { text: "This browser cannot play the file, or it is gone. vad report --embed adds a small preview." }));
    });
    mine.addEventListener("loadedmetadata", () => {
      if (!video.clock && mine.duration) { video.clock = (video.frames + video.offset) / mine.duration; drawTimeline(); }
      if (state.frame) mine.currentTime = secondsOf(video, state.frame);
    });
    for (const name of ["timeupdate", "seeked"]) mine.addEventListener(name, () => follow(mine));
    mine.addEventListener("play", () => { const tick = () => { if (mine === player && !mine.paused) { follow(mine); requestAnimationFrame(tick); } }; tick(); });
  }

  function follow(from) {
    const video = state.video;
    if (from !== player || !video.clock || from.seeking) return;
    moveTo(from.currentTime * video.clock - video.offset, { seek: false });
  }

  /* The cursor; with `seek` the video goes there too. */
  function moveTo(frame, { seek = true } = {}) {
    const video = state.video;
    state.frame = Math.min(Math.max(frame, 0), video.frames - 1e-6);
    if (seek && player && video.clock && player.readyState > 0) player.currentTime = secondsOf(video, state.frame);
    const [from, to] = state.view;
    if (state.frame < from || state.frame >= to) {
      const half = (to - from) / 2, start = Math.min(Math.max(0, state.frame - half), video.frames - 2 * half);
      state.view = [start, start + 2 * half];
      drawTimeline();
    }
    drawCursor();
    const whole = Math.floor(state.frame), value = video.values[stepAt(video, whole)];
    const inside = video.events.filter(([a, b]) => a <= whole && whole < b).map((event) => event[2]);
    const classes = [...state.shown].map((name) => [name, classAt(video, name, whole)]).filter((pair) => pair[1] !== null);
    byId("readout").textContent = [
      `${place(video, state.frame)} · frame ${whole + video.offset} · score ${score(value)}`,
      ...classes.map(([name, v]) => `${name} ${v.toFixed(2)}`),
      inside.length ? `truth: ${inside.join(", ")}` : "",
    ].filter(Boolean).join(" · ");
    const slider = byId("timeline");
    slider.setAttribute("aria-valuemax", String(video.frames - 1));
    slider.setAttribute("aria-valuenow", String(whole));
    slider.setAttribute("aria-valuetext", byId("readout").textContent);
  }

  function classAt(video, name, frame) {
    const curves = curvesOf(video), row = curves ? curves.names.indexOf(name) : -1;
    if (row < 0) return null;
    let i = 0;
    while (i + 1 < curves.edges.length - 1 && curves.edges[i + 1] <= frame) i++;
    return (curves.values[row * (curves.edges.length - 1) + i] / 255) * curves.top;
  }

  function axes() {
    const box = byId("timeline"), width = box.clientWidth, height = box.clientHeight, [from, to] = state.view, [bottom, top] = page.limits;
    const right = width - AXIS.right, low = height - AXIS.bottom;
    return {
      width, height, right, low, from, to,
      x: (frame) => AXIS.left + ((frame - from) / (to - from)) * (right - AXIS.left),
      y: (v) => low - ((Math.min(Math.max(v, bottom), top) - bottom) / (top - bottom)) * (low - AXIS.top),
      frame: (px) => from + ((px - AXIS.left) / (right - AXIS.left)) * (to - from),
    };
  }

  function drawTimeline() {
    const video = state.video;
    if (!video) return;
    const at = axes(), pen = sized(byId("plot"), at.width, at.height);
    pen.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    drawGrid(pen, at, video);
    pen.save();
    pen.beginPath(); pen.rect(AXIS.left, 0, at.right - AXIS.left, at.height); pen.clip();
    drawTruth(pen, at, video);
    drawClasses(pen, at, video);
    drawScores(pen, at, video);
    drawAlarms(pen, at, video);
    pen.restore();
    drawTheta(pen, at, video);
    drawCursor();
    byId("zoom-out").disabled = byId("zoom-all").disabled = at.to - at.from >= video.frames;
  }

  function drawGrid(pen, at, video) {
    const [bottom, top] = page.limits;
    pen.textBaseline = "middle"; pen.textAlign = "right";
    for (let i = 0; i <= 4; i++) {
      const value = bottom + ((top - bottom) * i) / 4, y = Math.round(at.y(value)) + 0.5;
      pen.strokeStyle = palette.line; pen.lineWidth = 1;
      pen.beginPath(); pen.moveTo(AXIS.left, y); pen.lineTo(at.right, y); pen.stroke();
      pen.fillStyle = palette.soft;
      pen.fillText(top - bottom >= 0.5 && top <= 10 ? value.toFixed(2) : value.toPrecision(2), AXIS.left - 7, y);
    }
    const unit = video.clock || 1, span = (at.to - at.from) / unit, most = Math.max(2, (at.right - AXIS.left) / 85);
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600].find((s) => span / s <= most) || 10 ** Math.ceil(Math.log10(span / most));
    const nice = video.clock ? step : 10 ** Math.ceil(Math.log10(span / most));
    pen.textAlign = "center"; pen.textBaseline = "top"; pen.fillStyle = palette.soft;
    const first = (at.from + video.offset) / unit, last = (at.to + video.offset) / unit;
    for (let t = Math.ceil(first / nice) * nice; t <= last + 1e-9; t += nice) {
      const x = at.x(t * unit - video.offset);
      pen.fillText(video.clock ? clockText(t, nice < 1 ? 1 : 0) : String(Math.round(t)), Math.min(x, at.right - 8), at.height - 14);
    }
  }

  function drawTruth(pen, at, video) {
    pen.textAlign = "left"; pen.textBaseline = "alphabetic";
    let free = -Infinity;
    for (const [start, end, label] of video.events) {
      const x = at.x(start), w = Math.max(2, at.x(Math.min(end, video.frames)) - x);
      pen.fillStyle = faded(palette.truth, 0.2);
      pen.fillRect(x, AXIS.top, w, at.low - AXIS.top);
      pen.fillStyle = palette.truth;
      pen.fillRect(x, AXIS.top - 3, w, 3);
      const seen = Math.max(x, AXIS.left);
      if (seen >= free && x + w > AXIS.left && seen < at.right - 10) {
        pen.fillStyle = palette.orange;
        pen.fillText(label, seen, AXIS.top - 8);
        free = seen + pen.measureText(label).width + 8;
      }
    }
  }

  function drawScores(pen, at, video) {
    const columns = Math.max(1, Math.round(at.right - AXIS.left));
    const { low, high } = ranges(video, at.from, at.to, columns);
    pen.fillStyle = palette.blue;
    let before = null;
    for (let c = 0; c < columns; c++) {
      if (high[c] === -Infinity) continue;
      const a = at.y(high[c]), b = at.y(low[c]);
      const upper = before === null ? a : Math.min(a, before[1]), lower = before === null ? b : Math.max(b, before[0]);
      pen.fillRect(AXIS.left + c, upper - 0.8, 1, Math.max(1.6, lower - upper + 1.6));
      before = [a, b];
    }
  }

  function drawClasses(pen, at, video) {
    const curves = curvesOf(video);
    if (!curves) return;
    for (const name of state.shown) {
      const row = curves.names.indexOf(name);
      if (row < 0) continue;
      const steps = curves.edges.length - 1, style = styleOf(name);
      pen.strokeStyle = palette[style.colour]; pen.setLineDash(style.dash); pen.lineWidth = 1.4;
      pen.beginPath();
      const height = (v) => at.low - v * (at.low - AXIS.top);
      const per = Math.max(1, (steps / (at.right - AXIS.left)) * ((at.to - at.from) / video.frames));
      for (let i = 0; i < steps; i += Math.ceil(per)) {
        let v = 0;
        for (let k = i; k < Math.min(steps, i + Math.ceil(per)); k++) v = Math.max(v, curves.values[row * steps + k]);
        const y = height((v / 255) * Math.min(1, curves.top));
        pen.lineTo(at.x(curves.edges[i]), y); pen.lineTo(at.x(curves.edges[Math.min(steps, i + Math.ceil(per))]), y);
      }
      pen.stroke(); pen.setLineDash([]);
    }
  }

  /* Below the curve: an alarm on a true interval is filled, a false one is hollow. */
  function drawAlarms(pen, at, video) {
    const y = at.low + 7, height = 8;
    for (const alarm of video.alarms || []) {
      const x = at.x(alarm.start), w = Math.max(2.5, at.x(alarm.end) - x);
      pen.fillStyle = pen.strokeStyle = palette.alarm;
      if (alarm.on) pen.fillRect(x, y, w, height);
      else { pen.lineWidth = 1.5; pen.strokeRect(x + 0.75, y + 0.75, Math.max(1, w - 1.5), height - 1.5); }
    }
  }

  function drawTheta(pen, at, video) {
    const theta = thetaOf(video), [bottom, top] = page.limits;
    if (theta < bottom || theta > top) return;
    const y = Math.round(at.y(theta)) + 0.5;
    pen.strokeStyle = palette.alarm; pen.lineWidth = 1.2; pen.setLineDash([5, 4]);
    pen.beginPath(); pen.moveTo(AXIS.left, y); pen.lineTo(at.right, y); pen.stroke(); pen.setLineDash([]);
  }

  function drawCursor() {
    const at = axes(), pen = sized(byId("over"), at.width, at.height), x = at.x(state.frame);
    if (x < AXIS.left - 1 || x > at.right + 1) return;
    pen.strokeStyle = palette.ink; pen.lineWidth = 1.5;
    pen.beginPath(); pen.moveTo(x, AXIS.top - 4); pen.lineTo(x, at.low + 18); pen.stroke();
    pen.fillStyle = palette.ink;
    pen.beginPath(); pen.arc(x, at.y(state.video.values[stepAt(state.video, Math.floor(state.frame))]), 3.2, 0, 7); pen.fill();
  }

  function showEvents() {
    const video = state.video;
    if (!video) return;
    const alarms = (video.alarms = alarmsOf(video, thetaOf(video)));
    const verdict = (alarm) => {
      if (alarm.event !== null) return `found event ${alarm.event + 1}, IoU ${alarm.overlap.toFixed(2)}`;
      return alarm.on ? "on an event" : "false alarm";
    };
    byId("events-title").textContent = alarms.length ? `${alarms.length} alarm${alarms.length > 1 ? "s" : ""} at this threshold` : "No alarm at this threshold";
    byId("events").tBodies[0].replaceChildren(...alarms.map((alarm) => {
      const row = make("tr", { tabIndex: 0 },
        make("td", { text: place(video, alarm.start, 2) }), make("td", { text: place(video, alarm.end, 2) }),
        make("td", { className: "r", text: score(alarm.peak) }), make("td", { className: alarm.on ? "" : "false", text: verdict(alarm) }));
      row.dataset.start = alarm.start; row.dataset.end = alarm.end; row.dataset.peak = alarm.peak;
      row.addEventListener("click", () => moveTo(alarm.start));
      row.addEventListener("keydown", (event) => { if (event.key === "Enter") moveTo(alarm.start); });
      return row;
    }));
  }

  // ---- class scores ----------------------------------------------------------------------------------------------

  function styleOf(name) {
    const i = Math.max(0, page.classes.indexOf(name) - 1);
    return { colour: CLASS_COLOURS[i % CLASS_COLOURS.length], dash: DASHES[Math.floor(i / CLASS_COLOURS.length) % DASHES.length] };
  }

  function showChips(video) {
    const host = byId("chips"), names = video.curves ? video.curves.names : [];
    host.replaceChildren(...(names.length ? [make("span", { className: "lead", text: "Class scores" })] : []), ...names.map((name) => {
      const style = styleOf(name), line = shape("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" });
      const stroke = shape("line", { x1: 0, x2: 22, y1: 4, y2: 4, "stroke-width": 2.4, "stroke-dasharray": style.dash.join(" ") });
      stroke.style.stroke = `var(--${style.colour})`;
      line.append(stroke);
      const chip = make("button", { type: "button", className: video.classes.includes(name) ? "own" : "" }, line, name);
      chip.setAttribute("aria-pressed", String(state.shown.has(name)));
      chip.addEventListener("click", () => {
        if (!state.shown.delete(name)) state.shown.add(name);
        chip.setAttribute("aria-pressed", String(state.shown.has(name)));
        drawTimeline(); moveTo(state.frame, { seek: false });
      });
      return chip;
    }));
  }

  // ---- hands -----------------------------------------------------------------------------------------------------

  function zoom(factor) {
    const video = state.video, [from, to] = state.view;
    const span = Math.min(video.frames, Math.max(8, (to - from) * factor));
    const start = Math.min(Math.max(0, state.frame - ((state.frame - from) / (to - from)) * span), video.frames - span);
    state.view = [start, start + span];
    drawTimeline();
  }

  function hands() {
    byId("theta").addEventListener("input", () => later("theta", () => setTheta(fromKnob(+byId("theta").value))));
    byId("theta-number").addEventListener("change", () => {
      const value = Number(byId("theta-number").value.replace(",", "."));
      if (byId("theta-number").value.trim() && Number.isFinite(value)) setTheta(value);
      byId("theta-number").blur(); update();
    });
    byId("theta-reset").addEventListener("click", () => setTheta(null));
    byId("order").addEventListener("change", (event) => { state.order = event.target.value; refreshList(); byId("list").scrollTop = 0; });
    byId("class").addEventListener("change", refreshList);
    byId("search").addEventListener("input", refreshList);
    byId("zoom-in").addEventListener("click", () => zoom(0.5));
    byId("zoom-out").addEventListener("click", () => zoom(2));
    byId("zoom-all").addEventListener("click", () => { state.view = [0, state.video.frames]; drawTimeline(); });
    const timeline = byId("timeline");
    const seek = (event) => moveTo(axes().frame(event.clientX - timeline.getBoundingClientRect().left));
    timeline.addEventListener("pointerdown", (event) => { timeline.setPointerCapture(event.pointerId); timeline.focus({ preventScroll: true }); seek(event); });
    timeline.addEventListener("pointermove", (event) => { if (event.buttons & 1) later("seek", () => seek(event)); });
    timeline.addEventListener("wheel", (event) => { if (event.ctrlKey) { event.preventDefault(); zoom(event.deltaY > 0 ? 1.25 : 0.8); } }, { passive: false });
    byId("list").addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -1e9, End: 1e9 }[event.key];
      if (step === undefined || !listed.length) return;
      event.preventDefault(); event.stopPropagation();
      select(listed[Math.min(Math.max(listed.indexOf(state.video) + step, 0), listed.length - 1)]);
    });
    document.addEventListener("keydown", keys);
  }

  function keys(event) {
    const video = state.video, busy = event.target.closest?.("input, select, textarea, summary, a");
    if (!video || busy || event.ctrlKey || event.metaKey || event.altKey) return;
    const pressing = event.target.closest?.("button");
    const second = (video.clock || 25) * (event.shiftKey ? 10 : 1), onCurve = event.target.id === "timeline";
    if (event.key === " " && !pressing) { if (player) player.paused ? player.play().catch(() => {}) : player.pause(); }
    else if (event.key === "ArrowRight") moveTo(state.frame + second);
    else if (event.key === "ArrowLeft") moveTo(state.frame - second);
    else if (event.key === "Home" && onCurve) moveTo(0);
    else if (event.key === "End" && onCurve) moveTo(video.frames);
    else if (event.key === "+") zoom(0.5);
    else if (event.key === "-") zoom(2);
    else if (event.key === "0") { state.view = [0, video.frames]; drawTimeline(); }
    else return;
    event.preventDefault();
  }

  function redraw() {
    readColours();
    drawTimeline();
    for (const video of videos) { const canvas = video.row.querySelector("canvas"); watcher.unobserve(canvas); watcher.observe(canvas); }
  }

  function schemes() {
    const box = document.querySelector(".scheme");
    box.hidden = false;
    box.addEventListener("change", (event) => {
      if (event.target.value === "auto") delete document.documentElement.dataset.scheme;
      else document.documentElement.dataset.scheme = event.target.value;
      redraw();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  }

  readColours();
  bend();
  document.querySelector(".bar").hidden = false;
  drawRanking();
  drawIou();
  buildRows();
  update();
  if (listed.length) select(listed[0]);
  schemes();
  hands();
  new ResizeObserver(() => later("redraw", redraw)).observe(byId("timeline"));
  const reached = (name) => {
    document.documentElement.dataset.ready = name;
    document.documentElement.dataset[name] = performance.now().toFixed(0);
  };
  reached("list");
  drawAlarmCurve().then(() => reached("all"));
})();
