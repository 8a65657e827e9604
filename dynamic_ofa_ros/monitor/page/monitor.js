'use strict';
// The page of monitor_node: draws what the server sends, and sends what the user sets.
// Texts from the ROS graph are set as text, never as markup.

const WINDOW_S = 60;
const BAR_S = 0.5;
const RECENT_S = 10;
const SILENT_S = 2;
const DRAW_MS = 200;
const REFUSAL_MS = 20000;
const MAX_SWITCHES = 100;

// Column of a frame, name, index of the colour.
const STAGES = [
  ['input_age_ms', 'transport'], ['executor_wait_ms', 'executor'], ['queue_wait_ms', 'queue'],
  ['preprocess_ms', 'preprocess'], ['inference_ms', 'inference'], ['postprocess_ms', 'postprocess'],
  ['publish_ms', 'publish'],
].map(([column, name], index) => ({ column, name, colour: `--stage-${index}` }));
const SCOPES = {
  inference: { stages: [4, 5], total: 'inference_ms', words: 'inference alone' },
  node: { stages: [1, 7], total: 'node_ms', words: 'from arrival to label' },
  end_to_end: { stages: [0, 7], total: 'end_to_end_ms', words: 'from the image\'s stamp to label' },
};
const MAIN = ['constraints.', 'manager.policy', 'manager.fixed_level', 'enabled'];
const UNITS = [['_ms', 'ms'], ['_s', 's'], ['_hz', 'Hz'], ['_per_minute', '/min']];
const LOSSES = [
  ['lost_frames', 'lost in transport'], ['dropped_frames', 'replaced by a newer one, or too old'],
  ['rejected_frames', 'could not be decoded'], ['failed_frames', 'inference failed'],
  ['violations', 'later than the limit'],
];

const views = new Map();
const waiting = new Map();
let columns = {};
let socket = null;
let nextId = 1;
let retryMs = 500;
let clockOffsetS = 0;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function isNumber(value) { return typeof value === 'number' && Number.isFinite(value); }

function number(value, digits = 1) { return isNumber(value) ? value.toFixed(Math.abs(value) < 100 ? digits : 0) : '–'; }

// toLocaleString would look up the locale for each number.
const wholeNumber = new Intl.NumberFormat('en');

function percent(value, digits = 1) { return isNumber(value) ? (100 * value).toFixed(digits) : '–'; }

function setText(node, text) { if (node.textContent !== text) node.textContent = text; }

function nowS() { return Date.now() / 1000 - clockOffsetS; }

function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

// One classifier on the page.
class View {
  constructor(name) {
    this.name = name;
    this.frames = [];
    this.switches = [];
    this.levels = [];
    this.predictions = [];
    this.latest = null;
    this.counters = [];
    this.fields = new Map();
    this.isVisible = false;
    this.isCurrent = false;
    this.root = document.getElementById('classifier').content.cloneNode(true).firstElementChild;
    this.root.dataset.classifier = name;
    this.find('h2').textContent = name;
    this.tiles = {};
    for (const [key, words] of [
      ['level', 'level'], ['accuracy', 'accuracy'], ['p50', 'latency p50'],
      ['p95', 'latency p95'], ['late', `late in ${RECENT_S} s`], ['rate', 'labels'],
      ['slowdown', 'slowdown'], ['switch', 'last switch'], ['load', 'device load'], ['temperature', 'temperature'], ['power', 'power'],
    ]) {
      const tile = element('div', 'tile');
      tile.dataset.tile = key;
      tile.append(element('b', '', '–'), element('span', '', words));
      this.find('.tiles').append(tile);
      this.tiles[key] = tile;
    }
  }

  find(selector) { return this.root.querySelector(selector); }

  value(parameter) { const field = this.fields.get(parameter); return field ? field.parameter.value : null; }

  get scope() { return SCOPES[this.value('constraints.latency_scope')] || SCOPES.node; }

