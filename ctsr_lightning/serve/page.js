const by = (id) => document.getElementById(id);
let photo = null; // what the server says of it: {id, name, width, height, ...}
let turn = 0; // counts photos, so that what comes late of an earlier one is left
let last = null; // the file, for a second try in part

// What is shown while working, and what went wrong.
function doing(text, value) {
  by("busy").hidden = !text;
  by("doing").textContent = text;
  if (value === undefined) by("progress").removeAttribute("value");
  else by("progress").value = value;
}

function wrong(text) {
  by("error").hidden = !text;
  by("error").textContent = text;
}

class Told extends Error {}

async function fetched(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Told("The server cannot be reached. Is `ctsr serve` still running?");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({ error: `The server failed (${response.status}).` }));
  throw Object.assign(new Told(told.error || "The server failed."), told);
}

// Hands a photo over, restores it and shows both ends of t.
async function take(file, part = "") {
  const mine = ++turn;
  const stale = () => mine !== turn;
  forget();
  last = file;
  wrong("");
  by("choice").hidden = true;
  viewer.root.hidden = by("tools").hidden = true;
  try {
    if (file.size > data.maxBytes)
      throw new Told(`'${file.name}' has ${(file.size / 1e6).toFixed(1)} MB. Up to ${data.maxBytes / 1e6} are taken here.`);
    doing("Handing it over");
    const words = new URLSearchParams({ name: file.name || "photo", part });
    const found = await (await fetched(`photos?${words}`, { method: "POST", body: file })).json();
    if (stale()) {
      navigator.sendBeacon(`photos/${found.id}/drop`);
      return;
    }
    photo = found;
    painting.reset();
    await ends({ t: 0 });
    if (stale()) return;
    by("tools").hidden = false;
    by("drop").classList.add("held");
    by("notes").textContent = found.notes.map((note) => `'${found.name}': ${note}.`).join(" ");
  } catch (error) {
    if (!(error instanceof Told)) throw error;
    if (stale()) return;
    wrong(error.message);
    by("choice").hidden = !error.choice;
  } finally {
    if (!stale()) doing("");
  }
}

// Waits for Gradio's queue, which tells progress as events.
async function restored(id, tell) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ data: [id, by("color").value] }) };
  const { event_id: event } = await (await fetched("gradio_api/call/restore", options)).json();
  const response = await fetched(`gradio_api/call/restore/${event}`);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    text += value || "";
    const events = text.split("\n\n");
    text = events.pop();
    for (const one of events) {
      const [, kind, payload] = /^event: (\w+)\ndata: (.*)$/s.exec(one) || [];
      if (kind === "error") throw new Told("The server failed while it restored this photo.");
      const [now] = (kind === "generating" || kind === "complete") && JSON.parse(payload) || [];
      if (now && now.error) throw new Told(now.error);
      if (now) tell(now);
      if (kind === "complete") return;
    }
    if (done) throw new Told("The server stopped while it restored this photo.");
  }
}

// The address of a restoration, and how long it took.
async function decoded(t, map) {
  const response = await fetched(`photos/${photo.id}/image?${settings(t, map)}`, { method: "POST", body: map && map.cells });
  return { url: URL.createObjectURL(await response.blob()), seconds: Number(response.headers.get("X-Seconds")) };
}

function settings(t, map) {
  return new URLSearchParams({ t, color: by("color").value, ...(map && { across: map.width, down: map.height }) });
}

let addresses = [];

// Computes both ends of t, which takes long, and shows them.
async function ends({ t }) {
  const mine = turn;
  doing("Waiting for its turn");
  await restored(photo.id, (now) => {
    if (mine !== turn || now.done >= now.total) return;
    const left = now.done ? now.seconds / now.done * (now.total - now.done) : 0;
    const rest = left > 2 ? `, about ${Math.ceil(left)} s left` : "";
    doing(`Restoring, tile ${now.done + 1} of ${now.total}${rest}`, now.done / now.total);
  });
  if (mine !== turn) return;
  doing("Fetching the pictures");
  const before = URL.createObjectURL(await (await fetched(`photos/${photo.id}/input`)).blob());
  const stops = [];
  for (const end of data.slider ? [0, 1] : [0]) {
    const { url, seconds } = await decoded(end);
    if (mine !== turn) return;
    stops.push({ t: end, url, seconds });
  }
  await viewer.show({ width: photo.width, height: photo.height, before, stops, t });
  painting.pin();
  addresses.forEach((one) => URL.revokeObjectURL(one));
  addresses = [before, ...stops.map((stop) => stop.url)];
  if (t === 0 && !painting.used) viewer.say(time(t, stops[0].seconds));
  else viewer.rest();
}

