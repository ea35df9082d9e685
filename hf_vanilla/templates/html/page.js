// The page: what the engine computes, shown as it is computed.

if (typeof document !== "undefined" && !window.failed) {

const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent), {config} = data;
const isRecurrent = config.model_type === "vanilla_recurrent", isEncoder = config.model_type === "vanilla_encoder";
const isDecoder = config.model_type === "vanilla_decoder", hasSource = !isEncoder && !isDecoder;
const SVG = "http://www.w3.org/2000/svg", NODE = {width: 92, height: 44, gap: 26};
const STEPS = 6, FEW = matchMedia("(min-width: 60rem)").matches ? 9 : 4;  // numbers of a vector that are shown
const state = {
  model: null, tokenizer: null, source: null, search: null, shown: null, forced: [], run: 0, isRunning: false,
  chosen: null, hovered: null, kind: null, layer: 0, head: 0, mean: false, step: 0, allNumbers: false,
  columns: null, treeFocus: null,
};
let language = data.language ?? (navigator.language.startsWith("ko") ? "ko" : "en");

const t = (name, values = {}) => agree(data.labels[language][name].replace(/\{(\w+)\}/g, (_, key) => values[key]));
const percent = p => p >= 0.9995 || p < 0.0005 ? `${(100 * p).toPrecision(2)} %` : `${(100 * p).toFixed(1)} %`;
const shown = x => Math.abs(x) >= 1000 ? x.toExponential(2) : x.toFixed(3);