  update(entry) {
    this.isCurrent = this.isVisible;
    this.alive = entry.alive;
    this.imageTopic = entry.image_topic;
    if (entry.levels) {
      this.levels = entry.levels;
      this.family = entry.family;
      this.find('.ladder tbody').replaceChildren();
    }
    if (entry.parameters) this.setParameters(entry.parameters);
    if (entry.frames.length) {
      this.frames.push(...entry.frames);
      const newest = this.frames[this.frames.length - 1][columns.time_s];
      clockOffsetS = Math.max(clockOffsetS - 0.05, Date.now() / 1000 - newest - 0.2);
      const first = this.frames.findIndex((frame) => frame[columns.time_s] > newest - WINDOW_S - 2);
      if (first > 0) this.frames.splice(0, first);
    }
    if (entry.latest) { this.latest = entry.latest; this.predictions = entry.predictions_ms; }
    if (entry.switches.length) this.addSwitches(entry.switches);
  }

  recent(seconds) {
    const from = nowS() - seconds;
    let first = this.frames.length;
    while (first > 0 && this.frames[first - 1][columns.time_s] > from) first -= 1;
    return this.frames.slice(first);
  }

  draw() {
    const latest = this.latest;
    const recent = this.recent(RECENT_S);
    const silent = !this.recent(SILENT_S).length;
    const total = columns[this.scope.total];
    const timed = recent.filter((f) => isNumber(f[total]) && isNumber(f[columns.max_latency_ms]));
    const late = timed.length ? timed.filter((f) => f[total] > f[columns.max_latency_ms]).length / timed.length : NaN;
    this.drawState(latest, silent, late);
    setText(this.find('.scope'), `${this.scope.words}, ms`);
    setText(this.find('.waiting'), this.imageTopic ? `waiting for ${this.imageTopic}` : 'not active: it does not subscribe to images');
    if (!latest) return;
    this.tile('level', latest.level, `of ${latest.level_count}`);
    this.tile('accuracy', percent(latest.level_accuracy), '%');
    const limit = latest.max_latency_ms;
    this.tile('p95', number(latest.latency_p95_ms), 'ms', isNumber(limit) && latest.latency_p95_ms > limit);
    this.tile('p50', number(latest.latency_p50_ms), 'ms');
    this.tile('switch', number(latest.last_switch_ms), 'ms');
    this.tile('late', percent(late), '%', late > 1 - (this.value('constraints.quantile') ?? 0.95));
    this.tile('rate', number(silent ? 0 : latest.throughput_hz), 'Hz');
    this.tile('slowdown', number(latest.slowdown, 2), '×', latest.contended);
    this.tile('load', percent(latest.device_load, 0), '%');
    this.tile('temperature', number(latest.device_temperature_celsius, 0), '°C');
    this.tile('power', number(latest.device_power_w, 1), 'W');
    this.drawLadder(latest);
    this.drawLosses(latest);
    this.drawLatency();
    this.drawLevels();
  }

  drawState(latest, silent, late) {
    const allowed = 1 - (this.value('constraints.quantile') ?? 0.95);
    let state = ['on time', 'good'];
    if (!this.alive) state = ['gone', 'bad'];
    else if (this.value('enabled') === false) state = ['disabled', 'warn'];
    else if (silent) state = ['no labels', 'warn'];
    else if (!latest.feasible) state = ['no level fits', 'bad'];
    else if (!isNumber(latest.max_latency_ms)) state = ['no latency limit', 'good'];
    else if (late > allowed) state = ['too many late', 'bad'];
    const badge = this.find('.state');
    setText(badge, state[0]);
    badge.className = `badge state ${state[1]}`;
    this.root.classList.toggle('gone', !this.alive);
    const about = [this.family, latest && latest.platform, latest && `policy ${latest.policy}`];
    setText(this.find('.about'), about.filter(Boolean).join(' · '));
  }

