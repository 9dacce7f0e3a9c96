// What is painted on: the page of `eosvos app` and the widget of a notebook share this module.

const COLOURS = Array.from({ length: 256 }, (_, id) => [0, 1, 2].map(  // of DAVIS, as core.PALETTE
  (c) => [0, 1, 2].reduce((sum, k) => sum + ((id >> (3 * k + c)) & 1) * (128 >> k), 0)));
const TINTS = COLOURS.map(([r, g, b]) => (128 << 24 | b << 16 | g << 8 | r) >>> 0);  // half covering

export function draw(ids, width, height, { id, size, points }) {  // as eosvos.painting.draw
  const r = size / 2;
  points.forEach(([bx, by], n) => {
    const [ax, ay] = points[Math.max(0, n - 1)], dx = bx - ax, dy = by - ay;
    const left = Math.max(0, Math.floor(Math.min(ax, bx) - r));
    const right = Math.min(width, Math.ceil(Math.max(ax, bx) + r));
    const top = Math.max(0, Math.floor(Math.min(ay, by) - r));
    const bottom = Math.min(height, Math.ceil(Math.max(ay, by) + r));
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right; column++) {
        const x = column + 0.5 - ax, y = row + 0.5 - ay;
        const along = Math.min(1, Math.max(0, (x * dx + y * dy) / (dx * dx + dy * dy || 1)));
        const u = x - along * dx, v = y - along * dy;
        if (u * u + v * v <= r * r) ids[row * width + column] = id;
      }
    }
  });
}