/** After a quoted word that ends in a consonant, Korean particles have another form; of Hangul, one can see which. */
function agree(text) {
  const afterConsonant = {"는": "은", "가": "이", "를": "을"};
  return text.replace(/([가-힣])”([는가를])/g, (whole, last, particle) =>
    (last.charCodeAt(0) - 0xAC00) % 28 ? `${last}”${afterConsonant[particle]}` : whole);
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// What there is to point at

/** The nodes of one side: of the source (or of an encoder's text), or of the target, from its first token on. */
function nodesOf(side) {
  if (side === "source") return state.source?.nodes ?? [];
  return state.shown?.path() ?? [];
}

function labelsOf(nodes) { return state.tokenizer.labels(nodes.map(node => node.token)); }

function wordOf({side, index}) { return labelsOf(nodesOf(side).slice(0, index + 1)).at(-1) ?? ""; }

/** What is pointed at: the word under the pointer, or the chosen one, or else the last one that was written. */
function current() {
  const last = {side: isEncoder ? "source" : "target", index: nodesOf(isEncoder ? "source" : "target").length - 1};
  const at = state.hovered ?? state.chosen ?? last;
  return at.index >= 0 && at.index < nodesOf(at.side).length ? at : last.index >= 0 ? last : null;
}

/** The kind of attention that can be shown of a word: the chosen one, if it has that. */
function kindFor({side}) {
  if (!state.kind || isEncoder || isDecoder) return state.kind;
  const fits = side === "source" ? ["encoder", "cross"] : ["decoder", "cross"];
  return fits.includes(state.kind) ? state.kind : "cross";
}

/** What an encoder's node looked at, or the node that wrote a word of the target, which is the one before it. */
function looksOf({side, index}, kind) {
  const nodes = nodesOf(side), node = side === "source" ? nodes[index] : nodes[index].parent;
  return node?.looks[kind === "cross" ? "cross" : "self"] ?? [];
}

/** One head's weights of the words of a `side`, or null: what a word looks at, or what looks at a source's word. */
function weightsOf(at, kind, layer, head) {
  if (kind === "cross" && at.side === "source") {
    const weights = nodesOf("target").map((_, i) => {
      const look = looksOf({side: "target", index: i}, kind)[layer];
      return look ? look.weights[head * look.keys.length + at.index] : 0;
    });
    return {side: "target", weights};
  }
  const look = looksOf(at, kind)[layer];
  if (!look) return null;
  const count = look.keys.length, side = kind === "decoder" ? "target" : "source";
  return {side, weights: Array.from(look.weights.subarray(head * count, (head + 1) * count))};
}

function meanOf(at, kind, layer) {
  const all = Array.from({length: headsOf(kind)}, (_, head) => weightsOf(at, kind, layer, head));
  const meanAt = i => all.reduce((sum, each) => sum + each.weights[i] / all.length, 0);
  return all[0] && {side: all[0].side, weights: all[0].weights.map((_, i) => meanAt(i))};
}

function headsOf(kind) { return state.model.attentions[kind][0].heads; }

// Words

function showWords() {
  for (const side of ["source", "target"]) {
    const nodes = nodesOf(side), labels = labelsOf(nodes), box = $(side), before = box.children.length;
    box.replaceChildren(...nodes.map((node, i) => {
      const token = state.tokenizer.tokens[node.token] ?? "", isSpecial = state.tokenizer.special.has(node.token);
      const isMask = isEncoder && state.masks.includes(i), label = isMask ? `${labels[i]} ${guess(node)}` : labels[i];
      const word = make("div", {className: "word", textContent: label, tabIndex: -1, dir: "auto"});
      word.classList.toggle("special", isSpecial && !isMask);
      word.classList.toggle("begins", /^[ \u0120]/.test(token) || isMask);
      word.classList.toggle("new", side === "target" && i >= before && state.isRunning);
      word.setAttribute("role", "option");
      [word.dataset.index, word.dataset.token] = [i, node.token];
      if (side === "target" && i >= firstWritten()) {
        const p = Math.exp(node.logProb);
        word.title = percent(p);
        word.classList.toggle("forced", i < firstWritten() + state.forced.length);
        const bar = make("b");
        bar.style.width = `${100 * p}%`;
        word.append(make("i", {ariaHidden: "true"}, bar));
      }
      return word;
    }));
  }
  colourWords();
}

function guess(node) { return state.tokenizer.label(node.next[0].token); }

/** Colour words by how much they are looked at, and mark what is chosen. */
function colourWords() {
  const at = current(), kind = at && kindFor(at);
  const {layer, head, mean} = state;
  const found = at && kind && (mean ? meanOf(at, kind, layer) : weightsOf(at, kind, layer, head));
  for (const side of ["source", "target"]) {
    const chosen = at?.side === side ? at.index : -1;
    [...$(side).children].forEach((word, i) => {
      const weight = found?.side === side ? found.weights[i] ?? 0 : 0;
      word.style.background = weight ? `rgb(var(--heat) / ${Math.sqrt(weight).toFixed(3)})` : "";
      if (found?.side === side) word.dataset.weight = weight;
      else delete word.dataset.weight;
      word.setAttribute("aria-selected", i === chosen);
      word.tabIndex = i === Math.max(chosen, 0) ? 0 : -1;
    });
  }
  showHeads(at, kind);
  showLooks(at, kind, found);
}

function showLooks(at, kind, found) {
  $("heads-help").textContent = !kind ? t("noAttention") : at ? t("headsHelp", {word: wordOf(at)}) : t("headsNone");
  if (!found?.weights.length) { $("looks").textContent = ""; return; }
  const best = topK(found.weights, 1)[0], reversed = kind === "cross" && at.side === "source";
  $("looks").textContent = t(reversed ? "lookedAt" : "looksAt", {
    layer: state.layer + 1, head: state.mean ? "∅" : state.head + 1, word: wordOf(at),
    weight: found.weights[best].toFixed(3), other: wordOf({side: found.side, index: best}),
  });
}

function choose(at) {
  state.chosen = at;
  state.hovered = null;
  colourWords();
  showAlternatives();
  showSteps();
}

// What could have been written

/** The place of the first word that the model wrote. */
function firstWritten() { return isDecoder ? state.promptLength : 1; }

function showAlternatives() {
  const at = current(), canForce = at && (isEncoder || at.side === "target" && at.index >= firstWritten());
  const node = canForce && nodesOf(at.side)[at.index], before = isEncoder ? node : node && node.parent;
  $("alternatives-title").textContent = canForce ? t("alternatives", {word: wordOf(at)}) : t("alternativesNone");
  const next = canForce && before.next ? before.next.slice(0, SHOWN) : [];
  const isAmong = next.some(each => each.token === node.token);
  if (canForce && !isEncoder && !isAmong) next.push({token: node.token, logProb: node.logProb});
  $("alternatives").replaceChildren(...next.map(({token, logProb}) => {
    const p = Math.exp(logProb), label = state.tokenizer.label(token);
    const button = make("button", {type: "button"}, make("span", {textContent: label, dir: "auto"}),
      make("span", {className: "number", textContent: percent(p)}));
    button.style.setProperty("--share", `${100 * p}%`);
    if (token === node.token) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => force(at, [token]));
    return make("li", {}, button);
  }));
  $("own").hidden = !canForce;
  $("release").hidden = !state.forced.length;
}

/** Write other tokens in a word's place, and let the rest follow. */
function force({side, index}, tokens) {
  if (isEncoder) {
    const ids = state.source.nodes.map(node => node.token);
    ids.splice(index, 1, ...tokens);
    state.forced = ids;
  } else {
    state.forced = [...nodesOf("target").slice(firstWritten(), index).map(node => node.token), ...tokens];
  }
  state.chosen = {side, index};
  start();
}