  tile(key, value, unit, isBad = false) {
    const tile = this.tiles[key];
    const shown = `${value} ${unit}`;
    if (tile.dataset.shown !== shown) {
      tile.dataset.shown = shown;
      tile.firstChild.replaceChildren(`${value} `, element('small', '', unit));
    }
    tile.classList.toggle('bad', Boolean(isBad));
    tile.hidden = value === '–' && ['load', 'temperature', 'power'].includes(key);
  }

  drawLadder(latest) {
    const body = this.find('.ladder tbody');
    if (body.childElementCount !== this.levels.length) {
      body.replaceChildren(...[...this.levels].reverse().map((level) => ladderRow(level)));
    }
    const limit = latest.max_latency_ms;
    for (const row of body.children) {
      const level = this.levels[row.dataset.level - 1];
      const predicted = this.predictions[row.dataset.level - 1];
      row.className = level.index === latest.level ? 'active' : '';
      const cell = row.lastElementChild;
      setText(cell, isNumber(predicted) ? `${number(predicted)} ms` : '–');
      cell.className = isNumber(limit) && isNumber(predicted) ? (predicted > limit ? 'over' : 'within') : '';
      const isTooLow = isNumber(latest.min_accuracy) && level.accuracy < latest.min_accuracy;
      row.children[1].className = isTooLow ? 'over' : '';
    }
  }

  drawLosses(latest) {
    const at = nowS();
    // After a time outside the window, the counters of ten seconds ago are not known.
    if (this.counters.length && this.counters.at(-1)[0] < at - SILENT_S) this.counters = [];
    this.counters.push([at, latest]);
    while (this.counters.length > 1 && this.counters[1][0] < at - RECENT_S) this.counters.shift();
    const before = this.counters[0][1];
    const rows = [['sequence', 'labelled'], ...LOSSES];
    const body = this.find('.losses tbody');
    if (!body.childElementCount) {
      for (const [key, words] of rows) {
        const row = element('tr');
        row.dataset.count = key;
        row.append(element('td', '', words), element('td'), element('td'));
        body.append(row);
      }
    }
    rows.forEach(([key], index) => {
      const [, recent, all] = body.children[index].children;
      const since = Math.max(0, latest[key] - before[key]);
      setText(recent, wholeNumber.format(since));
      recent.className = since && key !== 'sequence' ? 'some' : '';
      setText(all, wholeNumber.format(latest[key]));
    });
  }

  addSwitches(switches) {
    this.switches.push(...switches);
    this.switches.splice(0, Math.max(0, this.switches.length - MAX_SWITCHES));
    const items = [...this.switches].reverse().map((item) => {
      const line = element('li');
      const time = element('time', '', new Date(1000 * item.time_s).toLocaleTimeString('en-GB'));
      const isUp = item.to > item.from;
      const from = item.from ? `${item.from} → ${item.to}` : `start ${item.to}`;
      const move = element('span', `move ${item.from ? (isUp ? 'up' : 'down') : ''}`, from);
      line.append(time, move, element('span', 'reason', item.reason));
      return line;
    });
    this.find('.switches ol').replaceChildren(...items);
    setText(this.find('.count'), items.length > 1 ? `the last ${items.length}, newest first` : '');
  }

