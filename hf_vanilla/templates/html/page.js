// The page: what the engine computes, shown as it is computed.

const STRINGS = {
  en: {
    language: "Language", example: "Example", choose: "choose …", search: "Search", greedy: "greedy: always the most probable",
    beam: "beam search, {n} beams", sample: "draw at random", temperature: "temperature", mask: "Insert a mask",
    source: "Source", target: "Translation", words: "Word by word", go: "Translate", goDecoder: "Go on", goEncoder: "Fill in", stop: "Stop",
    inputSeq2seq: "Text to translate", inputDecoder: "How the text begins", inputEncoder: "Text with masks",
    sourceEncoder: "Text, with the best guess for each mask", written: "Text",
    point: "Point at a word to see where the model looks; choose it to see what it could have been.",
    about: "{family}, {layers} layers, {heads}, {width} wide, {tokens} tokens, {million} million weights ({precision}). It runs in this page alone: no network, no server.",
    heads1: "{n} heads", noHeads: "no heads", familyVanilla: "Encoder-decoder Transformer", familyDecoder: "Decoder-only Transformer",
    familyEncoder: "Encoder-only Transformer", familyRecurrent: "Recurrent encoder-decoder, {kind} attention",
    alternatives: "Instead of “{word}”", alternativesNone: "Alternatives", own: "or words of your own", force: "Use it", release: "Undo",
    heads: "Where each head looks", kindEncoder: "encoder", kindDecoder: "decoder, to itself", kindCross: "decoder, to the source",
    headsHelp: "Rows are layers, columns are heads; each picture shows how much “{word}” looks at each word. Arrow keys move.",
    headsNone: "Choose a word above.", off: "switched off", looksAt: "Layer {layer}, head {head}: “{word}” looks most at “{other}” ({weight}).",
    lookedAt: "Layer {layer}, head {head}: “{word}” is looked at most by “{other}” ({weight}).",
    cell: "layer {layer}, head {head}", switchOff: "Switch this head off", switchOn: "Switch this head on", allOn: "All on",
    mean: "colour words by the mean of the layer's heads", tree: "The search as a tree",
    treeHelp: "Each column is a step; the thick line is the best hypothesis. Arrow keys move, Enter shows a hypothesis.",
    treeNode: "step {step}, {word}, probability {p}, log-probability {total}", treeEnd: "ends here", score: "score {score}",
    hypotheses: "Best hypotheses",
    steps: "One head, step by step: layer {layer}, head {head}, “{word}”", stepsNone: "One head, step by step", back: "Back", next: "Next",
    stepOf: "step {n} of {of}", allNumbers: "all {n} numbers of each vector",
    step1: "Query: the state of “{word}” times W^Q is the vector q, what this word asks for.",
    step1Written: "Query: “{word}” is written from the state of the word before it; that state times W^Q is the vector q, what it asks for.",
    step2: "Keys: the state of each word times W^K is its vector k, what it offers to be found by.",
    step3: "Scores: q · k for each word, divided by √d_k = {root}. For “{other}”: {terms} = {product}, and divided: {score}.",
    step4: "Softmax: e to the power of each score, divided by their sum, so that the weights add up to 1. “{other}” gets {weight}.",
    step5: "Values: the state of each word times W^V is its vector v, what it gives.",
    step6: "Output: the values, each times its weight, added up. All heads side by side, times W^O, are the layer's attention (section 3.2.2).",
    rstep1: "Query: the decoder's state s as it writes “{word}”.", rstep2: "Keys: what each encoder state h is compared by.",
    rstep3: "Scores: how well s and each key fit. “{other}” gets {score}.",
    rstep4: "Softmax: e to the power of each score, divided by their sum. “{other}” gets {weight}.",
    rstep4Local: "Softmax within a window, times a Gaussian around the place that the model predicts (Luong et al., eq. 10). “{other}” gets {weight}.",
    rstep5: "Values: the encoder's states h.", rstep6: "Context: the states, each times its weight, added up.",
    query: "q", key: "k", scoreColumn: "score", weightColumn: "weight", value: "v", output: "output", word: "word",
    cut: "The text has {n} tokens and the model reads {most}: the rest is left out.", empty: "Write a text first.",
    full: "The text fills all positions of the model: there is no room for another word.", noMask: "There is no mask in the text: every word is shown with what the model would have guessed.",
    speed: "{tokens} tokens in {seconds} s, {rate} a second", noAttention: "This model has no attention: the source is one vector, from which the decoder starts.",
  },
  ko: {
    language: "언어", example: "예문", choose: "고르기 …", search: "탐색", greedy: "탐욕 탐색: 항상 가장 확률 높은 단어",
    beam: "빔 탐색, 빔 {n}개", sample: "무작위 추출", temperature: "온도", mask: "마스크 넣기",
    source: "원문", target: "번역", words: "단어별로 보기", go: "번역", goDecoder: "이어 쓰기", goEncoder: "채우기", stop: "멈춤",
    inputSeq2seq: "번역할 글", inputDecoder: "글의 첫머리", inputEncoder: "마스크가 있는 글",
    sourceEncoder: "글과 각 마스크의 가장 좋은 추측", written: "글",
    point: "단어를 가리키면 모델이 어디를 보는지, 고르면 대신 무엇이 올 수 있었는지 보입니다.",
    about: "{family}, {layers}층, {heads}, 너비 {width}, 토큰 {tokens}개, 가중치 {million}백만 개({precision}). 이 페이지 안에서만 실행되며 네트워크도 서버도 쓰지 않습니다.",
    heads1: "헤드 {n}개", noHeads: "헤드 없음", familyVanilla: "인코더-디코더 트랜스포머", familyDecoder: "디코더 트랜스포머",
    familyEncoder: "인코더 트랜스포머", familyRecurrent: "순환 인코더-디코더, {kind} 어텐션",
    alternatives: "“{word}” 대신", alternativesNone: "다른 후보", own: "또는 직접 쓰기", force: "쓰기", release: "되돌리기",
    heads: "각 헤드가 보는 곳", kindEncoder: "인코더", kindDecoder: "디코더, 자기 자신", kindCross: "디코더, 원문",
    headsHelp: "행은 층, 열은 헤드입니다. 그림은 “{word}”가 각 단어를 얼마나 보는지 나타냅니다. 화살표 키로 움직입니다.",
    headsNone: "위에서 단어를 고르세요.", off: "꺼짐", looksAt: "{layer}층 헤드 {head}: “{word}”는 “{other}”를 가장 많이 봅니다({weight}).",
    lookedAt: "{layer}층 헤드 {head}: “{word}”를 가장 많이 보는 단어는 “{other}”입니다({weight}).",
    cell: "{layer}층, 헤드 {head}", switchOff: "이 헤드 끄기", switchOn: "이 헤드 켜기", allOn: "모두 켜기",
    mean: "층의 헤드 평균으로 단어 칠하기", tree: "탐색 나무",
    treeHelp: "열은 한 단계이고, 굵은 선이 가장 좋은 가설입니다. 화살표 키로 움직이고 Enter로 가설을 봅니다.",
    treeNode: "{step}단계, {word}, 확률 {p}, 로그 확률 {total}", treeEnd: "여기서 끝남", score: "점수 {score}",
    hypotheses: "가장 좋은 가설",
    steps: "헤드 하나를 한 단계씩: {layer}층, 헤드 {head}, “{word}”", stepsNone: "헤드 하나를 한 단계씩", back: "이전", next: "다음",
    stepOf: "{of}단계 중 {n}단계", allNumbers: "각 벡터의 수 {n}개 모두 보기",
    step1: "질의: “{word}”의 상태에 W^Q를 곱한 벡터 q는 이 단어가 찾는 것입니다.",
    step1Written: "질의: “{word}”는 바로 앞 단어의 상태에서 쓰입니다. 그 상태에 W^Q를 곱한 벡터 q는 찾는 것입니다.",
    step2: "키: 각 단어의 상태에 W^K를 곱한 벡터 k는 그 단어를 찾게 해 주는 것입니다.",
    step3: "점수: 각 단어의 q · k를 √d_k = {root}로 나눕니다. “{other}”의 경우 {terms} = {product}, 나누면 {score}입니다.",
    step4: "소프트맥스: e의 점수 제곱을 그 합으로 나누어 가중치의 합이 1이 되게 합니다. “{other}”의 가중치는 {weight}입니다.",
    step5: "값: 각 단어의 상태에 W^V를 곱한 벡터 v는 그 단어가 주는 것입니다.",
    step6: "출력: 값에 가중치를 곱해 모두 더합니다. 모든 헤드를 나란히 놓고 W^O를 곱하면 이 층의 어텐션입니다(3.2.2절).",
    rstep1: "질의: “{word}”를 쓸 때 디코더의 상태 s입니다.", rstep2: "키: 인코더의 각 상태 h를 견주는 벡터입니다.",
    rstep3: "점수: s와 각 키가 얼마나 맞는지입니다. “{other}”의 점수는 {score}입니다.",
    rstep4: "소프트맥스: e의 점수 제곱을 그 합으로 나눕니다. “{other}”의 가중치는 {weight}입니다.",
    rstep4Local: "창 안에서의 소프트맥스에 모델이 예측한 자리를 중심으로 한 가우시안을 곱합니다(Luong 등, 식 10). “{other}”의 가중치는 {weight}입니다.",
    rstep5: "값: 인코더의 상태 h입니다.", rstep6: "문맥: 상태에 가중치를 곱해 모두 더합니다.",
    query: "q", key: "k", scoreColumn: "점수", weightColumn: "가중치", value: "v", output: "출력", word: "단어",
    cut: "글은 토큰 {n}개인데 모델은 {most}개까지 읽습니다. 나머지는 뺐습니다.", empty: "먼저 글을 쓰세요.",
    full: "글이 모델의 자리를 모두 채워서 단어를 더 쓸 수 없습니다.", noMask: "글에 마스크가 없습니다. 각 단어마다 모델이 추측했을 것을 보여 줍니다.",
    speed: "토큰 {tokens}개, {seconds}초, 초당 {rate}개", noAttention: "이 모델에는 어텐션이 없습니다. 원문은 벡터 하나이며 디코더가 거기서 시작합니다.",
  },
};

