"use strict";
// One page, no framework. Names of files and classes come from strangers: they go into the page as text only
// (textContent, value, aria-label), never as HTML, and `showable` makes what is invisible in them visible.
const $ = (id) => document.getElementById(id);
const read = (id) => JSON.parse($(id).textContent);
const TEXTS = read("texts"), DATA = read("data"), ENDS = read("ends");
const THUMBNAILS = $("thumbnails").textContent, FOLDER = $("thumbnails").dataset.folder;
const COUNT = DATA.names.length, CARDS = 24, LISTED = 120, SETS = 30;
const ARRAYS = {u1: Uint8Array, u2: Uint16Array, i4: Int32Array, f4: Float32Array};
let language = document.documentElement.lang;

function unpack(packed) {
  if (!packed) return null;
  if (!packed.array) {
    const text = atob(packed.bytes), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    packed.array = new ARRAYS[packed.kind](bytes.buffer);
    packed.bytes = "";
  }
  return packed.array;
}
const LABELS = unpack(DATA.labels);
const state = {network: 0, clustering: 0, base: null, baseName: "", cluster: -1};
const network = () => DATA.networks[state.network];
const clustering = () => network().clusterings[state.clustering];
const assigned = () => unpack(clustering().assigned);
const confidences = () => unpack(clustering().confidence);

// ------------------------------------------------------------------------------------------------------------ texts
function t(key, values = {}) {
  const text = TEXTS[key][language === "zh" ? 1 : 0];
  return text.replace(/\{(\w+)\}/g, (all, name) => name in values ? String(values[name]) : all);
}
function translate() {
  document.documentElement.lang = language;
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t, node.dataset);
  for (const node of document.querySelectorAll("[data-t-label]")) node.setAttribute("aria-label", t(node.dataset.tLabel));
  for (const node of document.querySelectorAll("[data-t-placeholder]")) node.placeholder = t(node.dataset.tPlaceholder);
  $("language").textContent = t("language");
  $("language").lang = language === "zh" ? "en" : "zh";
}
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u061c\ufeff\u200b-\u200f\u2028-\u202e\u2060-\u206f]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
function showable(name) {
  return name.replace(HIDDEN, (mark) => {
    const code = mark.charCodeAt(0);
    return code >= 0xdc80 && code <= 0xdcff ? "\\x" + (code - 0xdc00).toString(16)
      : "\\u" + code.toString(16).padStart(4, "0");
  });
}
const short = (name, most = 60) => name.length <= most ? name : `${name.slice(0, most / 2)}…${name.slice(-most / 2)}`;
const percent = (value) => `${(100 * value).toFixed(1)} %`;
const sized = (n) => n === 1 ? t("size_one") : t("sizes", {n});
const nameOf = (row) => showable(DATA.names[row]);
const className = (label) => label < 0 ? t("no_class") : label < DATA.classes.length ? showable(DATA.classes[label])
  : String(label);
const clusterName = (k) => {  // of its class, or like its example
  const cluster = clustering().clusters[k];
  if (cluster.label >= 0) return className(cluster.label);
  if (!cluster.size) return "";
  return t("cluster_like", {name: showable(DATA.names[cluster.nearest[0]].split("/").pop())});
};
const clusterTitle = (k) => [t("cluster", {k}), short(clusterName(k))].filter(Boolean).join(" · ");