  showPicture(answer, bitmap) {
    const canvas = this.find('.picture canvas');
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
    }
    canvas.getContext('2d').drawImage(bitmap, 0, 0);
    canvas.hidden = false;
    if (answer.level === undefined) return;
    const label = answer.label ? `${answer.label}  ${percent(answer.score, 0)} %` : 'no class above the threshold';
    setText(this.find('.picture .label'), label);
    setText(this.find('.picture .level'), `level ${answer.level}`);
  }

  setParameters(parameters) {
    const names = parameters.map((p) => p.name).join();
    if (names !== this.names) {
      this.names = names;
      this.fields.clear();
      const main = [];
      const more = [];
      for (const parameter of parameters) {
        const isMain = MAIN.some((start) => parameter.name.startsWith(start));
        const field = new Field(this, parameter, isMain);
        this.fields.set(parameter.name, field);
        (isMain ? main : more).push(field);
      }
      const rank = (field) => MAIN.findIndex((start) => field.parameter.name.startsWith(start));
      const order = ['max_latency_ms', 'min_accuracy', 'quantile'];
      const place = (field) => { const at = order.findIndex((end) => field.parameter.name.endsWith(end)); return at < 0 ? 9 : at; };
      main.sort((a, b) => rank(a) - rank(b) || place(a) - place(b));
      this.find('.main').replaceChildren(...main.map((field) => field.root));
      this.find('.more').replaceChildren(...more.map((field) => field.root));
    }
    for (const parameter of parameters) this.fields.get(parameter.name).show(parameter);
  }

  // Draws a bar for the median frame of each half second, and a dot for its slowest frame.
  drawLatency() {
    const chart = new Chart(this.find('canvas.latency'));
    const [from, to] = this.scope.stages;
    const stages = STAGES.slice(from, to);
    const groups = new Map();
    for (const frame of this.frames) {
      let total = 0;
      for (const stage of stages) total += frame[columns[stage.column]] ?? 0;
      const bar = Math.floor(frame[columns.time_s] / BAR_S);
      if (!groups.has(bar)) groups.set(bar, []);
      groups.get(bar).push([total, frame]);
    }
    const slowest = [];
    for (const group of groups.values()) {
      group.sort((a, b) => a[0] - b[0]);
      slowest.push(group[group.length - 1][0]);
    }
    slowest.sort((a, b) => a - b);
    const limit = this.frames.length ? this.frames[this.frames.length - 1][columns.max_latency_ms] : null;
    // Rare spikes are cut off, because they would compress the rest of the chart.
    const usual = slowest[Math.floor(0.9 * (slowest.length - 1))] ?? 10;
    chart.axes(Math.max(1.15 * usual, 1.5 * (limit ?? 0), 1));
    const { context } = chart;
    const inks = stages.map((stage) => colour(stage.colour));
    const [red, grey] = [colour('--bad'), colour('--muted')];
    const width = Math.max(1, 0.75 * chart.width * BAR_S / WINDOW_S);
    for (const [bar, group] of groups) {
      const x = chart.x((bar + 0.5) * BAR_S);
      if (x < chart.left + width / 2) continue;
      let low = 0;
      const [, median] = group[Math.floor(group.length / 2)];
      stages.forEach((stage, index) => {
        const high = low + (median[columns[stage.column]] ?? 0);
        context.fillStyle = inks[index];
        context.fillRect(x - width / 2, chart.y(high), width, chart.y(low) - chart.y(high));
        low = high;
      });
      const [total, frame] = group[group.length - 1];
      const bound = frame[columns.max_latency_ms];
      context.fillStyle = isNumber(bound) && total > bound ? red : grey;
      context.beginPath();
      context.arc(x, chart.y(total), 1.75, 0, 2 * Math.PI);
      context.fill();
    }
    chart.line(this.frames, columns.max_latency_ms, red, [7, 4], 2);
    this.drawLegend(stages, limit);
  }

  drawLegend(stages, limit) {
    const recent = this.recent(SILENT_S);
    const legend = this.find('.legend');
    const wanted = stages.map((stage) => stage.name).join();
    if (legend.dataset.stages !== wanted) {
      legend.dataset.stages = wanted;
      legend.replaceChildren(...[...stages.map((s) => s.name), 'slowest', 'limit'].map((name, index) => {
        const item = element('span');
        const key = element('i', index < stages.length ? '' : name);
        if (index < stages.length) key.style.background = `var(${stages[index].colour})`;
        item.append(key, element('span'));
        return item;
      }));
    }
    stages.forEach((stage, index) => {
      const values = recent.map((f) => f[columns[stage.column]]).filter(isNumber).sort((a, b) => a - b);
      const middle = values[Math.floor(values.length / 2)];
      setText(legend.children[index].lastChild, `${stage.name} ${number(middle, 2)} ms`);
    });
    setText(legend.children[stages.length].lastChild, 'slowest frame, red if late');
    setText(legend.lastChild.lastChild, isNumber(limit) ? `limit ${number(limit)} ms` : 'no limit');
  }

  drawLevels() {
    const chart = new Chart(this.find('canvas.levels'));
    const count = Math.max(this.levels.length, 1);
    chart.axes(count + 0.5, 0.5, count > 1 ? [1, count] : [1]);
    chart.line(this.frames, columns.level, colour('--accent'), [], 2.5);
  }

  remove() {
    visibility.unobserve(this.root);
    this.root.remove();
  }
}