// Heads

function showHeads(at, kind) {
  $("switch").disabled = $("all-on").disabled = !kind;
  if (!kind) return;
  const modules = state.model.attentions[kind], heads = headsOf(kind), grid = $("heads");
  const name = `${kind} ${modules.length} ${heads}`;
  if (grid.dataset.name !== name) {
    grid.dataset.name = name;
    grid.style.gridTemplateColumns = `1.2rem repeat(${heads}, minmax(1.9rem, 1fr))`;
    const numbers = Array.from({length: heads}, (_, head) => make("span", {textContent: head + 1}));
    const cell = (layer, head) => {
      const button = make("button", {type: "button"}, make("canvas", {height: 1}));
      button.setAttribute("role", "gridcell");
      [button.dataset.layer, button.dataset.head] = [layer, head];
      return button;
    };
    grid.replaceChildren(make("span"), ...numbers, ...modules.flatMap((_, layer) => [
      make("span", {textContent: layer + 1}), ...numbers.map((_, head) => cell(layer, head))]));
  }
  [state.layer, state.head] = [Math.min(state.layer, modules.length - 1), Math.min(state.head, heads - 1)];
  const heat = getComputedStyle(document.documentElement).getPropertyValue("--heat");
  for (const button of grid.querySelectorAll("button")) {
    const layer = +button.dataset.layer, head = +button.dataset.head, canvas = button.firstChild;
    const isChosen = layer === state.layer && head === state.head, isOff = modules[layer].off.has(head);
    button.setAttribute("aria-selected", isChosen);
    button.setAttribute("aria-label", t("cell", {layer: layer + 1, head: head + 1}) + (isOff ? `, ${t("off")}` : ""));
    button.tabIndex = isChosen ? 0 : -1;
    button.classList.toggle("off", isOff);
    const found = at && weightsOf(at, kind, layer, head), count = found?.weights.length ?? 1;
    canvas.width = Math.max(1, count);
    const context = canvas.getContext("2d");
    found?.weights.forEach((weight, i) => {
      context.fillStyle = `rgb(${heat.trim().replaceAll(" ", ",")},${Math.sqrt(weight)})`;
      context.fillRect(i, 0, 1, 1);
    });
  }
  const isOff = modules[state.layer].off.has(state.head);
  $("switch").textContent = t(isOff ? "switchOn" : "switchOff");
  $("switch").setAttribute("aria-pressed", isOff);
  $("all-on").disabled = !Object.values(state.model.attentions).flat().some(module => module.off.size);
  $("kind").value = kind;
}

function chooseHead(layer, head) {
  const modules = state.model.attentions[state.kind];
  if (layer < 0 || head < 0 || layer >= modules.length || head >= headsOf(state.kind)) return;
  [state.layer, state.head] = [layer, head];
  colourWords();
  showSteps();
}

// The search as a tree

function showTree() {
  const {search} = state;
  if (!search) return;
  const best = new Set(state.shown.path()), alive = new Set();
  for (const end of [...search.open, ...search.finished.map(each => each.node)]) {
    for (let node = end; node && !alive.has(node); node = node.parent) alive.add(node);
  }
  // Of hypotheses that have been given up, a column has as many as there is room for.
  state.columns = [[search.root], ...search.steps.map(nodes => {
    let room = search.beams - nodes.filter(node => alive.has(node)).length;
    return [...nodes].sort((a, b) => b.total - a.total).filter(node => alive.has(node) || room-- > 0);
  })];
  const places = new Map(state.columns.flatMap((nodes, step) => nodes.map((node, row) =>
    [node, [8 + step * (NODE.width + NODE.gap), 6 + row * (NODE.height + 8)]])));
  const lines = [], boxes = [];
  for (const [node, [x, y]] of places) {
    const from = places.get(node.parent), isBest = best.has(node);
    if (from) lines[isBest ? "push" : "unshift"](drawLine(from, [x, y], isBest));
    boxes.push(drawNode(node, x, y, isBest, alive.has(node)));
  }
  const width = 20 + state.columns.length * (NODE.width + NODE.gap);
  const height = 10 + Math.max(...state.columns.map(nodes => nodes.length)) * (NODE.height + 8);
  const tree = $("tree");
  for (const [name, value] of Object.entries({width, height})) tree.setAttribute(name, value);
  tree.replaceChildren(...lines, ...boxes);
  (boxes.find(box => box.node === state.treeFocus) ?? boxes[0]).setAttribute("tabindex", 0);
  if (state.isRunning) $("tree-scroll").scrollLeft = width;
  showHypotheses(best);
}