// --------------------------------------------------------------------------------------------------------- elements
function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
function source(row) {
  if (FOLDER) return `${encodeURIComponent(FOLDER)}/${String(row).padStart(7, "0")}.webp`;
  const begin = row ? ENDS[row - 1] : 0;
  return ENDS[row] > begin ? "data:image/webp;base64," + THUMBNAILS.slice(begin, ENDS[row]) : "";
}
function image(row) {
  const address = source(row);
  return address ? make("img", {src: address, alt: "", decoding: "async"}) : make("span", {textContent: t("no_thumbnail")});
}
function thumb(row, rows) {
  const button = make("button", {type: "button", className: "thumb", title: short(nameOf(row), 400),
    onclick: () => openPicture(row, rows)}, image(row));
  button.setAttribute("aria-label", short(nameOf(row), 120));
  button.dataset.row = row;
  if (!source(row)) { button.classList.add("bare"); button.textContent = short(nameOf(row).split("/").pop(), 24); }
  return button;
}
function pager(container, button, size, build) {  // fills a container piece by piece
  let items = [], done = 0;
  const more = () => {
    container.append(...items.slice(done, done + size).map((item) => build(item, items)));
    done = Math.min(items.length, done + size);
    if (button) button.hidden = done >= items.length;
  };
  if (button) button.addEventListener("click", more);
  return (list) => { items = list; done = 0; container.replaceChildren(); more(); };
}
function options(select, entries) {
  const value = select.value;
  select.replaceChildren(...entries.map(([key, text]) => make("option", {value: key, textContent: text})));
  if (entries.some(([key]) => String(key) === value)) select.value = value;
}
const showCluster = (k) => {
  clearFilters();
  $("picture-tools").elements.cluster.value = k;
  $("picture-tools").elements.sort.value = "nearest";
  setBase(null, "");
  goTo("h-pictures");
};
const goTo = (id) => { $(id).tabIndex = -1; $(id).focus(); $(id).scrollIntoView({block: "start"}); };

// ----------------------------------------------------------------------------------------------------------- gallery
function hue(k) { return Math.round((k * 137.508 + 210) % 360); }
const colourOf = (k) => `hsl(${hue(k)} 58% var(--light))`;
function card(k) {
  const cluster = clustering().clusters[k], kind = $("cluster-tools").elements.kind.value;
  const rows = cluster[kind].slice(0, 8);
  const heading = make("h3", {}, make("span", {className: "dot"}), make("bdi", {textContent: clusterTitle(k)}));
  heading.firstChild.style.background = colourOf(k);
  const facts = [sized(cluster.size)];
  if (cluster.size) facts.push(t("sure", {p: percent(cluster.confidence)}));
  if (cluster.purity !== null) facts.push(t("pure", {p: percent(cluster.purity)}));
  const foot = make("div", {className: "foot"});
  if (cluster.size) {
    const all = make("button", {type: "button", textContent: t("all_pictures"), onclick: () => showCluster(k)});
    all.setAttribute("aria-label", t("all_pictures_of", {k}));
    foot.append(all);
  }
  if (cluster.mark) foot.append(make("span", {className: "badge", textContent: t("mark_" + cluster.mark)}));
  const node = make("li", {className: "card"}, heading, make("p", {className: "quiet", textContent: facts.join(" · ")}),
    make("div", {className: "pictures"}, ...rows.map((row) => thumb(row, rows))), foot);
  node.dataset.cluster = k;
  return node;
}
const showCards = pager($("cards"), $("more-clusters"), CARDS, card);
function listClusters() {
  const form = $("cluster-tools").elements, clusters = clustering().clusters, wanted = form.text.value.trim().toLowerCase();
  const fits = {used: (c) => c.size > 0, all: () => true, empty: (c) => c.mark === "empty", giant: (c) => c.mark === "giant"};
  const keys = {size: (k) => -clusters[k].size, number: (k) => k, confidence: (k) => -clusters[k].confidence,
    purity: (k) => -(clusters[k].purity ?? -1)};
  const found = clusters.map((_, k) => k).filter((k) => fits[form.show.value](clusters[k])
    && (!wanted || String(k) === wanted || clusterName(k).toLowerCase().includes(wanted)));
  const key = keys[form.sort.value];
  found.sort(key ? (a, b) => key(a) - key(b) || a - b : (a, b) => clusterName(a).localeCompare(clusterName(b)) || a - b);
  $("cluster-count").textContent = t("shown_clusters", {n: found.length, all: clusters.length});
  showCards(found);
}