const time = (t, seconds, map) => `Exact restoration at t = ${t}${map ? " and the painted map" : ""}, decoded in ` +
  (seconds < 1 ? `${Math.round(1000 * seconds)} ms.` : `${seconds.toFixed(1)} s.`);

// The exact picture once t rests: one request at a time, the last wish counts.
let wanted = false, working = false;
viewer.resting = async () => {
  wanted = true;
  if (working || !photo) return;
  working = true;
  try {
    while (wanted) {
      wanted = false;
      const [mine, t, map] = [turn, viewer.t, painting.map()];
      const { url, seconds } = await decoded(t, map);
      if (mine === turn && !wanted && viewer.t === t) {
        await viewer.settle(url);
        viewer.say(time(t, seconds, map));
      }
      URL.revokeObjectURL(url);
    }
  } catch (error) {
    wrong(error.message);
  } finally {
    working = false;
  }
};

// Places that are to be faithful (blue) or realistic (red), painted on a canvas coarser than the picture.
const painting = {
  canvas: Object.assign(document.createElement("canvas"), { className: "map" }),
  ring: Object.assign(document.createElement("div"), { className: "ring", hidden: true }),
  kind: "", used: false, from: null, at: [0, 0],
  reset() {
    const most = Math.min(1, 512 / Math.max(photo.width, photo.height));
    this.canvas.width = Math.max(1, Math.round(most * photo.width));
    this.canvas.height = Math.max(1, Math.round(most * photo.height));
    this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    this.used = false;
    this.at = [photo.width / 2, photo.height / 2];
    this.choose("");
  },
  choose(kind) {
    this.kind = kind;
    viewer.paint = kind ? this : null;
    viewer.stage.classList.toggle("painting", Boolean(kind));
    by("how").hidden = !kind;
    for (const button of document.querySelectorAll("[data-brush]"))
      button.setAttribute("aria-pressed", String(button.dataset.brush === kind));
    this.layer();
  },
  layer() {
    const shown = this.kind || (by("seen").checked && this.used);
    if (shown && by("seen").checked) viewer.sheet.append(this.canvas);
    else this.canvas.remove();
    if (this.kind) viewer.sheet.append(this.ring);
    else this.ring.remove();
  },
  get radius() { return Number(by("brush").value) / 200 * Math.min(photo.width, photo.height); },
  stroke(x, y) {
    const grid = this.canvas.width / photo.width;
    const [fromX, fromY] = this.from || [x, y];
    this.pen.globalCompositeOperation = this.kind === "erase" ? "destination-out" : "source-over";
    this.pen.strokeStyle = this.kind === "realistic" ? "rgb(255, 0, 0)" : "rgb(0, 0, 255)";
    Object.assign(this.pen, { lineCap: "round", lineWidth: Math.max(1, 2 * this.radius * grid) });
    this.pen.beginPath();
    this.pen.moveTo(fromX * grid, fromY * grid);
    this.pen.lineTo(x * grid + 0.01, y * grid);
    this.pen.stroke();
    this.used = true;
    this.from = this.at = [x, y];
  },
  begin(x, y) {
    this.from = null;
    this.stroke(x, y);
  },
  move(x, y) {
    if (this.from) this.stroke(x, y);
  },
  end() {
    if (this.from) {
      this.pin();
      viewer.changed();
    }
    this.from = null;
  },
  // Fills the canvas by the server's map, in which every place has its own t.
  async automatic() {
    const [mine, { width, height }] = [turn, this.canvas];
    const response = await fetched(`photos/${photo.id}/map?${new URLSearchParams({ across: width, down: height })}`);
    const cells = new Uint8Array(await response.arrayBuffer());
    if (mine !== turn) return;
    const drawn = new ImageData(width, height);
    cells.forEach((t, i) => drawn.data.set([255 - t, 0, t, 255], 4 * i));
    this.pen.putImageData(drawn, 0, 0);
    this.used = true;
    this.layer();
    this.pin();
    viewer.changed();
  },
  // Until the exact picture comes, what is painted is shown at its end of t.
  pin() {
    const map = this.map();
    viewer.pin(!map ? [] : [1, 0].map((stop) => {
      const mask = Object.assign(document.createElement("canvas"), { width: map.width, height: map.height });
      const shares = new ImageData(map.width, map.height);
      for (let i = 0; i < map.width * map.height; i += 1) shares.data[4 * i + 3] = map.cells[2 * i + 1 - stop];
      mask.getContext("2d").putImageData(shares, 0, 0);
      return { stop, mask: mask.toDataURL() };
    }));
  },
  key(event) {
    const step = this.radius / 2;
    const [dx, dy] = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step],
      " ": [0, 0], Enter: [0, 0] }[event.key] || [];
    if (dx === undefined) return false;
    this.at = [Math.max(0, Math.min(photo.width, this.at[0] + dx)), Math.max(0, Math.min(photo.height, this.at[1] + dy))];
    Object.assign(this.ring.style, { left: `${this.at[0] - this.radius}px`, top: `${this.at[1] - this.radius}px`,
      width: `${2 * this.radius}px`, height: `${2 * this.radius}px` });
    this.ring.hidden = false;
    if (event.key === " " || event.key === "Enter") {
      this.begin(...this.at);
      this.end();
    }
    return true;
  },
  // Two bytes a cell: shares of faithful and realistic; nothing where nothing is painted.
  map() {
    if (!this.used) return undefined;
    const { width, height } = this.canvas;
    const pixels = this.pen.getImageData(0, 0, width, height).data;
    const cells = new Uint8Array(2 * width * height);
    for (let i = 0; i < width * height; i += 1) {
      cells[2 * i] = Math.round(pixels[4 * i + 3] * pixels[4 * i + 2] / 255);
      cells[2 * i + 1] = Math.round(pixels[4 * i + 3] * pixels[4 * i] / 255);
    }
    return { width, height, cells };
  },
};