const make = (tag, parent, values = {}) => {
  const node = parent.appendChild(document.createElement(tag));
  for (const [name, value] of Object.entries(values)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  return node;
};

// A picture with ids over it, and the tools to change them. `actions` are told what a hand did:
// stroke({id, size, points}), box({id, box}), undo(), redo().
export class Painter {
  constructor(root, width, height, actions) {
    Object.assign(this, { width, height, actions, tool: 'brush', id: 1, size: 0.06 * width });
    this.ids = new Uint8Array(width * height);
    this.canvas = make('canvas', root, {
      width, height, className: 'canvas', tabIndex: 0, role: 'application',
      'aria-label': 'The frame to paint on; Shift and arrows move the brush, Enter presses it',
    });
    this.canvas.style.setProperty('--ratio', width / height);
    this.mask = Object.assign(document.createElement('canvas'), { width, height });
    this.bar = make('div', root, { className: 'row', role: 'toolbar', 'aria-label': 'Tools' });
    this.buttons = {};
    const tools = { brush: 'Brush', eraser: 'Eraser', ...(actions.box && { box: 'Box' }) };
    const keys = { brush: 'B', eraser: 'E', box: 'R' };
    for (const [name, text] of Object.entries(tools)) {
      this.button(this.bar, name, text, `${text} (${keys[name]})`, () => { this.tool = name; });
      this.buttons[name].classList.add('tool');
    }
    const label = make('label', this.bar, { className: 'size', textContent: 'Width' });
    this.range = make('input', label, {
      type: 'range', min: 2, max: Math.round(width / 4), step: 1,
      value: this.size, title: 'Width of brush and eraser ([ and ])',
    });
    this.range.oninput = () => { this.size = Number(this.range.value); this.paint(); };
    this.button(this.bar, 'undo', '↶', 'Undo (Ctrl+Z)', () => actions.undo());
    this.button(this.bar, 'redo', '↷', 'Redo (Ctrl+Y)', () => actions.redo());
    const row = make('div', this.bar, { className: 'ids', role: 'group', 'aria-label': 'Object' });
    for (let k = 1; k <= 9; k++) {
      this.button(row, k, k, `Object ${k}`, () => {
        this.id = k;
        if (this.tool === 'eraser') this.tool = 'brush';
      });
      this.buttons[k].style.setProperty('--id', `rgb(${COLOURS[k]})`);
    }
    this.listen();
    this.update();
  }

  button(parent, name, text, title, click) {
    this.buttons[name] = make('button', parent, { textContent: text, title, 'aria-label': title });
    this.buttons[name].onclick = () => { click(); this.update(); };
  }

  update() {
    for (const name of ['brush', 'eraser', 'box', 1, 2, 3, 4, 5, 6, 7, 8, 9]) {
      const pressed = name === this.tool || name === this.id;
      this.buttons[name]?.setAttribute('aria-pressed', pressed);
    }
    this.paint();
  }

  listen() {
    const { canvas } = this;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      const scale = this.width / box.width, { clientX, clientY } = event;
      return [clientX - box.left, clientY - box.top].map((o) => Math.round(8 * o * scale) / 8);
    };
    canvas.onpointerdown = (event) => {
      if (event.button || this.locked) return;
      canvas.setPointerCapture(event.pointerId);
      this.begin(at(event));
    };
    canvas.onpointermove = (event) => {
      this.cursor = at(event);
      if (this.points) this.extend(this.cursor);
      this.paint();
    };
    canvas.onpointerup = () => this.end();
    canvas.onpointercancel = () => this.end();
    canvas.onpointerleave = () => { this.cursor = null; this.paint(); };
    canvas.onkeydown = (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const move = event.shiftKey && step[event.key];
      const [x, y] = this.cursor ?? [this.width / 2, this.height / 2];
      if (!move && event.key !== 'Enter') return;
      const way = Math.max(1, this.size / 2);
      if (move) this.cursor = [x + move[0] * way, y + move[1] * way];
      else if (!this.locked) { this.begin([x, y]); this.end(); }
      this.paint();
      event.preventDefault();
      event.stopPropagation();
    };
  }

  key(event) {  // -> whether it meant something here
    const name = { b: 'brush', e: 'eraser', r: 'box' }[event.key.toLowerCase()] ?? event.key;
    const control = event.ctrlKey || event.metaKey, letter = event.key.toLowerCase();
    if (control && letter === 'z') this.buttons[event.shiftKey ? 'redo' : 'undo'].click();
    else if (control && letter === 'y') this.buttons.redo.click();
    else if (control || event.altKey) return false;
    else if (event.key === '[' || event.key === ']') {
      this.range.value = this.size * (event.key === ']' ? 1.25 : 0.8);
      this.range.oninput();
    } else if (this.buttons[name]) this.buttons[name].click();
    else return false;
    return true;
  }

  stroke() {
    return { id: this.tool === 'eraser' ? 0 : this.id, size: this.size, points: this.points };
  }

  begin(point) {
    this.points = [point];
    this.actions.begin?.();
    if (this.tool !== 'box') draw(this.ids, this.width, this.height, this.stroke());
    this.tint();
  }

  extend(point) {
    const last = this.points.at(-1);
    if (Math.hypot(point[0] - last[0], point[1] - last[1]) < 1) return;
    this.points.push(point);
    if (this.tool === 'box') return;
    draw(this.ids, this.width, this.height, { ...this.stroke(), points: [last, point] });
    this.tint();
    if (this.points.length >= 1000) { this.end(); this.begin(point); }
  }

  end() {
    if (!this.points) return;
    const stroke = this.stroke(), [[x1, y1], [x2, y2]] = [this.points[0], this.points.at(-1)];
    this.points = null;
    if (this.tool !== 'box') this.actions.stroke(stroke);
    else {
      const inside = (value, most) => Math.min(most, Math.max(0, value));
      const [left, right] = [x1, x2].map((x) => inside(x, this.width)).sort((a, b) => a - b);
      const [top, bottom] = [y1, y2].map((y) => inside(y, this.height)).sort((a, b) => a - b);
      if (right - left >= 4 && bottom - top >= 4) {
        this.actions.box({ id: this.id, box: [left, top, right, bottom] });
      }
    }
    this.paint();
  }

  show(image, ids) {  // either may be undefined: it stays
    if (image) this.image = image;
    if (ids) this.ids = ids;
    this.tint();
  }

  tint() {  // the ids as colours, with a white rim
    const { width, height, ids } = this, pixels = new ImageData(width, height);
    const words = new Uint32Array(pixels.data.buffer);
    for (let n = 0; n < ids.length; n++) {
      const id = ids[n];
      if (!id) continue;
      const inside = ids[n - 1] === id && ids[n + 1] === id
        && ids[n - width] === id && ids[n + width] === id;
      words[n] = inside ? TINTS[id] : 0xffffffff;
    }
    this.mask.getContext('2d').putImageData(pixels, 0, 0);
    this.paint();
  }

  paint() {
    cancelAnimationFrame(this.waiting);
    this.waiting = requestAnimationFrame(() => {
      const context = this.canvas.getContext('2d'), { cursor, points } = this;
      context.clearRect(0, 0, this.width, this.height);
      if (this.image) context.drawImage(this.image, 0, 0, this.width, this.height);
      context.drawImage(this.mask, 0, 0);
      if (!cursor || this.locked) return;
      context.beginPath();
      if (this.tool !== 'box') context.arc(...cursor, this.size / 2, 0, 7);
      else if (points) {
        context.rect(...points[0], cursor[0] - points[0][0], cursor[1] - points[0][1]);
      }
      for (const [style, width] of [['#000', 3], ['#fff', 1.2]]) {
        Object.assign(context, { strokeStyle: style, lineWidth: width * this.width / this.canvas.clientWidth });
        context.stroke();
      }
    });
  }
}