if (typeof document !== "undefined" && !window.failed) {

const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent), {config} = data;
const isRecurrent = config.model_type === "vanilla_recurrent", isEncoder = config.model_type === "vanilla_encoder";
const isDecoder = config.model_type === "vanilla_decoder", hasSource = !isEncoder && !isDecoder;
const SVG = "http://www.w3.org/2000/svg", FEW = matchMedia("(min-width: 60rem)").matches ? 9 : 4, STEPS = 6;
const state = {
  model: null, tokenizer: null, source: null, search: null, shown: null, forced: [], run: 0, isRunning: false,
  chosen: null, hovered: null, kind: null, layer: 0, head: 0, mean: false, step: 0, allNumbers: false, columns: null, treeFocus: null,
};
let language = data.language ?? (navigator.language.startsWith("ko") ? "ko" : "en");

const t = (name, values = {}) => STRINGS[language][name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
const percent = p => p >= 0.9995 || p < 0.0005 ? `${(100 * p).toPrecision(2)} %` : `${(100 * p).toFixed(1)} %`;
const shown = x => Math.abs(x) >= 1000 ? x.toExponential(2) : x.toFixed(3);

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

/** What the node that wrote a word, or an encoder's node, looked at: the word before it writes a word of the target. */
function looksOf({side, index}, kind) {
  const nodes = nodesOf(side), node = side === "source" ? nodes[index] : nodes[index].parent;
  return node?.looks[kind === "cross" ? "cross" : "self"] ?? [];
}

/** The weights (words of `side`) of one head, or null: what a word looks at, or for a source's word what looks at it. */
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
  return all[0] && {side: all[0].side, weights: all[0].weights.map((_, i) => all.reduce((sum, each) => sum + each.weights[i] / all.length, 0))};
}