function drawLine([x, y], [toX, toY], isBest) {
  const [left, from, to] = [x + NODE.width, y + NODE.height / 2, toY + NODE.height / 2], middle = (left + toX) / 2;
  return draw("path", {
    d: `M${left} ${from} C${middle} ${from} ${middle} ${to} ${toX} ${to}`, class: isBest ? "best" : "",
  });
}

function drawNode(node, x, y, isBest, isAlive) {
  const label = state.tokenizer.label(node.token), end = node.isEnd ? `, ${t("treeEnd")}` : "";
  const p = node === state.search.root ? "" : percent(Math.exp(node.logProb)), middle = x + NODE.width / 2;
  const word = draw("text", {x: middle, y: y + 19, "text-anchor": "middle"});
  const small = draw("text", {x: middle, y: y + 35, "text-anchor": "middle", class: "small"});
  word.textContent = label.length > 11 ? `${label.slice(0, 10)}…` : label;
  small.textContent = node.isEnd ? `${p} ■` : p;
  const classes = {best: isBest, dead: !isAlive, end: node.isEnd};
  const group = draw("g", {
    role: "treeitem", tabindex: -1, class: Object.keys(classes).filter(name => classes[name]).join(" "),
    "aria-selected": isBest,
    "aria-label": t("treeNode", {step: node.position, word: label, p, total: shown(node.total)}) + end,
  }, draw("rect", {x, y, width: NODE.width, height: NODE.height, rx: 7}), word, small);
  group.node = node;
  return group;
}

function showHypotheses(best) {
  $("hypotheses").replaceChildren(...state.search.finished.map(({node, score}) => {
    const button = make("button", {type: "button"}, make("span", {textContent: textOf(node), dir: "auto"}),
      make("span", {className: "number soft", textContent: t("score", {score: score.toFixed(3)})}));
    button.setAttribute("aria-pressed", best.has(node));
    button.addEventListener("click", () => showHypothesis(node));
    return make("li", {}, button);
  }));
}

/** Show the best hypothesis that goes through a node. */
function showHypothesis(node) {
  const ends = [...state.search.finished.map(each => each.node), ...state.search.open];
  state.shown = ends.find(each => each.path().includes(node)) ?? node;
  state.chosen = null;
  showAll();
}

function moveInTree(event) {
  const node = event.target.closest("g")?.node, {columns} = state, root = columns?.[0][0];
  if (!node) return;
  const column = columns.findIndex(nodes => nodes.includes(node)), row = columns[column].indexOf(node);
  const children = columns[column + 1]?.filter(each => each.parent === node) ?? [];
  const to = {
    ArrowLeft: node === root ? null : node.parent, ArrowRight: children[0], ArrowUp: columns[column][row - 1],
    ArrowDown: columns[column][row + 1], Home: root, End: columns.at(-1)[0],
  }[event.key];
  if (event.key === "Enter" || event.key === " ") showHypothesis(node);
  else if (!to) return;
  event.preventDefault();
  state.treeFocus = to ?? node;
  for (const group of $("tree").querySelectorAll("g")) {
    group.setAttribute("tabindex", group.node === state.treeFocus ? 0 : -1);
    if (group.node === state.treeFocus) group.focus();
  }
}

// One head, step by step

/** The equation that a head computes, in MathML, with the part marked that a step computes. */
function equation(step) {
  const on = (number, content) => `<mrow${number === step ? ' class="on"' : ""}>${content}</mrow>`;
  const name = letter => `<mi>${letter}</mi>`, sign = symbol => `<mo>${symbol}</mo>`;
  const text = word => `<mtext>${word}</mtext>`;
  const indexed = (letter, index) => `<msub>${name(letter)}${name(index)}</msub>`;
  if (isRecurrent) {
    const score = on(2, text("score")) + sign("(") + on(0, indexed("s", "t")) + sign(",") + on(1, indexed("h", "j"));
    const weight = on(3, text("softmax")) + sign("(") + score + sign(")") + sign(")") + on(4, indexed("h", "j"));
    const sum = `<munder>${sign("∑")}${name("j")}</munder>`;
    return `<math display="block">${on(5, indexed("c", "t"))}${sign("=")}${sum}${weight}</math>`;
  }
  const inputs = ["Q", "K", "V"].map(name).join(sign(",")), root = `<msqrt>${indexed("d", "k")}</msqrt>`;
  const product = `<mrow>${on(0, name("Q"))}<msup>${on(1, name("K"))}${name("T")}</msup></mrow>`;
  const scores = `<mrow>${sign("(")}<mfrac>${product}${on(2, root)}</mfrac>${sign(")")}</mrow>`;
  const left = on(5, text("Attention") + sign("(") + inputs + sign(")"));
  return `<math display="block">${left}${sign("=")}${on(3, text("softmax"))}${scores}${on(4, name("V"))}</math>`;
}