// -------------------------------------------------------------------------------------------------- list of pictures
let listed = [];
const showGrid = pager($("grid"), $("more-pictures"), LISTED, thumb);
const LOWER = DATA.names.map((name) => name.toLowerCase());
function listPictures() {
  const form = $("picture-tools").elements, text = form.text.value.toLowerCase(), cluster = form.cluster.value;
  const label = form.class ? form.class.value : "", share = Number(form.confidence.value);
  const clusters = assigned(), sure = confidences(), rows = state.base || DATA.names.keys();
  listed = [];
  for (const row of rows) {
    if (cluster !== "" && clusters[row] !== Number(cluster)) continue;
    if (label !== "" && LABELS[row] !== Number(label)) continue;
    if (share < 100 && sure[row] > share * 2.55) continue;
    if (text && !LOWER[row].includes(text)) continue;
    listed.push(row);
  }
  const score = unpack(clustering().score), strange = unpack(network().strangeness);
  const orders = {nearest: (a, b) => score[b] - score[a], unsure: (a, b) => sure[a] - sure[b],
    strange: (a, b) => strange[b] - strange[a]};
  if (orders[form.sort.value]) listed.sort((a, b) => orders[form.sort.value](a, b) || a - b);
  form["confidence-shown"].value = `${form.confidence.value} %`;
  $("listed").textContent = t("listed", {n: listed.length.toLocaleString("en"), all: COUNT.toLocaleString("en")});
  $("download").disabled = !listed.length;
  $("download-left").hidden = true;
  showGrid(listed);
  if (!listed.length) $("grid").append(make("p", {className: "help", textContent: t("nothing")}));
  pointMap.mark(listed.length === COUNT ? null : listed);
}
function setBase(rows, name) {
  state.base = rows;
  state.baseName = name;
  $("base").hidden = !rows;
  if (name) $("base-text").textContent = t(name);
  listPictures();
}
function clearFilters() {
  $("picture-tools").reset();
}
function bytesOf(text) {  // UTF-8, and the bytes of names that are none as they are on the disk
  const parts = [], encoder = new TextEncoder();
  let begin = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i), before = i ? text.charCodeAt(i - 1) : 0;
    if (code >= 0xdc80 && code <= 0xdcff && !(before >= 0xd800 && before <= 0xdbff)) {
      parts.push(encoder.encode(text.slice(begin, i)), Uint8Array.of(code - 0xdc00));
      begin = i + 1;
    }
  }
  parts.push(encoder.encode(text.slice(begin)));
  return parts;
}
function download() {
  const paths = listed.map((row) => DATA.root + DATA.names[row]), kept = paths.filter((path) => !/[\n\r]/.test(path));
  $("download-left").hidden = kept.length === paths.length;
  $("download-left").textContent = t("download_left", {n: paths.length - kept.length});
  const address = URL.createObjectURL(new Blob(bytesOf(kept.map((path) => path + "\n").join("")), {type: "text/plain"}));
  make("a", {href: address, download: "pictures.txt"}).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// -------------------------------------------------------------------------------------------------------------- maps
class Plane {  // points on a canvas: hover, choose, move, zoom, draw around, and the same by keyboard
  constructor(name, handlers) {
    this.canvas = $(name); this.tip = $(name + "-tip"); this.said = $(name + "-said");
    this.handlers = handlers; this.tool = "lasso"; this.marked = null; this.current = -1; this.lasso = null;
    this.view = {x: 0, y: 0, zoom: 1};
    const on = (event, act) => this.canvas.addEventListener(event, act);
    on("pointerdown", (event) => this.down(event)); on("pointermove", (event) => this.move(event));
    on("pointerup", (event) => this.up(event)); on("pointerleave", () => { if (!this.start) this.point(-1); });
    on("pointercancel", () => { this.start = this.lasso = null; this.draw(); });
    on("wheel", (event) => { event.preventDefault(); this.zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, this.at(event)); });
    on("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }
  set(points, colours, radii) {
    this.points = points; this.colours = colours; this.radii = radii; this.current = -1;
    this.groups = new Map();
    for (let i = 0; i < colours.length; i++) {
      const group = this.groups.get(colours[i]);
      if (group) group.push(i); else this.groups.set(colours[i], [i]);
    }
    this.draw();
  }
  mark(rows) { this.marked = rows; this.draw(); }
  place() {  // scale and offset from 0..65535 to pixels of the canvas
    const width = this.canvas.clientWidth, height = this.canvas.clientHeight, side = Math.min(width, height) * 0.92;
    const scale = side / 65535 * this.view.zoom;
    return {width, height, scale, x: width / 2 - 32767 * scale + this.view.x, y: height / 2 - 32767 * scale + this.view.y};
  }
  radius(i) { return this.radii ? this.radii[i] : Math.max(1.6, Math.min(4, 90 / Math.sqrt(this.points.length / 2))) *
    Math.min(2, Math.sqrt(this.view.zoom)); }
  draw() { if (!this.waiting) this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.paint(); }); }
  paint() {
    if (!this.points || !this.canvas.clientWidth) return;
    const {width, height, scale, x, y} = this.place(), ratio = Math.min(2, devicePixelRatio || 1);
    if (this.canvas.width !== Math.round(width * ratio)) this.canvas.width = Math.round(width * ratio);
    if (this.canvas.height !== Math.round(height * ratio)) this.canvas.height = Math.round(height * ratio);
    const brush = this.canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const light = style.getPropertyValue("--light").trim();
    brush.setTransform(ratio, 0, 0, ratio, 0, 0);
    brush.clearRect(0, 0, width, height);
    const marked = this.marked && new Uint8Array(this.points.length / 2), plain = !this.radii;
    if (marked) for (const i of this.marked) marked[i] = 1;
    if (plain && this.points.length > 20000) this.paintMany(brush, marked, light, ratio);
    else for (const last of marked ? [0, 1] : [0]) {
      for (const [colour, rows] of this.groups) {
        brush.fillStyle = colour.replace("var(--light)", light);
        brush.globalAlpha = marked ? last ? 1 : plain ? .13 : .3 : .8;
        for (const i of rows) {
          if (marked && marked[i] !== last) continue;
          const px = this.points[2 * i] * scale + x, py = this.points[2 * i + 1] * scale + y, r = this.radius(i);
          if (px < -r || py < -r || px > width + r || py > height + r) continue;
          brush.beginPath(); brush.arc(px, py, r, 0, 7); brush.fill();
        }
      }
    }
    brush.globalAlpha = 1;
    brush.strokeStyle = style.getPropertyValue("--ink"); brush.lineWidth = 2;
    if (this.current >= 0) {
      brush.beginPath();
      brush.arc(this.points[2 * this.current] * scale + x, this.points[2 * this.current + 1] * scale + y,
        this.radius(this.current) + 4, 0, 7);
      brush.stroke();
    }
    if (this.lasso && this.lasso.length > 1) {
      brush.setLineDash([5, 4]); brush.beginPath();
      this.lasso.forEach(([px, py], i) => i ? brush.lineTo(px, py) : brush.moveTo(px, py));
      brush.closePath(); brush.stroke(); brush.setLineDash([]);
    }
  }
  paintMany(brush, marked, light, ratio) {  // squares, written as pixels: ten times as fast as shapes
    const {scale, x, y} = this.place(), {width, height} = this.canvas, picture = brush.createImageData(width, height);
    const pixels = new Uint32Array(picture.data.buffer), side = Math.max(2, Math.round(2 * this.radius(0) * ratio));
    for (const last of marked ? [0, 1] : [0]) {
      for (const [colour, rows] of this.groups) {
        brush.fillStyle = colour.replace("var(--light)", light);  // the canvas gives it back as #rrggbb
        const rgb = parseInt(brush.fillStyle.slice(1), 16), alpha = marked ? last ? 255 : 36 : 205;
        const value = (alpha << 24 | (rgb & 255) << 16 | rgb & 0xff00 | rgb >> 16) >>> 0;
        for (const i of rows) {
          if (marked && marked[i] !== last) continue;
          const left = Math.round((this.points[2 * i] * scale + x) * ratio - side / 2);
          const top = Math.round((this.points[2 * i + 1] * scale + y) * ratio - side / 2);
          if (left < 0 || top < 0 || left + side > width || top + side > height) continue;
          for (let row = top; row < top + side; row++) pixels.fill(value, row * width + left, row * width + left + side);
        }
      }
    }
    brush.putImageData(picture, 0, 0);
  }
  at(event) { const box = this.canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; }
  nearest([px, py], most = 14) {
    const {scale, x, y} = this.place();
    let best = -1, least = most * most;
    for (let i = 0; i < this.points.length / 2; i++) {
      const dx = this.points[2 * i] * scale + x - px, dy = this.points[2 * i + 1] * scale + y - py;
      const reach = this.radii ? Math.max(0, Math.hypot(dx, dy) - this.radii[i]) ** 2 : dx * dx + dy * dy;
      if (reach < least) { least = reach; best = i; }
    }
    return best;
  }
  point(i) {
    if (i === this.current) return;
    this.current = i;
    this.tip.hidden = i < 0;
    if (i >= 0) {
      const {scale, x, y, width} = this.place(), row = this.handlers.example(i);
      const px = this.points[2 * i] * scale + x, py = this.points[2 * i + 1] * scale + y;
      this.tip.replaceChildren(...(row >= 0 ? [image(row)] : []), make("bdi", {textContent: this.handlers.text(i)}));
      this.tip.style.left = `${px > width / 2 ? px - 158 : px + 14}px`;
      this.tip.style.top = `${Math.max(0, py - 40)}px`;
    }
    this.draw();
  }
  down(event) {
    this.start = this.at(event); this.from = {...this.view}; this.moved = false;
    this.canvas.setPointerCapture(event.pointerId);
    if (this.tool === "lasso" && !this.radii) this.lasso = [this.start];
  }
  move(event) {
    const here = this.at(event);
    if (!this.start) { this.point(this.nearest(here)); return; }
    if (Math.hypot(here[0] - this.start[0], here[1] - this.start[1]) > 4) { this.moved = true; this.point(-1); }
    if (this.lasso) this.lasso.push(here);
    else { this.view.x = this.from.x + here[0] - this.start[0]; this.view.y = this.from.y + here[1] - this.start[1]; }
    this.draw();
  }
  up(event) {
    const lasso = this.lasso, moved = this.moved;
    this.start = this.lasso = null;
    if (!moved) { const i = this.nearest(this.at(event)); if (i >= 0) this.handlers.choose(i); }
    else if (lasso && lasso.length > 2) this.handlers.lasso(this.inside(lasso));
    this.draw();
  }
  inside(polygon) {
    const {scale, x, y} = this.place(), rows = [];
    for (let i = 0; i < this.points.length / 2; i++) {
      const px = this.points[2 * i] * scale + x, py = this.points[2 * i + 1] * scale + y;
      let within = false;
      for (let a = 0, b = polygon.length - 1; a < polygon.length; b = a++) {
        const [ax, ay] = polygon[a], [bx, by] = polygon[b];
        if ((ay > py) !== (by > py) && px < (bx - ax) * (py - ay) / (by - ay) + ax) within = !within;
      }
      if (within) rows.push(i);
    }
    return rows;
  }
  zoom(factor, [px, py] = [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2]) {
    const zoom = Math.max(0.8, Math.min(60, this.view.zoom * factor)), ratio = zoom / this.view.zoom;
    const cx = this.canvas.clientWidth / 2, cy = this.canvas.clientHeight / 2;
    this.view = {x: px - cx - (px - cx - this.view.x) * ratio, y: py - cy - (py - cy - this.view.y) * ratio, zoom};
    this.draw();
  }
  all() { this.view = {x: 0, y: 0, zoom: 1}; this.draw(); }
  key(event) {
    const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (step) this.walk(...step);
    else if (event.key === "Enter" || event.key === " ") { if (this.current >= 0) this.handlers.choose(this.current); }
    else if (event.key === "+" || event.key === "=") this.zoom(1.3);
    else if (event.key === "-") this.zoom(1 / 1.3);
    else if (event.key === "0") this.all();
    else return;
    event.preventDefault();
  }
  walk(dx, dy) {  // to the nearest point in that direction
    const from = this.current < 0 ? this.nearest([this.canvas.clientWidth / 2, this.canvas.clientHeight / 2], 1e6) : this.current;
    if (this.current < 0) { this.point(from); this.said.textContent = this.handlers.text(from); return; }
    let best = from, least = Infinity;
    for (let i = 0; i < this.points.length / 2; i++) {
      const x = this.points[2 * i] - this.points[2 * from], y = this.points[2 * i + 1] - this.points[2 * from + 1];
      const along = x * dx + y * dy, across = Math.abs(x * dy - y * dx);
      if (along > 0 && along + 3 * across < least) { least = along + 3 * across; best = i; }
    }
    this.point(best);
    this.said.textContent = this.handlers.text(best);
  }
}
const pointMap = new Plane("points", {
  example: (row) => row,
  text: (row) => `${short(nameOf(row), 80)} · ${clusterTitle(assigned()[row])}`,
  choose: (row) => openPicture(row, listed.includes(row) ? listed : [row]),
  lasso: (rows) => { clearFilters(); setBase(rows, "from_lasso"); },
});
const centreMap = new Plane("centres", {
  example: (k) => clustering().clusters[k].nearest[0] ?? -1,
  text: (k) => `${clusterTitle(k)} · ${sized(clustering().clusters[k].size)}`,
  choose: (k) => showAlike(k),
});
function paintPoints() {
  const kind = $("colour").value, clusters = assigned(), sure = confidences(), colours = new Array(COUNT);
  for (let row = 0; row < COUNT; row++) {
    colours[row] = kind === "cluster" ? colourOf(clusters[row]) : kind === "class"
      ? LABELS[row] < 0 ? "hsl(0 0% 55%)" : colourOf(LABELS[row])
      : `hsl(${Math.round(20 + 190 * (sure[row] >> 4) / 15)} 65% var(--light))`;
  }
  pointMap.set(unpack(network().points), colours);
}
function paintCentres() {
  const points = unpack(clustering().points), clusters = clustering().clusters;
  for (const node of [$("centres").parentElement, $("alike")]) node.hidden = !points;
  $("prototypes-help").textContent = t(points ? "prototypes_help" : "no_centres");
  if (!points) return;
  const most = Math.max(...clusters.map((cluster) => cluster.size), 1);
  const widest = Math.max(6, Math.min(26, 160 / Math.sqrt(clusters.length)));
  centreMap.set(points, clusters.map((cluster, k) => cluster.size ? colourOf(k) : "hsl(0 0% 60%)"),
    clusters.map((cluster) => Math.max(2.5, widest * Math.sqrt(cluster.size / most))));
  showAlike(state.cluster >= 0 ? state.cluster : clusters.findIndex((cluster) => cluster.size === most));
}
function showAlike(k) {
  state.cluster = k;
  centreMap.mark([k, ...clustering().clusters[k].like.map(([other]) => other)]);
  const row = (other, note) => {
    const rows = clustering().clusters[other].nearest.slice(0, 5);
    return make("div", {className: "alike"}, make("div", {}, make("button", {type: "button", className: "link",
      textContent: clusterTitle(other), onclick: () => other === k ? showCluster(k) : showAlike(other)}),
    make("div", {className: "quiet", textContent: note})), make("div", {className: "row"}, ...rows.map((one) => thumb(one, rows))));
  };
  $("alike").replaceChildren(row(k, sized(clustering().clusters[k].size)),
    make("h3", {textContent: t("nearest_clusters", {k})}),
    ...clustering().clusters[k].like.map(([other, cosine]) => row(other, t("cosine", {c: cosine.toFixed(2)}))));
}