// Classifiers outside the window are not drawn, and the server does not send their data.
const visibility = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const view = views.get(entry.target.dataset.classifier);
    if (view) {
      view.isVisible = entry.isIntersecting;
      view.isCurrent = false;
    }
  }
  const shown = [...views.values()].filter((view) => view.isVisible).map((view) => view.name);
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ shown }));
});

function ladderRow(level) {
  const row = element('tr');
  row.dataset.level = level.index;
  const name = element('td', '', String(level.index));
  name.append(element('small', '', `${level.resolution} px`));
  name.title = level.name;
  const bar = element('td');
  const track = element('div', 'track');
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const rect = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
  rect.setAttribute('width', `${100 * (level.accuracy ?? 0)}%`);
  rect.setAttribute('height', '100%');
  svg.append(rect);
  track.append(svg);
  bar.append(track);
  row.append(name, element('td', '', `${percent(level.accuracy)} %`), bar, element('td', '', '–'));
  return row;
}

// A chart of the last minute.
class Chart {
  constructor(canvas) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    this.context = canvas.getContext('2d');
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.context.clearRect(0, 0, width, height);
    this.left = 38;
    this.width = width - this.left - 4;
    this.top = 6;
    this.bottom = height - 18;
    this.end = nowS();
  }

  x(time) { return this.left + this.width * (1 - (this.end - time) / WINDOW_S); }

  y(value) {
    const share = (Math.min(value, this.high) - this.low) / (this.high - this.low);
    return this.bottom - (this.bottom - this.top) * share;
  }

  axes(high, low = 0, ticks = null) {
    this.high = high;
    this.low = low;
    const { context } = this;
    context.font = '11px system-ui, sans-serif';
    context.lineWidth = 1;
    context.strokeStyle = colour('--line');
    context.fillStyle = colour('--muted');
    context.textAlign = 'right';
    context.textBaseline = 'middle';
    for (const tick of ticks || niceTicks(high)) {
      const y = Math.round(this.y(tick)) + 0.5;
      context.beginPath();
      context.moveTo(this.left, y);
      context.lineTo(this.left + this.width, y);
      context.stroke();
      context.fillText(String(tick), this.left - 6, y);
    }
    context.textBaseline = 'alphabetic';
    for (let ago = WINDOW_S; ago >= 0; ago -= 15) {
      context.textAlign = ago === 0 ? 'right' : ago === WINDOW_S ? 'left' : 'center';
      const words = ago === 0 ? 'now' : `-${ago} s`;
      context.fillText(words, this.x(this.end - ago), this.bottom + 14);
    }
  }

  // Draws a column of the frames as steps, with gaps at null values.
  line(frames, column, ink, dashes, thickness = 1.5) {
    const { context } = this;
    context.save();
    context.beginPath();
    context.rect(this.left, 0, this.width, this.bottom + 2);
    context.clip();
    context.beginPath();
    let before = null;
    for (const frame of frames) {
      const value = frame[column];
      if (isNumber(value)) {
        const x = this.x(frame[columns.time_s]);
        if (before === null) context.moveTo(x, this.y(value));
        else if (before !== value) context.lineTo(x, this.y(before));
        context.lineTo(x, this.y(value));
      }
      before = isNumber(value) ? value : null;
    }
    context.strokeStyle = ink;
    context.lineWidth = thickness;
    context.setLineDash(dashes);
    context.stroke();
    context.restore();
  }
}