/** A sentence whose W^Q and d_k are set as in the paper. */
function withIndices(text) {
  return text.split(/([\^_][QKVOk](?![\p{L}]))/u).map(part => /^[\^_].$/.test(part)
    ? make(part[0] === "^" ? "sup" : "sub", {textContent: part[1]}) : part);
}

function showSteps() {
  const at = state.chosen ?? current(), kind = at && kindFor(at), {layer, head, step} = state;
  const look = at && kind && looksOf(at, kind)[layer], title = look ? "steps" : "stepsNone";
  $("steps-section").hidden = !state.kind;
  $("back").disabled = step === 0;
  $("next").disabled = step === STEPS - 1;
  $("step-number").textContent = t("stepOf", {n: step + 1, of: STEPS});
  $("equation").innerHTML = equation(step);
  $("steps-title").textContent = t(title, {layer: layer + 1, head: head + 1, word: at && wordOf(at)});
  $("numbers").replaceChildren();
  $("explanation").textContent = look ? "" : t("headsNone");
  if (!look) return;
  const heads = headsOf(kind);
  const ofHead = all => all.subarray(head * all.length / heads, (head + 1) * all.length / heads);
  const numbers = {
    query: ofHead(look.query), keys: look.keys.map(ofHead), scores: ofHead(look.scores),
    weights: ofHead(look.weights), values: look.values.map(ofHead), output: ofHead(look.output), word: wordOf(at),
    labels: labelsOf(nodesOf(kind === "decoder" ? "target" : "source").slice(0, look.keys.length)),
  };
  $("all-numbers-text").textContent = t("allNumbers", {n: numbers.query.length});
  $("explanation").replaceChildren(...withIndices(explain(numbers, at.side === "target")));
  $("numbers").append(...tableOf(numbers));
}

/** What a step does, with the numbers of the word that is looked at most. */
function explain({query, keys, scores, weights, labels, word}, isWritten) {
  const best = topK(weights, 1)[0], root = Math.sqrt(query.length), {step} = state;
  const isLocal = step === 3 && config.local_alignment === "predictive", isQuery = step === 0 && !isRecurrent;
  const variant = isLocal ? "Local" : isQuery && isWritten ? "Written" : "";
  const terms = Array.from(query.subarray(0, 3), (x, i) => `${x.toFixed(2)}·${keys[best][i].toFixed(2)}`);
  return t(`${isRecurrent ? "rstep" : "step"}${step + 1}${variant}`, {
    word, other: labels[best], terms: `${terms.join(" + ")} + …`, product: shown(scores[best] * root),
    root: root.toFixed(2), score: shown(scores[best]), weight: weights[best].toFixed(4),
  });
}

/** The head and the body of the table of a head's numbers; those that come in later steps are pale. */
function tableOf({query, keys, scores, weights, values, output, labels, word}) {
  const {step} = state, few = state.allNumbers ? Infinity : FEW;
  const when = from => step < from ? "later" : step === from ? "on" : "";
  const width = vector => Math.min(few + 1, vector.length);
  const blank = columns => columns > 0 ? [make("td", {colSpan: columns})] : [];
  const title = (text, from, colSpan = 1) => make("th", {
    textContent: text, scope: "col", colSpan, className: when(from),
  });
  const name = (text, className = "") => make("th", {textContent: text, scope: "row", className});
  const number = (x, from, digits) => make("td", {
    textContent: Number.isFinite(x) ? x.toFixed(digits) : "−∞", className: when(from),
  });
  const cells = (vector, from) => {
    const className = `vector ${step < from ? "later" : ""}`, numbers = Array.from(vector).slice(0, few);
    const most = Math.max(1e-9, ...numbers.map(Math.abs)), rest = vector.length > few ? ["…"] : [];
    return [...numbers, ...rest].map(x => {
      const cell = make("td", {className, textContent: x === "…" ? x : x.toFixed(2)});
      const colour = `rgb(var(${x < 0 ? "--cold" : "--heat"}) / ${(0.55 * Math.abs(x) / most).toFixed(3)})`;
      if (step >= from && x !== "…") cell.style.background = colour;
      return cell;
    });
  };
  const sum = weights.reduce((total, weight) => total + weight, 0), [k, v] = [width(keys[0]), width(values[0])];
  const rows = labels.map((label, j) => make("tr", {}, name(label), ...cells(keys[j], 1), number(scores[j], 2, 3),
    number(weights[j], 3, 4), ...cells(values[j], 4)));
  return [
    make("thead", {}, make("tr", {}, title(t("word"), -1), title(t("key"), 1, k), title(t("scoreColumn"), 2),
      title(t("weightColumn"), 3), title(t("value"), 4, v))),
    make("tbody", {},
      make("tr", {}, name(`q: ${word}`, when(0)), ...cells(query, 0), ...blank(k - width(query)), ...blank(2 + v)),
      ...rows,
      make("tr", {className: "result"}, name(t("output"), when(5)), ...blank(k + 1), number(sum, 3, 4),
        ...cells(output, 5))),
  ];
}