// ---- the page of `eosvos app`

const PAINTING = ['stroke', 'box', 'undo', 'redo'];

class Page {
  constructor() {
    this.unanswered = this.shown = 0;
    this.pictures = new Map();
    for (const node of document.querySelectorAll('#eosvos [id]')) this[node.id] = node;
    this.previous.onclick = () => this.seek(this.shown - 1);
    this.next.onclick = () => this.seek(this.shown + 1);
    this.frame.oninput = () => this.seek(Number(this.frame.value));
    this.go.onclick = () => this.start();
    this.export.onclick = () => this.send({ type: 'export' });
    this.doubt.onclick = () => this.seek(this.nextDoubtful());
    this.clips.onchange = () => { location.href = this.clips.value; };
    this.open.onclick = () => this.files.click();
    this.files.onchange = () => this.upload([...this.files.files]);
    this.webcam.onclick = () => this.record();
    document.addEventListener('keydown', (event) => this.key(event));
    new ResizeObserver(() => this.drawTimeline()).observe(this.timeline);
    this.lock(true);
    this.connect();
  }

  connect() {
    this.socket = new WebSocket(new URL('socket', location.href).href.replace('http', 'ws'));
    this.socket.onmessage = (event) => {
      const { type, ...values } = JSON.parse(event.data);
      this[`on_${type}`](values);
    };
    this.socket.onclose = () => {
      this.say('No connection. What was painted and found is kept: start eosvos app again.', true);
      this.lock(true);
      setTimeout(() => this.connect(), 2000);
    };
  }