function headsOf(kind) { return state.model.attentions[kind][0].heads; }

// Words

function showWords() {
  for (const side of ["source", "target"]) {
    const nodes = nodesOf(side), labels = labelsOf(nodes), box = $(side), before = box.children.length;
    const firstFree = isDecoder ? state.promptLength : 1;
    box.replaceChildren(...nodes.map((node, i) => {
      const token = state.tokenizer.tokens[node.token] ?? "", isSpecial = state.tokenizer.special.has(node.token);
      const isMask = isEncoder && state.masks.includes(i), label = isMask ? `${labels[i]} ${guess(node)}` : labels[i];
      const word = make("div", {className: "word", textContent: label, tabIndex: -1, dir: "auto"});
      word.classList.toggle("special", isSpecial && !isMask);
      word.classList.toggle("begins", /^[ \u0120]/.test(token) || isMask);
      word.classList.toggle("new", side === "target" && i >= before && state.isRunning);
      word.setAttribute("role", "option");
      [word.dataset.index, word.dataset.token] = [i, node.token];
      if (side === "target" && i >= firstFree) {
        const p = Math.exp(node.logProb);
        word.title = percent(p);
        word.classList.toggle("forced", i < firstFree + state.forced.length);
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
  const found = at && kind && (state.mean ? meanOf(at, kind, state.layer) : weightsOf(at, kind, state.layer, state.head));
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
    layer: state.layer + 1, head: state.mean ? "∅" : state.head + 1, word: wordOf(at), weight: found.weights[best].toFixed(3),
    other: wordOf({side: found.side, index: best}),
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

function showAlternatives() {
  const at = current(), canForce = at && (isEncoder || at.side === "target" && at.index >= (isDecoder ? state.promptLength : 1));
  const node = canForce && nodesOf(at.side)[at.index], before = isEncoder ? node : node && node.parent;
  $("alternatives-title").textContent = canForce ? t("alternatives", {word: wordOf(at)}) : t("alternativesNone");
  const next = canForce && before.next ? before.next.slice(0, SHOWN) : [];
  if (canForce && !isEncoder && !next.some(each => each.token === node.token)) next.push({token: node.token, logProb: node.logProb});
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
    const first = isDecoder ? state.promptLength : 1;
    state.forced = [...nodesOf("target").slice(first, index).map(node => node.token), ...tokens];
  }
  state.chosen = {side, index};
  start();
}

// Heads

function showHeads(at, kind) {
  $("switch").disabled = $("all-on").disabled = !kind;
  if (!kind) return;
  const modules = state.model.attentions[kind], heads = headsOf(kind), grid = $("heads"), name = `${kind} ${modules.length} ${heads} ${language}`;
  if (grid.dataset.name !== name) {
    grid.dataset.name = name;
    grid.style.gridTemplateColumns = `1.2rem repeat(${heads}, minmax(1.9rem, 1fr))`;
    const header = make("span"), corners = Array.from({length: heads}, (_, head) => make("span", {textContent: head + 1}));
    grid.replaceChildren(header, ...corners, ...modules.flatMap((_, layer) => [make("span", {textContent: layer + 1}),
      ...corners.map((_, head) => {
        const button = make("button", {type: "button"}, make("canvas", {height: 1}));
        button.setAttribute("role", "gridcell");
        [button.dataset.layer, button.dataset.head] = [layer, head];
        return button;
      })]));
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
  const {search} = state, tree = $("tree"), box = $("tree-scroll");
  if (!search) return;
  const best = new Set(state.shown.path()), alive = new Set();
  for (const node of [...search.open, ...search.finished.map(each => each.node)]) {
    for (let each = node; each && !alive.has(each); each = each.parent) alive.add(each);
  }
  const WIDTH = 92, HEIGHT = 44, ROW = 52, places = new Map();
  // Of hypotheses that have been given up, a column has as many as there is room for.
  state.columns = [[search.root], ...search.steps.map(nodes => {
    let room = search.beams - nodes.filter(node => alive.has(node)).length;
    return [...nodes].sort((a, b) => b.total - a.total).filter(node => alive.has(node) || room-- > 0);
  })];
  state.columns.forEach((nodes, step) => nodes.forEach((node, row) => {
    places.set(node, [8 + step * (WIDTH + 26), 6 + row * ROW]);
  }));
  const lines = [], boxes = [], labels = new Map();
  for (const [node, [x, y]] of places) {
    const from = places.get(node.parent), isBest = best.has(node);
    if (from) {
      const [left, top] = [from[0] + WIDTH, from[1] + HEIGHT / 2], middle = (left + x) / 2;
      const line = draw("path", {d: `M${left} ${top} C${middle} ${top} ${middle} ${y + HEIGHT / 2} ${x} ${y + HEIGHT / 2}`});
      if (isBest) line.classList.add("best");
      lines[isBest ? "push" : "unshift"](line);
    }
    const label = state.tokenizer.label(node.token), p = node === search.root ? "" : percent(Math.exp(node.logProb ?? 0));
    const text = draw("text", {x: x + WIDTH / 2, y: y + 19, "text-anchor": "middle"}), small = draw("text", {x: x + WIDTH / 2, y: y + 35, "text-anchor": "middle", class: "small"});
    text.textContent = label.length > 11 ? `${label.slice(0, 10)}…` : label;
    small.textContent = node.isEnd ? `${p} ■` : p;
    const group = draw("g", {role: "treeitem", tabindex: -1}, draw("rect", {x, y, width: WIDTH, height: HEIGHT, rx: 7}), text, small);
    group.setAttribute("aria-label", t("treeNode", {step: node.position, word: label, p, total: shown(node.total)}) + (node.isEnd ? `, ${t("treeEnd")}` : ""));
    group.setAttribute("aria-selected", isBest);
    group.classList.toggle("best", isBest);
    group.classList.toggle("dead", !alive.has(node));
    group.classList.toggle("end", Boolean(node.isEnd));
    labels.set(node, group);
    group.node = node;
    boxes.push(group);
  }
  const most = Math.max(...state.columns.map(nodes => nodes.length));
  const width = 20 + (search.steps.length + 1) * (WIDTH + 26);
  for (const [name, value] of Object.entries({width, height: 10 + most * ROW, viewBox: `0 0 ${width} ${10 + most * ROW}`})) tree.setAttribute(name, value);
  tree.replaceChildren(...lines, ...boxes);
  (labels.get(state.treeFocus) ?? boxes[0]).setAttribute("tabindex", 0);
  if (state.isRunning) box.scrollLeft = width;
  $("hypotheses").replaceChildren(...search.finished.map(({node, score}) => {
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

/** The paper's equation in MathML, with the part that a step computes marked. */
function equation(step) {
  const mark = (number, tag, ...children) => `<${tag}${(Array.isArray(number) ? number : [number]).includes(step) ? ' class="on"' : ""}>${children.join("")}</${tag}>`;
  const name = text => `<mi>${text}</mi>`, sign = text => `<mo>${text}</mo>`;
  if (isRecurrent) {
    return `<math display="block">${mark(5, "msub", name("c"), name("t"))}${sign("=")}<munder>${sign("∑")}${name("j")}</munder>
      ${mark(3, "mrow", "<mtext>softmax</mtext>")}<mrow>${sign("(")}${mark(2, "mrow", "<mtext>score</mtext>")}${sign("(")}${mark(0, "msub", name("s"), name("t"))}
      ${sign(",")}${mark(1, "msub", name("h"), name("j"))}${sign(")")}${sign(")")}</mrow>${mark(4, "msub", name("h"), name("j"))}</math>`;
  }
  return `<math display="block">${mark(5, "mrow", "<mtext>Attention</mtext>", sign("("), name("Q"), sign(","), name("K"), sign(","), name("V"), sign(")"))}
    ${sign("=")}${mark(3, "mtext", "softmax")}<mrow>${sign("(")}<mfrac><mrow>${mark(0, "mi", "Q")}<msup>${mark(1, "mi", "K")}<mi>T</mi></msup></mrow>
    ${mark(2, "msqrt", "<msub><mi>d</mi><mi>k</mi></msub>")}</mfrac>${sign(")")}</mrow>${mark(4, "mi", "V")}</math>`;
}

/** A sentence whose W^Q and d_k are set as in the paper. */
function withIndices(text) {
  return text.split(/([\^_][QKVOk](?![\p{L}]))/u).map(part => /^[\^_]/.test(part) && part.length === 2
    ? make(part[0] === "^" ? "sup" : "sub", {textContent: part[1]}) : part);
}

function showSteps() {
  const at = state.chosen ?? current(), kind = at && kindFor(at), {layer, head, step} = state;
  const look = at && kind && looksOf(at, kind)[layer];
  $("steps-section").hidden = !state.kind;
  $("back").disabled = step === 0;
  $("next").disabled = step === STEPS - 1;
  $("step-number").textContent = t("stepOf", {n: step + 1, of: STEPS});
  $("equation").innerHTML = equation(step);
  $("steps-title").textContent = look ? t("steps", {layer: layer + 1, head: head + 1, word: wordOf(at)}) : t("stepsNone");
  $("numbers").replaceChildren();
  $("explanation").textContent = look ? "" : t("headsNone");
  if (!look) return;
  const heads = headsOf(kind), part = vector => vector.subarray(head * vector.length / heads, (head + 1) * vector.length / heads);
  const count = look.keys.length, query = part(look.query), root = Math.sqrt(query.length);
  const scores = look.scores.subarray(head * count, (head + 1) * count), weights = look.weights.subarray(head * count, (head + 1) * count);
  const labels = labelsOf(nodesOf(kind === "decoder" ? "target" : "source").slice(0, count)), best = topK(weights, 1)[0];
  const few = state.allNumbers ? Infinity : FEW, first = part(look.keys[best]);
  const terms = Array.from(query.subarray(0, 3), (x, i) => `${x.toFixed(2)}·${first[i]?.toFixed(2)}`).join(" + ");
  $("all-numbers-text").textContent = t("allNumbers", {n: query.length});
  const written = !isRecurrent && at.side === "target" ? "1Written" : "1", local = config.local_alignment === "predictive" ? "4Local" : "4";
  const sentence = {0: written, 3: isRecurrent ? local : "4"}[step] ?? step + 1;
  $("explanation").replaceChildren(...withIndices(t(`${isRecurrent ? "rstep" : "step"}${sentence}`, {
    word: wordOf(at), other: labels[best], terms: `${terms} + …`, product: shown(scores[best] * root), root: root.toFixed(2),
    score: shown(scores[best]), weight: weights[best].toFixed(4),
  })));
  const cells = (vector, from) => {
    const numbers = Array.from(vector).slice(0, few), size = Math.max(1e-9, ...numbers.map(Math.abs));
    const made = numbers.map(x => {
      const cell = make("td", {className: `vector${step < from ? " later" : ""}`, textContent: x.toFixed(2)});
      cell.style.background = step < from ? "" : `rgb(var(${x < 0 ? "--cold" : "--heat"}) / ${(0.55 * Math.abs(x) / size).toFixed(3)})`;
      return cell;
    });
    return vector.length > few ? [...made, make("td", {className: `vector${step < from ? " later" : ""}`, textContent: "…"})] : made;
  };
  const number = (x, from, digits = 3) => make("td", {className: step < from ? "later" : step === from ? "on" : "", textContent: Number.isFinite(x) ? x.toFixed(digits) : "−∞"});
  const wide = vector => Math.min(few, vector.length) + (vector.length > few ? 1 : 0);
  const head1 = (text, from, columns = 1) => make("th", {textContent: text, colSpan: columns, scope: "col", className: step < from ? "later" : step === from ? "on" : ""});
  const output = part(look.output), value = part(look.values[0]), keys = part(look.keys[0]);
  const rows = labels.map((label, j) => make("tr", {}, make("th", {textContent: label, scope: "row"}), ...cells(part(look.keys[j]), 1),
    number(scores[j], 2), number(weights[j], 3, 4), ...cells(part(look.values[j]), 4)));
  const blank = columns => make("td", {colSpan: columns});
  $("numbers").append(
    make("thead", {}, make("tr", {}, head1(t("word"), -1), head1(t("key"), 1, wide(keys)), head1(t("scoreColumn"), 2), head1(t("weightColumn"), 3), head1(t("value"), 4, wide(value)))),
    make("tbody", {}, make("tr", {}, make("th", {textContent: `q: ${wordOf(at)}`, scope: "row", className: step === 0 ? "on" : ""}),
      ...cells(query, 0), ...(wide(query) < wide(keys) ? [blank(wide(keys) - wide(query))] : []), blank(2 + wide(value))), ...rows,
    make("tr", {className: "result"}, make("th", {textContent: t("output"), scope: "row", className: step < 5 ? "later" : "on"}), blank(wide(keys) + 1),
      number(weights.reduce((sum, x) => sum + x, 0), 3, 4), ...cells(output, 5))));
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
  const {tokenizer} = state, ids = tokenizer.encode($("input").value.trim()), most = data.search.longestSource - (isDecoder ? 1 : 0);
  const {start} = data.search, whole = isDecoder && start !== null && ids[0] !== start ? [start, ...ids] : ids;
  if (whole.length <= most) return whole;
  notice(t("cut", {n: whole.length, most}));
  return isDecoder ? whole.slice(0, most) : [...whole.slice(0, most - tokenizer.suffix.length), ...tokenizer.suffix];
}

/** Read the text anew, and write what the search finds, token by token. */
async function start() {
  const run = ++state.run, {model} = state, pause = () => new Promise(resolve => setTimeout(resolve));
  notice("");
  if (!$("input").value.trim()) { notice(t("empty")); state.isRunning = false; showGo(); return; }
  const began = performance.now(), ids = readText();
  Object.assign(state, {isRunning: true, hovered: null, search: null, shown: null});
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
  const kind = $("search").value, options = {temperature: +$("temperature").value || 1, topK: +$("top_k").value, topP: +$("top_p").value || 1};
  const search = kind === "sample" ? new Sampling(model, state.source, [...prompt, ...state.forced], {...data.search, limit, options})
    : new BeamSearch(model, state.source, [...prompt, ...state.forced], {...data.search, limit, beams: +kind});
  Object.assign(state, {search, shown: search.root});
  showGo();
  let tokens = 0, rendered = 0, spent = performance.now() - began;
  while (!search.isDone && run === state.run) {
    const from = performance.now();
    search.advance();
    spent += performance.now() - from;
    tokens++;
    state.shown = search.open[0] ?? search.finished[0].node;
    if (performance.now() - rendered > 60) {
      showWords();
      if (!state.chosen) showAlternatives();
      showTree();
      rendered = performance.now();
      firstShown();
    }
    await pause();
  }
  if (run !== state.run) return;
  state.isRunning = false;
  state.shown = search.finished[0]?.node ?? search.root;
  if (limit < 1) notice(t("full"));
  if (tokens) $("speed").textContent = t("speed", {tokens, seconds: (spent / 1000).toFixed(2), rate: Math.round(1000 * tokens / spent)});
  document.body.dataset.rate = 1000 * tokens / spent;
  const first = isDecoder ? state.promptLength : 1;
  if (tokens) state.chosen ??= {side: "target", index: first};
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

function showTexts() {
  document.documentElement.lang = language;
  $("language").value = language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
  $("input-title").textContent = t(isDecoder ? "inputDecoder" : isEncoder ? "inputEncoder" : "inputSeq2seq");
  $("source-title").textContent = isEncoder ? `${t("sourceEncoder")}. ${t("point")}` : t("source");
  $("target-title").textContent = `${t(isDecoder ? "written" : "target")}. ${t("point")}`;
  const layers = hasSource ? `${config.encoder_layers} + ${config.decoder_layers}` : config.num_hidden_layers;
  $("about").textContent = t("about", {
    family: isRecurrent ? t("familyRecurrent", {kind: config.attention_type}) : t(isDecoder ? "familyDecoder" : isEncoder ? "familyEncoder" : "familyVanilla"),
    layers, heads: isRecurrent ? t("noHeads") : t("heads1", {n: config.num_attention_heads}), width: config.hidden_size,
    tokens: config.vocab_size.toLocaleString(language), million: (data.parameters / 1e6).toFixed(1), precision: data.precision,
  });
  const kind = $("search").value, beams = [...new Set([2, 4, 8, data.search.beams])].filter(n => n > 1 && n <= config.vocab_size).sort((a, b) => a - b);
  $("search").replaceChildren(...(isDecoder ? [new Option(t("sample"), "sample")] : []), new Option(t("greedy"), 1),
    ...beams.map(n => new Option(t("beam", {n}), n)));
  $("search").value = kind || (isDecoder && data.search.beams === 1 ? "sample" : data.search.beams);
  const example = $("example").selectedIndex;
  $("example").replaceChildren(new Option(t("choose"), ""), ...data.examples.map((text, i) => new Option(text.length > 60 ? `${text.slice(0, 59)}…` : text, i)));
  $("example").selectedIndex = Math.max(0, example);
  const names = {encoder: "kindEncoder", decoder: "kindDecoder", cross: "kindCross"};
  if (state.model) {
    $("kind").replaceChildren(...Object.keys(state.model.attentions).map(name => new Option(t(names[name]), name)));
    $("kind").hidden = $("kind").options.length < 2;
  }
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
    const to = {ArrowLeft: index - 1, ArrowUp: index - 1, ArrowRight: index + 1, ArrowDown: index + 1, Home: 0, End: count - 1}[event.key];
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
  $("source").hidden = $("source-title").hidden = isDecoder;
  $("target").hidden = $("target-title").hidden = isEncoder;
  $("tree-section").hidden = $("hypotheses-section").hidden = isEncoder;
  $("search").parentElement.hidden = isEncoder;
  $("mask").hidden = !isEncoder;
  $("example-label").hidden = !data.examples.length;
  $("heads-section").hidden = false;
  for (const id of ["heads", "switch", "all-on"]) $(id).hidden = !state.kind;
  $("mean").parentElement.hidden = !state.kind || headsOf(state.kind) === 1;
  showTexts();
  for (const [id, value] of [["temperature", "temperature"], ["top_k", "topK"], ["top_p", "topP"]]) $(id).value = data.search[value];
  const showSampling = () => document.querySelectorAll(".sampling").forEach(each => { each.hidden = $("search").value !== "sample"; });
  showSampling();
  const begin = () => { Object.assign(state, {forced: [], chosen: null}); start(); };
  $("form").addEventListener("submit", event => { event.preventDefault(); if (state.isRunning) stop(); else begin(); });
  $("input").addEventListener("keydown", event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); begin(); }
  });
  $("example").addEventListener("change", () => { if ($("example").value !== "") { $("input").value = data.examples[$("example").value]; begin(); } });
  $("search").addEventListener("change", () => { showSampling(); begin(); });
  $("language").addEventListener("change", () => { language = $("language").value; showTexts(); showAll(); });
  $("mask").addEventListener("click", () => {
    const {selectionStart: from, selectionEnd: to} = $("input");
    $("input").setRangeText(state.tokenizer.tokens[data.tokenizer.maskId], from, to, "end");
    $("input").focus();
  });
  $("own").addEventListener("submit", event => {
    event.preventDefault();
    const text = $("own-text").value, at = current(), isFirst = at.index === (isDecoder ? state.promptLength : 1) && !isDecoder;
    const needsBlank = state.tokenizer.isByteLevel && !isFirst && !/^\s/.test(text);
    const tokens = state.tokenizer.encodeAlone(needsBlank ? ` ${text}` : text);
    if (text.trim()) force(at, tokens);
  });
  $("release").addEventListener("click", begin);
  $("kind").addEventListener("change", () => { state.kind = $("kind").value; if (state.chosen && kindFor(state.chosen) !== state.kind) state.chosen = state.kind === "encoder" ? {side: "source", index: 0} : null; colourWords(); showSteps(); });
  $("mean").addEventListener("change", () => { state.mean = $("mean").checked; colourWords(); });
  $("heads").addEventListener("click", event => {
    const button = event.target.closest("button");
    if (button) chooseHead(+button.dataset.layer, +button.dataset.head);
  });
  $("heads").addEventListener("keydown", event => {
    const move = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (!move) return;
    event.preventDefault();
    chooseHead(state.layer + move[0], state.head + move[1]);
    $("heads").querySelector("[tabindex='0']").focus();
  });
  $("switch").addEventListener("click", () => {
    const {off} = state.model.attentions[$("kind").value || state.kind][state.layer];
    if (!off.delete(state.head)) off.add(state.head);
    start();
  });
  $("all-on").addEventListener("click", () => {
    Object.values(state.model.attentions).flat().forEach(module => module.off.clear());
    start();
  });
  $("tree").addEventListener("click", event => { const node = event.target.closest("g")?.node; if (node) showHypothesis(node); });
  $("tree").addEventListener("keydown", moveInTree);
  $("back").addEventListener("click", () => { state.step = Math.max(0, state.step - 1); showSteps(); });
  $("next").addEventListener("click", () => { state.step = Math.min(STEPS - 1, state.step + 1); showSteps(); });
  $("all-numbers").addEventListener("change", () => { state.allNumbers = $("all-numbers").checked; showSteps(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", colourWords);
  listen("source");
  listen("target");
  document.body.dataset.ready = "true";
  if (data.examples.length) {
    $("input").value = data.examples[0];
    begin();
  }
}

// After the first paint, for reading many weights takes a moment.
requestAnimationFrame(() => setTimeout(setUp));

}