// Running the model

function textOf(node) { return state.tokenizer.decode(node.path().slice(isDecoder ? 0 : 1).map(each => each.token)); }

function showAll() {
  showWords();
  showAlternatives();
  showTree();
  showSteps();
  if (!state.isRunning && state.shown) $("text").textContent = textOf(state.shown);
}

function notice(text) { $("notice").textContent = text; }

/** What the text becomes: ids that fit into the model's positions. */
function readText() {
  const {tokenizer} = state, ids = tokenizer.encode($("input").value.trim());
  const most = data.search.longestSource - (isDecoder ? 1 : 0);  // a decoder is to write at least one
  const {start} = data.search, whole = isDecoder && start !== null && ids[0] !== start ? [start, ...ids] : ids;
  if (whole.length <= most) return whole;
  notice(t("cut", {n: whole.length, most}));
  return isDecoder ? whole.slice(0, most) : [...whole.slice(0, most - tokenizer.suffix.length), ...tokenizer.suffix];
}

function newSearch(prompt, limit) {
  const {model, source} = state, beams = $("search").value;
  if (beams !== "sample") return new BeamSearch(model, source, prompt, {...data.search, limit, beams: +beams});
  const [temperature, topK, topP] = ["temperature", "top_k", "top_p"].map(id => +$(id).value);
  const options = {temperature: temperature || 1, topK, topP: topP || 1};
  return new Sampling(model, source, prompt, {...data.search, limit, options});
}

/** Read the text anew, and write what the search finds, token by token. */
async function start() {
  const run = ++state.run, {model} = state, pause = () => new Promise(resolve => setTimeout(resolve));
  notice("");
  if (!$("input").value.trim()) { notice(t("empty")); state.isRunning = false; showGo(); return; }
  const began = performance.now(), ids = readText();
  Object.assign(state, {isRunning: true, hovered: null, search: null, shown: null});
  $("text").textContent = $("speed").textContent = "";
  if (isEncoder) {
    const all = state.forced.length ? state.forced : ids, nodes = Node.chain(all);
    model.logits(nodes).forEach((logits, i) => {
      const logProbs = logSoftmax(logits);
      nodes[i].next = topK(logProbs, SHOWN).map(token => ({token, logProb: logProbs[token]}));
    });
    state.source = {nodes};
    state.masks = all.flatMap((id, i) => id === data.tokenizer.maskId ? [i] : []);
    if (!state.masks.length) notice(t("noMask"));
    state.chosen ??= {side: "source", index: state.masks[0] ?? Math.min(1, all.length - 1)};
    state.isRunning = false;
    firstShown();
    showAll();
    const filled = all.map((id, i) => state.masks.includes(i) ? nodes[i].next[0].token : id);
    $("text").textContent = state.tokenizer.decode(filled);
    showGo();
    return;
  }
  state.source = model.encode(ids);
  const prompt = isDecoder ? ids : [data.search.start];
  state.promptLength = prompt.length;
  const limit = limitOf(data, hasSource ? ids.length : null, prompt.length) - state.forced.length;
  const search = newSearch([...prompt, ...state.forced], limit);
  Object.assign(state, {search, shown: search.root});
  showGo();
  let tokens = 0, drawn = 0, cost = 0, spent = performance.now() - began;
  while (!search.isDone && run === state.run) {
    const from = performance.now();
    search.advance();
    const after = performance.now();
    spent += after - from;
    tokens++;
    state.shown = search.open[0] ?? search.finished[0].node;
    // On a slow machine, the search has most of the time all the same.
    if (after - drawn > Math.max(60, 5 * cost)) {
      showWords();
      showAlternatives();
      showTree();
      firstShown();
      drawn = performance.now();
      cost = drawn - after;
    }
    await pause();
  }
  if (run !== state.run) return;
  state.isRunning = false;
  state.shown = search.finished[0]?.node ?? search.root;
  if (limit < 1) notice(t("full"));
  const seconds = spent / 1000, rate = tokens / seconds;
  if (tokens) {
    $("speed").textContent = t("speed", {tokens, seconds: seconds.toFixed(2), rate: Math.round(rate)});
    state.chosen ??= {side: "target", index: firstWritten()};
  }
  document.body.dataset.rate = rate;
  showAll();
  $("tree-scroll").scrollLeft = 0;
  showGo();
}