  send(message) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    if (PAINTING.includes(message.type)) this.unanswered += 1;
    this.socket.send(JSON.stringify(message));
  }

  say(text, wrong = false) {
    this.status.textContent = text;
    this.status.classList.toggle('error', wrong);
  }

  lock(locked) {
    this.painter && (this.painter.locked = locked);
    const parts = document.querySelectorAll('#eosvos :is(button, select)');
    for (const part of parts) part.disabled = locked;
    if (!locked) this.update();
  }

  on_state({ clips, width, height, frames, busy }) {
    Object.assign(this, { frames, busy, unanswered: 0 });
    this.clips.replaceChildren();
    for (const [value, textContent] of clips) make('option', this.clips, { textContent, value });
    this.clips.value = location.pathname;
    this.frame.max = frames.length - 1;
    const tell = (type) => (values) => this.send({ type, frame: this.shown, ...values });
    this.painter ??= new Painter(this.stage, width, height, {
      stroke: tell('stroke'), box: tell('box'), undo: tell('undo'), redo: tell('redo'),
      begin: () => { this.following = false; if (this.busy) this.send({ type: 'stop' }); },
    });
    this.lock(false);
    const used = frames.filter((frame) => frame.known).map((frame) => frame.index);
    this.say(used.length ? 'Welcome back.' : 'Paint an object, or drag a box around it, then press Go.');
    this.show(this.painter.image ? this.shown : used[0] ?? 0);
  }

  on_frame(frame) {
    this.frames[frame.index] = frame;
    if (this.busy && this.following) this.show(frame.index);
    else if (frame.index === this.shown && !this.unanswered) this.show(this.shown);
    this.update();
  }

  on_progress({ text, share }) {
    this.busy = true;
    this.say(text);
    this.progress.value = share;
    this.update();
  }

  on_idle() {
    this.busy = this.following = false;
    this.progress.value = 0;
    const count = this.frames.filter((frame) => frame.doubtful.length).length;
    this.say(count ? `Ready; ${count} doubtful ${count > 1 ? 'frames' : 'frame'}.` : 'Ready.');
    this.update();
  }

  on_done({ to, folder }) {
    this.settle(to);
    if (!folder) return;
    this.say(`Written to ${folder}. `);
    const link = make('a', this.status, { href: 'export.zip', textContent: 'Download' });
    link.download = '';
  }

  on_error({ to, text }) {
    this.settle(to);
    this.say(text, true);
  }

  settle(to) {
    if (!PAINTING.includes(to)) return;
    this.unanswered = Math.max(0, this.unanswered - 1);
    if (!this.unanswered) this.show(this.shown);
  }

  async upload(files) {  // each behind its size; the page of the new clip comes next
    if (!files.length) return;
    files.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
    this.lock(true);
    this.say(`Opening ${files[0].name} …`);
    const parts = files.flatMap((file) => [new BigUint64Array([BigInt(file.size)]), file]);
    try {
      const answer = await fetch('open', { method: 'POST', body: new Blob(parts) });
      const text = await answer.text();
      if (answer.ok) { location.href = text; return; }
      throw Error(text.replace(/^\d{5}/, (n) => files[Number(n)].name));  // what it is called here
    } catch (error) {
      this.lock(this.socket.readyState !== WebSocket.OPEN);
      this.say(error.message, true);
    }
    this.files.value = '';  // the same may be tried again
  }

  async record() {  // until it is pressed again
    if (this.recorder) { this.recorder.stop(); return; }
    this.webcam.disabled = true;  // somebody is asked first
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: true }), parts = [];
      const recorder = this.recorder = new MediaRecorder(stream);
      const show = (source) => {
        this.camera.srcObject = source;
        this.camera.hidden = !source;
        this.painter.canvas.hidden = !!source;
        this.webcam.textContent = source ? 'End' : 'Webcam';
      };
      recorder.ondataavailable = (event) => parts.push(event.data);
      recorder.onstop = () => {
        this.recorder = null;
        for (const track of stream.getTracks()) track.stop();
        show(null);
        this.upload([new File(parts, 'the recording')]);
      };
      recorder.start();
      setTimeout(() => { if (this.recorder === recorder) recorder.stop(); }, 10_000);
      show(stream);
      this.say('Recording, for ten seconds at most …');
    } catch (error) {
      this.say(`No webcam: ${error.message}`, true);
    }
    this.webcam.disabled = false;
  }

  start() {
    if (this.busy) { this.send({ type: 'stop' }); return; }
    this.following = true;
    this.send({ type: 'go', frame: this.shown });
  }

  seek(index) {
    if (!this.frames || !(index >= 0 && index < this.frames.length)) return;
    this.following = false;
    this.show(index);
  }

  nextDoubtful() {
    const order = this.frames.map((_, n) => (this.shown + 1 + n) % this.frames.length);
    return order.find((index) => this.frames[index].doubtful.length);
  }

  async show(index) {  // the newest wish wins, and what is being painted is left alone
    this.shown = index;
    this.update();
    if (this.loading) { this.again = true; return; }
    this.loading = true;
    try {
      do {
        this.again = false;
        const wanted = this.shown;
        const [image, ids] = await Promise.all([this.picture(wanted), this.ids(wanted)]);
        if (this.shown !== wanted) this.again = true;
        else if (!this.painter.points && !this.unanswered) this.painter.show(image, ids);
        else this.painter.show(image);
      } while (this.again);
    } catch (error) {
      if (this.socket.readyState === WebSocket.OPEN) throw error;  // else its end is told already
    } finally {
      this.loading = false;
    }
  }

  async picture(index) {
    if (!this.pictures.has(index)) {
      const answer = await fetch(`frame/${index}`);
      this.pictures.set(index, await createImageBitmap(await answer.blob()));
      if (this.pictures.size > 50) this.pictures.delete(this.pictures.keys().next().value);
    }
    return this.pictures.get(index);
  }

  async ids(index) {
    return new Uint8Array(await (await fetch(`mask/${index}`)).arrayBuffer());
  }

  update() {
    const { shown, frames, busy, painter } = this, last = frames.length - 1;
    this.frame.value = shown;
    this.number.textContent = `${shown + 1} of ${last + 1}`;
    this.previous.disabled = shown === 0;
    this.next.disabled = shown === last;
    this.go.textContent = busy ? 'Stop' : 'Go';
    this.doubt.disabled = !frames.some((frame) => frame.doubtful.length);
    this.export.disabled = busy || !frames.some((frame) => frame.known);
    painter.buttons.undo.disabled = !frames[shown].undo;
    painter.buttons.redo.disabled = !frames[shown].redo;
    cancelAnimationFrame(this.waiting);
    this.waiting = requestAnimationFrame(() => this.drawTimeline());
  }

  drawTimeline() {
    if (!this.frames) return;
    const seen = new Set(this.frames.flatMap((frame) => [
      ...frame.painted ?? [], ...Object.keys(frame.scores).map(Number),
    ]));
    const objects = [...seen].sort();
    if (String(objects) !== String(this.objects)) this.makeTracks(objects);
    for (const id of objects) this.drawTrack(id, this.tracks[id]);
    this.legend.hidden = !objects.length;
  }

  makeTracks(objects) {
    this.objects = objects;
    this.tracks = {};
    this.timeline.replaceChildren();
    for (const id of objects) {
      const row = make('div', this.timeline, { className: 'track' });
      make('span', row, { textContent: `Object ${id}` });
      const canvas = this.tracks[id] = make('canvas', row, { role: 'img' });
      canvas.onclick = (event) => {
        this.seek(Math.floor(event.offsetX / canvas.clientWidth * this.frames.length));
      };
    }
  }

  drawTrack(id, canvas) {
    canvas.width = canvas.clientWidth * devicePixelRatio;
    canvas.height = canvas.clientHeight * devicePixelRatio;
    const context = canvas.getContext('2d'), { width, height } = canvas, { frames } = this;
    const cell = width / frames.length, gap = cell > 4 * devicePixelRatio ? devicePixelRatio : 0;
    const part = (n, top, bottom, style) => {
      context.fillStyle = style;
      context.fillRect(n * cell, top * height, cell - gap, (bottom - top) * height);
    };
    let there = 0, doubtful = 0;
    frames.forEach((frame, n) => {
      const given = frame.painted?.includes(id), score = given ? 1 : frame.scores[id] ?? 0;
      if (score) part(n, 0, 1, `rgba(${COLOURS[id]}, ${0.15 + 0.6 * score})`);
      if (given) part(n, 0, 0.22, '#000');
      if (frame.doubtful.includes(id)) part(n, 0.72, 1, '#b3401b');
      there += score > 0;
      doubtful += frame.doubtful.includes(id);
    });
    context.strokeStyle = '#24303a';
    context.lineWidth = 2 * devicePixelRatio;
    context.strokeRect(this.shown * cell, 1, Math.max(cell - gap, 2), height - 2);
    canvas.setAttribute('aria-label',
      `Object ${id} is in ${there} of ${frames.length} frames, ${doubtful} doubtful`);
  }

  key(event) {
    if (!this.frames || this.painter.locked) return;
    if (event.target === this.clips) return;
    const { target, key } = event, last = this.frames.length - 1;
    const jump = { ArrowLeft: this.shown - 1, ArrowRight: this.shown + 1, Home: 0, End: last }[key];
    const press = { n: this.doubt, N: this.doubt, ' ': this.go }[key];
    const pressing = key === ' ' && ['BUTTON', 'SUMMARY', 'A'].includes(target.tagName);
    if (pressing || (jump !== undefined && target.type === 'range')) return;
    if (this.painter.key(event)) { /* done */ }
    else if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    else if (jump !== undefined) this.seek(jump);
    else if (press) press.click();
    else return;
    event.preventDefault();
  }
}