// --------------------------------------------------------------------------------------------- duplicates, outliers
const showSets = pager($("sets"), $("more-sets"), SETS, (number) => {
  const rows = DATA.duplicates[number];
  return make("div", {className: "set"}, make("h3", {textContent: t(DATA.identical[number] ? "set_identical" : "set_near",
    {n: rows.length})}), make("div", {className: "row"}, ...rows.slice(0, 40).map((row) => thumb(row, rows))));
});

// --------------------------------------------------------------------------------------------------- single picture
let shown = {row: -1, rows: []};
function openPicture(row, rows) {
  shown = {row, rows};
  $("picture-name").replaceChildren(make("bdi", {textContent: short(nameOf(row).split("/").pop(), 200)}));
  $("picture-image").replaceChildren(image(row));
  const facts = [[t("path"), showable(DATA.root + DATA.names[row])]];
  if (LABELS) facts.push([t("class"), className(LABELS[row])]);
  for (const one of network().clusterings) {
    facts.push([showable(one.name), `${t("cluster", {k: unpack(one.assigned)[row]})} · ${t("sure",
      {p: percent(unpack(one.confidence)[row] / 255)})}`]);
  }
  $("facts").replaceChildren(...facts.flatMap(([term, text]) => [make("dt", {textContent: term}),
    make("dd", {}, make("bdi", {textContent: text}))]));
  const {width} = network(), neighbours = unpack(network().neighbours), cosines = unpack(network().cosines);
  const found = [...neighbours.slice(row * width, (row + 1) * width)];
  $("neighbours").replaceChildren(...found.map((other, i) => make("figure", {}, thumb(other, found),
    make("figcaption", {textContent: (cosines[row * width + i] / 255).toFixed(2)}))));
  const place = rows.indexOf(row);
  $("previous").disabled = place <= 0;
  $("next").disabled = place < 0 || place >= rows.length - 1;
  if (!$("picture").open) $("picture").showModal();
}
function step(by) {
  const place = shown.rows.indexOf(shown.row) + by;
  if (place >= 0 && place < shown.rows.length) openPicture(shown.rows[place], shown.rows);
}