function stop() {
  state.run++;
  state.isRunning = false;
  showAll();
  showGo();
}

/** Note when the first token could be seen, in milliseconds since the page was opened. */
function firstShown() { document.body.dataset.first ??= performance.now(); }

function showGo() {
  $("go").textContent = t(state.isRunning ? "stop" : isDecoder ? "goDecoder" : isEncoder ? "goEncoder" : "go");
  document.querySelector("main").setAttribute("aria-busy", state.isRunning);
}

// Controls

/** Give a select its options, pairs (text, value), and keep what is chosen, at first `value`. */
function fill(id, options, value) {
  const chosen = $(id).options.length ? $(id).value : value;
  $(id).replaceChildren(...options.map(each => new Option(...each)));
  $(id).value = chosen;
}

function showTexts() {
  document.documentElement.lang = language;
  $("language").value = language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
  $("input-title").textContent = t(isDecoder ? "inputDecoder" : isEncoder ? "inputEncoder" : "inputSeq2seq");
  $("source-title").textContent = isEncoder ? `${t("sourceEncoder")}. ${t("point")}` : t("source");
  $("target-title").textContent = `${t(isDecoder ? "written" : "target")}. ${t("point")}`;
  const family = {vanilla: "familyVanilla", vanilla_decoder: "familyDecoder", vanilla_encoder: "familyEncoder"};
  $("about").textContent = t("about", {
    family: isRecurrent ? t("familyRecurrent", {kind: config.attention_type}) : t(family[config.model_type]),
    layers: hasSource ? `${config.encoder_layers} + ${config.decoder_layers}` : config.num_hidden_layers,
    heads: isRecurrent ? t("noHeads") : t("heads1", {n: config.num_attention_heads}),
    width: config.hidden_size, tokens: config.vocab_size.toLocaleString(language),
    million: language === "ko" ? Math.round(data.parameters / 1e4).toLocaleString("ko") : (data.parameters / 1e6).toFixed(1),
    precision: data.precision,
  });
  const beams = [...new Set([2, 4, 8, data.search.beams])].filter(n => n > 1 && n <= config.vocab_size);
  const searches = [...(isDecoder ? [[t("sample"), "sample"]] : []), [t("greedy"), 1],
    ...beams.sort((a, b) => a - b).map(n => [t("beam", {n}), n])];
  fill("search", searches, isDecoder && data.search.beams === 1 ? "sample" : data.search.beams);
  const short = text => text.length > 60 ? `${text.slice(0, 59)}…` : text;
  fill("example", [[t("choose"), ""], ...data.examples.map((text, i) => [short(text), i])], "");
  const names = {encoder: "kindEncoder", decoder: "kindDecoder", cross: "kindCross"};
  fill("kind", Object.keys(state.model.attentions).map(name => [t(names[name]), name]), state.kind);
  $("kind").hidden = $("kind").options.length < 2;
  showGo();
}

/** Let arrow keys and the pointer choose among the words of a side. */
function listen(side) {
  const box = $(side), indexOf = event => event.target.closest(".word")?.dataset.index;
  box.addEventListener("click", event => { if (indexOf(event)) choose({side, index: +indexOf(event)}); });
  box.addEventListener("pointerover", event => {
    if (event.pointerType === "touch" || !indexOf(event)) return;
    state.hovered = {side, index: +indexOf(event)};
    colourWords();
  });
  box.addEventListener("pointerleave", () => { state.hovered = null; colourWords(); });
  box.addEventListener("keydown", event => {
    const count = box.children.length, index = +indexOf(event);
    const [before, after] = [index - 1, index + 1];
    const to = {
      ArrowLeft: before, ArrowUp: before, ArrowRight: after, ArrowDown: after, Home: 0, End: count - 1,
    }[event.key];
    if (to === undefined || to < 0 || to >= count) return;
    event.preventDefault();
    choose({side, index: to});
    box.children[to].focus();
  });
}