async function download(format) {
  try {
    const map = painting.map();
    const words = settings(viewer.t, map);
    words.set("format", format);
    const response = await fetched(`photos/${photo.id}/file?${words}`, { method: "POST", body: map && map.cells });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = decodeURIComponent(response.headers.get("X-Name"));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    const notes = decodeURIComponent(response.headers.get("X-Notes"));
    if (notes) by("notes").textContent = `'${link.download}': ${notes}.`;
  } catch (error) {
    wrong(error.message);
  }
}

function forget() {
  if (photo) navigator.sendBeacon(`photos/${photo.id}/drop`);
  photo = null;
}

by("color").value = data.color;
by("brushes").hidden = !data.paintable;
by("file").addEventListener("change", (event) => event.target.files[0] && take(event.target.files[0]));
by("color").addEventListener("change", async () => {
  const mine = turn;
  try {
    await ends({ t: viewer.t });
  } catch (error) {
    wrong(error.message);
  }
  if (mine === turn) doing("");
});
by("seen").addEventListener("change", () => painting.layer());
by("automatic").addEventListener("click", () => painting.automatic().catch((error) => wrong(error.message)));
by("clear").addEventListener("click", () => {
  painting.reset();
  painting.pin();
  viewer.changed();
});
for (const button of document.querySelectorAll("[data-brush]"))
  button.addEventListener("click", () => painting.choose(button.dataset.brush));
for (const button of document.querySelectorAll("[data-format]"))
  button.addEventListener("click", () => download(button.dataset.format));
for (const button of document.querySelectorAll("[data-part]"))
  button.addEventListener("click", () => take(last, button.dataset.part));
for (const button of document.querySelectorAll("[data-example]"))
  button.addEventListener("click", async () => {
    const name = button.dataset.example;
    try {
      take(new File([await (await fetched(`examples/${name}`)).blob()], name));
    } catch (error) {
      wrong(error.message);
    }
  });
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]])
  window.addEventListener(name, (event) => {
    event.preventDefault();
    by("drop").classList.toggle("over", over);
    if (name === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
window.addEventListener("paste", (event) => event.clipboardData.files[0] && take(event.clipboardData.files[0]));
window.addEventListener("pagehide", forget);
window.addEventListener("pageshow", (event) => event.persisted && location.reload());