// ------------------------------------------------------------------------------------------------------------ start
function choices() {
  options($("network"), DATA.networks.map((one, i) => [i, showable(one.name)]));
  options($("clustering"), network().clusterings.map((one, i) => [i, showable(one.name)]));
  $("clustering-choice").hidden = network().clusterings.length < 2;
  options($("picture-tools").elements.cluster, [["", t("any")], ...clustering().clusters.map((_, k) => [k, k])
    .filter(([k]) => clustering().clusters[k].size).map(([k]) => [k, clusterTitle(k)])]);
  const classes = $("picture-tools").elements.class;
  if (classes) {
    const used = [...new Set(LABELS)].sort((a, b) => a - b);
    options(classes, [["", t("any")], ...used.map((label) => [label, short(className(label))])]);
  }
  for (const node of document.querySelectorAll("[data-network]")) {
    node.hidden = Number(node.dataset.network) !== state.network
      || node.dataset.clustering !== undefined && Number(node.dataset.clustering) !== state.clustering;
  }
}
function refresh() {  // the gallery first: the rest is further down the page
  choices();
  listClusters();
  setTimeout(() => {
    paintPoints();
    listPictures();
    paintCentres();
    showSets([...DATA.duplicates.keys()]);
    $("strange").replaceChildren(...network().outliers.map((row) => thumb(row, network().outliers)));
    document.body.dataset.ready = "yes";
  });
}
$("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  translate();
  refresh();
});
$("network").addEventListener("change", () => {
  state.network = Number($("network").value); state.clustering = 0; state.cluster = -1; state.base = null;
  $("base").hidden = true;
  refresh();
});
$("clustering").addEventListener("change", () => { state.clustering = Number($("clustering").value); state.cluster = -1; refresh(); });
for (const [form, act] of [["cluster-tools", listClusters], ["picture-tools", listPictures]]) {
  $(form).addEventListener("input", act);
  $(form).addEventListener("submit", (event) => event.preventDefault());
}
$("colour").addEventListener("change", paintPoints);
for (const radio of document.querySelectorAll("[name=tool]")) {
  radio.addEventListener("change", () => { pointMap.tool = radio.value; $("points").classList.toggle("moving", radio.value === "move"); });
}
$("zoom-in").addEventListener("click", () => pointMap.zoom(1.5));
$("zoom-out").addEventListener("click", () => pointMap.zoom(1 / 1.5));
$("zoom-all").addEventListener("click", () => pointMap.all());
$("drop-base").addEventListener("click", () => setBase(null, ""));
$("clear").addEventListener("click", () => { clearFilters(); setBase(null, ""); });
$("download").addEventListener("click", download);
$("list-outliers").addEventListener("click", () => { clearFilters(); setBase(network().outliers, "from_outliers"); goTo("h-pictures"); });
if ($("list-duplicates")) {
  $("list-duplicates").addEventListener("click", () => {
    clearFilters();
    setBase(DATA.duplicates.flatMap((rows) => rows.slice(1)).sort((a, b) => a - b), "from_duplicates");
    goTo("h-pictures");
  });
}
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => $("picture").close());
$("picture").addEventListener("click", (event) => { if (event.target === $("picture")) $("picture").close(); });
$("picture").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { pointMap.draw(); centreMap.draw(); });
translate();
refresh();