function setUp() {
  Object.assign(state, load(data, $("weights").textContent));
  $("weights").remove();
  state.kind = Object.keys(state.model.attentions).at(-1) ?? null;
  state.layer = state.kind ? state.model.attentions[state.kind].length - 1 : 0;
  document.querySelector("main").hidden = false;
  const hide = (isHidden, ...elements) => elements.forEach(element => { element.hidden = isHidden; });
  hide(isDecoder, $("source"), $("source-title"));
  hide(isEncoder, $("target"), $("target-title"), $("tree-section"), $("hypotheses-section"));
  hide(isEncoder, $("search").parentElement);
  hide(!isEncoder, $("mask"));
  hide(!data.examples.length, $("example-label"));
  hide(!state.kind, $("heads"), $("switch"), $("all-on"));
  hide(!state.kind || headsOf(state.kind) === 1, $("mean").parentElement);
  showTexts();
  [$("temperature").value, $("top_k").value, $("top_p").value] =
    [data.search.temperature, data.search.topK, data.search.topP];
  const showSampling = () => hide($("search").value !== "sample", ...document.querySelectorAll(".sampling"));
  showSampling();
  listenToInput(showSampling);
  listenToHeads();
  listen("source");
  listen("target");
  document.body.dataset.ready = "true";
  if (data.examples.length) {
    $("input").value = data.examples[0];
    begin();
  }
}

/** Start with a text as it stands there, without words that were forced. */
function begin() {
  Object.assign(state, {forced: [], chosen: null});
  start();
}

function on(id, event, handler) { $(id).addEventListener(event, handler); }

function listenToInput(showSampling) {
  on("form", "submit", event => {
    event.preventDefault();
    if (state.isRunning) stop();
    else begin();
  });
  on("input", "keydown", event => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    begin();
  });
  on("example", "change", () => {
    if ($("example").value === "") return;
    $("input").value = data.examples[$("example").value];
    begin();
  });
  on("search", "change", () => {
    showSampling();
    begin();
  });
  on("language", "change", () => {
    language = $("language").value;
    showTexts();
    showAll();
  });
  on("mask", "click", () => {
    const {selectionStart: from, selectionEnd: to} = $("input");
    $("input").setRangeText(state.tokenizer.tokens[data.tokenizer.maskId], from, to, "end");
    $("input").focus();
  });
  on("own", "submit", event => {
    event.preventDefault();
    const text = $("own-text").value, at = current(), isFirst = !isDecoder && at.index === firstWritten();
    const needsBlank = state.tokenizer.isByteLevel && !isFirst && !/^\s/.test(text);
    if (text.trim()) force(at, state.tokenizer.encodeAlone(needsBlank ? ` ${text}` : text));
  });
  on("release", "click", begin);
  on("tree", "click", event => {
    const node = event.target.closest("g")?.node;
    if (node) showHypothesis(node);
  });
  on("tree", "keydown", moveInTree);
}

function listenToHeads() {
  on("kind", "change", () => {
    state.kind = $("kind").value;
    // A word of the target looks at no word by the encoder's attention.
    if (state.chosen && kindFor(state.chosen) !== state.kind) state.chosen = null;
    if (state.kind === "encoder" && state.chosen?.side !== "source") state.chosen = {side: "source", index: 0};
    colourWords();
    showAlternatives();
    showSteps();
  });
  on("mean", "change", () => {
    state.mean = $("mean").checked;
    colourWords();
  });
  on("heads", "click", event => {
    const button = event.target.closest("button");
    if (button) chooseHead(+button.dataset.layer, +button.dataset.head);
  });
  on("heads", "keydown", event => {
    const move = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (!move) return;
    event.preventDefault();
    chooseHead(state.layer + move[0], state.head + move[1]);
    $("heads").querySelector("[tabindex='0']").focus();
  });
  on("switch", "click", () => {
    const {off} = state.model.attentions[$("kind").value][state.layer];
    if (!off.delete(state.head)) off.add(state.head);
    start();
  });
  on("all-on", "click", () => {
    Object.values(state.model.attentions).flat().forEach(module => module.off.clear());
    start();
  });
  const step = by => {
    state.step = Math.min(STEPS - 1, Math.max(0, state.step + by));
    showSteps();
  };
  on("back", "click", () => step(-1));
  on("next", "click", () => step(1));
  on("all-numbers", "change", () => {
    state.allNumbers = $("all-numbers").checked;
    showSteps();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", colourWords);
}

// After the first paint, for reading many weights takes a moment.
requestAnimationFrame(() => setTimeout(setUp));

}
