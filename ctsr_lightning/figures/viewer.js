"use strict";

// Pictures of one size under a handle and a slider of t. The sheet holds them in pixels of the result and is moved and
// scaled as a whole; the handle stays in the stage. Between two values of t their pictures are blended by opacity.
class Viewer {
  constructor(root) {
    const find = (selector) => root.querySelector(selector);
    Object.assign(this, { root, stage: find(".stage"), sheet: find(".sheet"), handle: find(".handle"),
      slider: find("#t"), value: find(".value"), percent: find(".percent"), status: find(".status") });
    Object.assign(this, { share: 0.5, fitted: true, scale: 1, x: 0, y: 0, stops: [], exact: null, pointers: new Map() });
    this.resting = () => {}; // called when t has rested for 150 ms
    this.paint = null; // takes strokes in pixels of the sheet in place of panning
    this.slider.addEventListener("input", () => this.changed());
    this.handle.addEventListener("keydown", (event) => this.handleKey(event));
    this.handle.addEventListener("pointerdown", (event) => this.handleDrag(event));
    this.stage.addEventListener("keydown", (event) => this.stageKey(event));
    for (const name of ["pointerdown", "pointermove", "pointerup", "pointercancel"])
      this.stage.addEventListener(name, (event) => this.point(event));
    this.stage.addEventListener("dblclick", (event) => event.target.closest(".handle") || this.toggle(event));
    this.stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    for (const button of root.querySelectorAll("[data-zoom]"))
      button.addEventListener("click", () => this.zoom(button.dataset.zoom));
    new ResizeObserver(() => this.layout()).observe(this.stage);
  }

  get t() { return Number(this.slider.value); }

  // Shows a picture before, and restorations at rising values of t: [{t, url}, ...]. One alone has no slider.
  async show({ width, height, before, stops, t }) {
    const image = (url, name) => Object.assign(new Image(width, height), { src: url, alt: name, draggable: false });
    const layers = stops.map((stop) => ({ t: stop.t, image: image(stop.url, `restored at t = ${stop.t}`) }));
    const old = image(before, "before");
    await Promise.all([old, ...layers.map((layer) => layer.image)].map((one) => one.decode()));
    const resized = width !== this.width || height !== this.height;
    Object.assign(this, { width, height, before: old, stops: layers, exact: null });
    const kept = [...this.sheet.querySelectorAll("canvas, .ring")];
    this.sheet.replaceChildren(...layers.map((layer) => layer.image), old, ...kept);
    this.sheet.style.width = `${width}px`;
    this.sheet.style.height = `${height}px`;
    this.root.hidden = false;
    this.root.querySelector(".control").hidden = stops.length < 2;
    this.slider.min = stops[0].t;
    this.slider.max = stops[stops.length - 1].t;
    if (t !== undefined) this.slider.value = t;
    if (resized) this.fitted = true;
    this.layout();
    this.blend();
  }

  // Puts the exact picture at the present t over the blend, until t is moved.
  async settle(url) {
    const image = Object.assign(new Image(this.width, this.height), { src: url, alt: "restored", draggable: false });
    await image.decode();
    this.unsettle();
    this.exact = image;
    this.before.before(image);
  }

  unsettle() {
    if (this.exact) this.exact.remove();
    this.exact = null;
  }

  // Holds places at restorations whatever t is: [{stop, mask}, ...], the number of a stop and the address of a picture
  // whose opacity tells where.
  pin(pins) {
    for (const old of this.sheet.querySelectorAll(".pin")) old.remove();
    for (const { stop, mask } of pins) {
      const image = this.stops[stop].image.cloneNode();
      image.className = "pin";
      Object.assign(image.style, { opacity: 1, maskImage: `url(${mask})`, maskSize: "100% 100%" });
      this.before.before(image);
    }
  }

  changed() {
    this.unsettle();
    this.blend();
    this.rest();
  }