if (document.querySelector('#eosvos #stage')) window.eosvos = new Page();

// ---- the widget of a notebook, which anywidget renders: its model holds a picture and the strokes

export default {
  async render({ model, el }) {
    el.classList.add('eosvos');
    const [width, height] = model.get('size'), undone = [];
    const keep = (strokes) => { model.set('strokes', strokes); model.save_changes(); };
    const painter = new Painter(el, width, height, {
      stroke: (stroke) => { undone.length = 0; keep([...model.get('strokes'), stroke]); },
      undo: () => {
        undone.push(...model.get('strokes').slice(-1));
        keep(model.get('strokes').slice(0, -1));
      },
      redo: () => keep([...model.get('strokes'), ...undone.splice(-1)]),
    });
    const replay = () => {
      const ids = new Uint8Array(width * height);
      for (const stroke of model.get('strokes')) draw(ids, width, height, stroke);
      painter.show(undefined, ids);
    };
    model.on('change:strokes', replay);
    el.addEventListener('keydown', (event) => {
      if (!painter.key(event)) return;
      event.preventDefault();
      event.stopPropagation();  // the notebook has other plans with these keys
    });
    painter.show(await createImageBitmap(new Blob([model.get('picture')], { type: 'image/jpeg' })));
    replay();
    return () => model.off('change:strokes', replay);
  },
};