function niceTicks(high) {
  const rough = high / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const ticks = [];
  for (let i = 0; i * step < high; i += 1) ticks.push(Number((i * step).toPrecision(6)));
  return ticks;
}

// One parameter: an input for its type, and the answer of the node.
class Field {
  constructor(view, parameter, isMain) {
    this.view = view;
    this.parameter = parameter;
    this.inputs = [];
    this.root = element('div', 'field');
    this.root.dataset.parameter = parameter.name;
    const row = element('div', 'row');
    const short = parameter.name.replace(/^(constraints|manager)\./, '');
    const [end, unit] = UNITS.find(([suffix]) => short.endsWith(suffix)) || ['', ''];
    const words = short.slice(0, short.length - end.length).replace(/[._]/g, ' ');
    const name = element('span', 'name', words);
    name.title = `${parameter.name}: ${parameter.description}`;
    const none = /\b0 = [^;,.]+/.exec(parameter.description);
    if (none && isMain) name.append(element('small', '', none[0]));
    const value = element('span', 'value');
    this.input = this.makeInput();
    value.append(this.input, element('span', 'unit', unit));
    row.append(name, value);
    if (parameter.kind === 'float' && isMain && parameter.highest !== null) {
      this.slider = this.register(element('input'));
      this.slider.type = 'range';
      this.slider.setAttribute('aria-label', `${parameter.name} slider`);
      this.slider.addEventListener('input', () => { this.input.value = Number(this.slider.value); });
      this.slider.addEventListener('change', () => this.send(Number(this.slider.value)));
      row.append(this.slider);
    }
    if (!isMain) row.append(element('span', 'meaning', parameter.description));
    this.refusal = element('span', 'refused');
    this.refusal.setAttribute('role', 'alert');
    row.append(this.refusal);
    this.root.append(row);
  }

  register(input) { this.inputs.push(input); return input; }

  makeInput() {
    const { parameter } = this;
    const isChoice = parameter.kind === 'str' && parameter.choices.length;
    const input = this.register(element(isChoice ? 'select' : 'input'));
    input.setAttribute('aria-label', parameter.name);
    if (isChoice) {
      for (const choice of parameter.choices) input.append(new Option(choice, choice));
      input.addEventListener('change', () => this.send(input.value));
    } else if (parameter.kind === 'bool') {
      input.type = 'checkbox';
      input.addEventListener('change', () => this.send(input.checked));
    } else if (parameter.kind === 'str') {
      input.type = 'text';
      input.addEventListener('change', () => this.send(input.value));
    } else {
      input.type = 'number';
      input.step = parameter.kind === 'int' ? 1 : 'any';
      input.inputMode = 'decimal';
      // The node checks the range and sends the reason if it rejects the value.
      input.addEventListener('change', () => this.send(input.value === '' ? null : Number(input.value)));
    }
    return input;
  }

  send(value) {
    this.refuse('');
    if (value === null) { this.show(this.parameter, true); return; }
    const id = nextId;
    nextId += 1;
    waiting.set(id, this);
    const request = { id, classifier: this.view.name, parameter: this.parameter.name, value };
    if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(request));
    else this.answer(false, 'not connected to monitor_node');
  }

  answer(isTaken, reason) {
    if (!isTaken) { this.refuse(reason || 'rejected without a reason'); this.show(this.parameter, true); }
  }

  refuse(reason) {
    setText(this.refusal, reason);
    clearTimeout(this.timer);
    if (reason) this.timer = setTimeout(() => this.refuse(''), REFUSAL_MS);
  }

  // Shows the current value, unless the user is editing it.
  show(parameter, isForced = false) {
    const isNew = isForced || parameter.value !== this.parameter.value;
    this.parameter = parameter;
    const isTouched = this.inputs.includes(document.activeElement);
    if (this.shown && !isNew && isTouched) return;
    this.shown = true;
    if (parameter.kind === 'bool') this.input.checked = parameter.value;
    else this.input.value = parameter.value;
    if (this.slider) {
      this.slider.min = parameter.lowest;
      this.slider.max = this.sliderMax();
      this.slider.step = this.slider.max > 100 ? 1 : this.slider.max > 1 ? 0.1 : 0.005;
      this.slider.value = parameter.value;
    }
  }

  // The range of a latency parameter is too wide for a slider; three times the latency of the
  // slowest level is enough.
  sliderMax() {
    const { parameter, view } = this;
    if (!parameter.name.endsWith('_ms')) return parameter.highest;
    const slowest = Math.max(10, ...view.levels.map((level) => level.latency_ms ?? 0));
    const wanted = Math.max(3 * slowest, 1.5 * parameter.value);
    return Math.min(parameter.highest, Math.ceil(wanted / 10) * 10);
  }
}