  rest() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.resting(), 150);
  }

  blend() {
    const t = this.t;
    const upper = Math.max(0, this.stops.findIndex((stop) => stop.t >= t));
    const lower = Math.max(0, upper - 1);
    const span = this.stops[upper].t - this.stops[lower].t;
    const weight = span > 0 ? (t - this.stops[lower].t) / span : 1;
    this.stops.forEach((stop, i) => {
      stop.image.style.opacity = i === upper ? weight : i === lower ? 1 : 0;
    });
    this.value.textContent = `t = ${t.toFixed(2)}`;
    this.slider.setAttribute("aria-valuetext", t.toFixed(2));
    if (this.stops.length > 1) {
      const exact = weight === 0 || weight === 1;
      const ends = `t = ${this.stops[lower].t} and ${this.stops[upper].t}`;
      this.say(exact ? `Restored at t = ${t}.` : `A blend of the restorations at ${ends}.`);
    }
  }

  say(text) { this.status.textContent = text; }

  // Place and size of the sheet.
  layout() {
    if (!this.width) return;
    const across = this.stage.clientWidth;
    const down = Math.round(Math.min(across * this.height / this.width, Math.max(240, 0.7 * window.innerHeight)));
    this.stage.style.height = `${down + 2}px`; // with its borders
    const least = Math.min(across / this.width, down / this.height);
    this.least = least;
    if (this.fitted) this.scale = least;
    this.scale = Math.max(Math.min(least, this.full), Math.min(this.scale, 16 * this.full));
    const kept = (place, room, size) => size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, place));
    this.x = kept(this.x, across, this.width * this.scale);
    this.y = kept(this.y, down, this.height * this.scale);
    this.sheet.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.sheet.classList.toggle("large", this.scale >= 3 * this.full);
    this.stage.classList.toggle("free", this.scale > least * 1.001);
    this.percent.textContent = `${Math.round(100 * this.scale / this.full)} %`;
    this.divide();
  }

  // The scale at which a pixel of the picture is a pixel of the screen.
  get full() { return 1 / window.devicePixelRatio; }

  divide() {
    const place = this.share * this.stage.clientWidth;
    const hidden = Math.max(0, Math.min(this.width, this.width - (place - this.x) / this.scale));
    this.before.style.clipPath = `inset(0 ${hidden}px 0 0)`;
    this.handle.style.left = `${place}px`;
    this.handle.setAttribute("aria-valuenow", Math.round(100 * this.share));
    this.handle.setAttribute("aria-valuetext", `${Math.round(100 * this.share)} % of the width shows before`);
  }

  divideAt(share) {
    this.share = Math.max(0, Math.min(1, share));
    this.divide();
  }

  handleKey(event) {
    const step = event.shiftKey ? 0.1 : 0.02;
    const to = { ArrowLeft: this.share - step, ArrowDown: this.share - step, ArrowRight: this.share + step,
      ArrowUp: this.share + step, PageDown: this.share - 0.1, PageUp: this.share + 0.1, Home: 0, End: 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    this.divideAt(to);
  }

  handleDrag(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    event.stopPropagation();
    this.handle.focus({ preventScroll: true });
    this.handle.setPointerCapture(event.pointerId);
    const move = (moved) => {
      const box = this.stage.getBoundingClientRect();
      this.divideAt((moved.clientX - box.left - 1) / this.stage.clientWidth);
    };
    this.handle.addEventListener("pointermove", move);
    const end = () => this.handle.removeEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"])
      this.handle.addEventListener(name, end, { once: true });
  }

  // Zooms to a scale; the point (x, y) of the stage, by default its middle, stays where it is.
  zoomTo(scale, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const wanted = Math.max(Math.min(this.least, this.full), Math.min(scale, 16 * this.full));
    this.x = x - (x - this.x) * wanted / this.scale;
    this.y = y - (y - this.y) * wanted / this.scale;
    this.scale = wanted;
    this.fitted = false;
    this.layout();
  }

  zoom(how) {
    if (how === "fit") {
      this.fitted = true;
      this.layout();
    } else this.zoomTo({ full: this.full, in: 1.4 * this.scale, out: this.scale / 1.4 }[how]);
  }

  toggle(event) {
    const box = this.stage.getBoundingClientRect();
    if (this.fitted) this.zoomTo(Math.max(this.full, 2 * this.scale), event.clientX - box.left, event.clientY - box.top);
    else this.zoom("fit");
  }

  wheel(event) {
    if (!event.ctrlKey) return; // the page scrolls
    event.preventDefault();
    const box = this.stage.getBoundingClientRect();
    this.zoomTo(this.scale * Math.exp(-event.deltaY / 200), event.clientX - box.left, event.clientY - box.top);
  }

  stageKey(event) {
    if (event.target !== this.stage || event.ctrlKey || event.metaKey || event.altKey) return;
    if (this.paint && this.paint.key(event)) {
      event.preventDefault();
      return;
    }
    const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    const zooms = { "+": "in", "=": "in", "-": "out", 0: "fit", 1: "full" };
    if (event.key in moves && !this.fitted) {
      this.x += moves[event.key][0];
      this.y += moves[event.key][1];
      this.layout();
    } else if (event.key in zooms) this.zoom(zooms[event.key]);
    else return;
    event.preventDefault();
  }

  // A pointer's place in pixels of the picture.
  place(event) {
    const box = this.stage.getBoundingClientRect();
    return [(event.clientX - box.left - 1 - this.x) / this.scale, (event.clientY - box.top - 1 - this.y) / this.scale];
  }

  // One pointer pans or paints, two zoom.
  point(event) {
    if (event.target.closest(".handle")) return;
    const before = this.pointers.get(event.pointerId);
    if (event.type === "pointerdown") {
      if (event.button !== 0) return;
      this.stage.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, event);
      if (this.paint && this.pointers.size === 1) this.paint.begin(...this.place(event));
      return;
    }
    if (!before) return;
    if (event.type !== "pointermove") {
      this.pointers.delete(event.pointerId);
      if (this.paint) this.paint.end();
      return;
    }
    this.pointers.set(event.pointerId, event);
    if (this.pointers.size === 2) {
      const box = this.stage.getBoundingClientRect();
      const other = [...this.pointers.values()].find((one) => one.pointerId !== event.pointerId);
      const far = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      const middle = [(event.clientX + other.clientX) / 2 - box.left, (event.clientY + other.clientY) / 2 - box.top];
      this.zoomTo(this.scale * far(event) / Math.max(1, far(before)), ...middle);
    } else if (this.paint) this.paint.move(...this.place(event));
    else if (this.stage.classList.contains("free")) {
      this.x += event.clientX - before.clientX;
      this.y += event.clientY - before.clientY;
      this.layout();
    }
  }
}

const viewer = new Viewer(document.getElementById("viewer"));
const data = JSON.parse(document.getElementById("data").textContent);
if (data.picture) viewer.show(data.picture);