function take(message) {
  if (message.fields) columns = Object.fromEntries(message.fields.map((name, index) => [name, index]));
  if (message.answer) {
    const field = waiting.get(message.answer.id);
    waiting.delete(message.answer.id);
    if (field) field.answer(message.answer.taken, message.answer.reason);
  }
  if (!message.classifiers) return;
  const names = new Set(message.classifiers.map((entry) => entry.name));
  for (const [name, view] of views) if (!names.has(name)) { view.remove(); views.delete(name); }
  for (const entry of message.classifiers) {
    if (!views.has(entry.name)) {
      const view = new View(entry.name);
      views.set(entry.name, view);
      const after = [...views.keys()].sort().find((name) => name > entry.name && views.get(name).root.isConnected);
      document.getElementById('classifiers').insertBefore(view.root, after ? views.get(after).root : null);
      visibility.observe(view.root);
    }
    if (entry.frames) views.get(entry.name).update(entry);
  }
  document.getElementById('empty').hidden = views.size > 0;
  const surplus = document.getElementById('surplus');
  surplus.hidden = !message.left_out;
  setText(surplus, `${message.left_out} more ${message.left_out === 1 ? 'classifier is' : 'classifiers are'} not shown.`);
}

// Decodes a picture once for all its classifiers and frees it at once; as images with URLs, old
// pictures would stay in the memory of the browser for long.
async function takePicture(buffer) {
  const length = new DataView(buffer).getUint16(0);
  const answers = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 2, length)));
  const jpeg = new Blob([new Uint8Array(buffer, 2 + length)], { type: 'image/jpeg' });
  const bitmap = await createImageBitmap(jpeg);
  for (const [name, answer] of Object.entries(answers)) views.get(name)?.showPicture(answer, bitmap);
  bitmap.close();
}

function connection(words, kind) {
  const badge = document.getElementById('connection');
  setText(badge, words);
  badge.className = `badge ${kind}`;
}

function connect() {
  if (socket || document.hidden) return;
  const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
  const opened = new WebSocket(`${scheme}://${location.host}/updates`);
  socket = opened;
  opened.binaryType = 'arraybuffer';
  opened.onopen = () => {
    retryMs = 500;
    for (const view of views.values()) view.remove();
    views.clear();
    connection('connected', 'good');
  };
  opened.onmessage = ({ data }) => (typeof data === 'string' ? take(JSON.parse(data)) : takePicture(data));
  opened.onclose = ({ reason }) => {
    if (socket !== opened) return;
    socket = null;
    for (const field of waiting.values()) field.answer(false, 'the connection was lost');
    waiting.clear();
    connection(document.hidden ? 'paused' : reason || 'connection lost, trying again', 'bad');
    setTimeout(connect, retryMs);
    retryMs = Math.min(5000, 2 * retryMs);
  };
}

// A hidden page disconnects, so that it causes no load on the robot.
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) connect();
  else if (socket) socket.close();
});
setInterval(() => {
  if (!document.hidden) for (const view of views.values()) if (view.isCurrent) view.draw();
}, DRAW_MS);
connect();
