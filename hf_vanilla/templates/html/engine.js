"use strict";
/*
The Transformer of "Attention Is All You Need" (Vaswani et al., 2017) in JavaScript, in the paper's order and with the
names of hf_vanilla/models/modeling_vanilla.py; after it the recurrent models of modeling_recurrent.py, the paper's
beam search (generation_vanilla.py), and tokenizers. It needs nothing but the language, and runs in a page and in node.

Shapes: states are a Float32Array (rows, hidden_size), one row a token. Each token is a node that points to the one
before it, so that hypotheses of a search share their past as the branches of a tree do.
*/

// Weights

/** Bytes from base64. */
function decodeBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** The float32 value of each of the 65,536 numbers of half precision. */
function makeHalves() {
  return Float32Array.from({length: 65536}, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  });
}

/**
 * The tensors of a model by their names in its state dict, in float32.
 *
 * `table` has for each name [kind, offset, ...shape]. A "float16" tensor is its numbers; an "int8" matrix is a float32
 * scale for each row, then its numbers, each to be multiplied by the scale of its row.
 */
class Weights {
  constructor(table, bytes) {
    const halves = makeHalves(), buffer = bytes.buffer, decoded = new Map();
    this.tensors = new Map(Object.entries(table).map(([name, [kind, offset, ...shape]]) => {
      if (!decoded.has(offset)) {
        const size = shape.reduce((product, length) => product * length, 1), values = new Float32Array(size);
        const start = bytes.byteOffset + offset;
        if (kind === "float16") {
          const numbers = new Uint16Array(buffer, start, size);
          for (let i = 0; i < size; i++) values[i] = halves[numbers[i]];
        } else {
          const [rows, columns] = shape, scales = new Float32Array(buffer, start, rows);
          const numbers = new Int8Array(buffer, start + 4 * rows, size);
          for (let i = 0; i < size; i++) values[i] = numbers[i] * scales[Math.floor(i / columns)];
        }
        decoded.set(offset, values);
      }
      return [name, {values: decoded.get(offset), shape}];
    }));
  }

  has(name) { return this.tensors.has(name); }

  get(name) {
    if (!this.has(name)) throw new Error(`there is no weight ${name}`);
    return this.tensors.get(name);
  }
}

/** x W^T + b. */
class Linear {
  constructor(weights, name) {
    const {values, shape} = weights.get(`${name}.weight`);
    this.weight = values;
    [this.outFeatures, this.inFeatures] = shape;
    this.bias = weights.has(`${name}.bias`) ? weights.get(`${name}.bias`).values : new Float32Array(this.outFeatures);
  }

  /** Four rows at a time, so that each weight is read once for all of them; the last ones alone. */
  forward(x) {
    const {weight, bias, inFeatures: inner, outFeatures: outer} = this, rows = x.length / inner;
    const result = new Float32Array(rows * outer), wide = Float64Array.from(x);
    let row = 0;
    for (; row + 4 <= rows; row += 4) {
      const first = row * inner, second = first + inner, third = second + inner, fourth = third + inner;
      for (let column = 0, at = 0; column < outer; column++) {
        let a = bias[column], b = a, c = a, d = a;
        for (let i = 0; i < inner; i++, at++) {
          const w = weight[at];
          a += w * wide[first + i];
          b += w * wide[second + i];
          c += w * wide[third + i];
          d += w * wide[fourth + i];
        }
        const to = row * outer + column;
        result[to] = a;
        result[to + outer] = b;
        result[to + 2 * outer] = c;
        result[to + 3 * outer] = d;
      }
    }
    for (; row < rows; row++) {
      const x = wide.subarray(row * inner, (row + 1) * inner), unrolled = inner - 3;
      for (let column = 0, at = 0; column < outer; column++) {
        let i = 0, a = bias[column], b = 0, c = 0, d = 0;
        for (; i < unrolled; i += 4, at += 4) {
          a += weight[at] * x[i];
          b += weight[at + 1] * x[i + 1];
          c += weight[at + 2] * x[i + 2];
          d += weight[at + 3] * x[i + 3];
        }
        for (; i < inner; i++, at++) a += weight[at] * x[i];
        result[row * outer + column] = a + b + c + d;
      }
    }
    return result;
  }
}

class Embedding {
  constructor(weights, name) {
    const {values, shape} = weights.get(`${name}.weight`);
    [this.weight, this.width] = [values, shape[1]];
  }

  row(number) { return this.weight.subarray(number * this.width, (number + 1) * this.width); }
}

class LayerNorm {
  constructor(weights, name, epsilon) {
    this.weight = weights.get(`${name}.weight`).values;
    this.bias = weights.get(`${name}.bias`).values;
    this.epsilon = epsilon;
  }

  forward(x) {
    const width = this.weight.length, result = new Float32Array(x.length);
    for (let start = 0; start < x.length; start += width) {
      let mean = 0, variance = 0;
      for (let i = 0; i < width; i++) mean += x[start + i] / width;
      for (let i = 0; i < width; i++) variance += (x[start + i] - mean) ** 2 / width;
      const scale = 1 / Math.sqrt(variance + this.epsilon);
      for (let i = 0; i < width; i++) {
        result[start + i] = (x[start + i] - mean) * scale * this.weight[i] + this.bias[i];
      }
    }
    return result;
  }
}

const identity = {forward: x => x};

function rowOf(states, number, width) { return states.subarray(number * width, (number + 1) * width); }

function concatenate(...parts) {
  const result = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}

function dot(a, b, from = 0, to = a.length) {
  let sum = 0;
  for (let i = from; i < to; i++) sum += a[i] * b[i];
  return sum;
}

function softmax(scores) {
  let most = -Infinity, sum = 0;
  for (const score of scores) most = Math.max(most, score);
  const weights = Float64Array.from(scores, score => Math.exp(score - most));
  for (const weight of weights) sum += weight;
  return Float32Array.from(weights, weight => weight / sum);
}

// Positions (section 3.5)

/** PE(pos, 2i) = sin(pos / 10000^(2i / d_model)) and PE(pos, 2i + 1) = cos(the same). */
class SinusoidalPositionalEmbedding {
  constructor(config) {
    this.width = config.hidden_size;
    this.halves = config.position_embedding_type === "sinusoidal_halves";
  }

  row(position) {
    const result = new Float32Array(this.width), half = this.width / 2;
    for (let i = 0; i < half; i++) {
      const angle = position * 10000 ** (-2 * i / this.width);
      result[this.halves ? i : 2 * i] = Math.sin(angle);
      result[this.halves ? half + i : 2 * i + 1] = Math.cos(angle);
    }
    return result;
  }
}

/** One learned vector for each position, behind those rows that belong to none. */
class LearnedPositionalEmbedding extends Embedding {
  constructor(weights, name, config) {
    super(weights, name);
    this.offset = config.position_offset;
  }

  row(position) { return super.row(position + this.offset); }
}

// Attention (section 3.2)

/**
 * Scaled dot-product attention (eq. 1) of one query: softmax(Q K^T / sqrt(d_k)) V, head by head.
 *
 * `query` is (heads * d_k), `keys` and `values` are those of each token that it may look at. `off` has the heads that
 * are switched off, whose output is 0. Returns all that it computed: scores and weights (heads, tokens) in turn.
 */
function attend(query, keys, values, heads, off) {
  const count = keys.length, dK = query.length / heads, dV = values[0].length / heads, scaling = dK ** -0.5;
  const scores = new Float32Array(heads * count), weights = new Float32Array(heads * count);
  const output = new Float32Array(heads * dV);
  for (let head = 0; head < heads; head++) {
    for (let j = 0; j < count; j++) {
      scores[head * count + j] = dot(query, keys[j], head * dK, (head + 1) * dK) * scaling;
    }
    weights.set(softmax(scores.subarray(head * count, (head + 1) * count)), head * count);
    for (let j = 0; j < count && !off.has(head); j++) {
      const weight = weights[head * count + j], value = values[j];
      for (let i = head * dV; i < (head + 1) * dV; i++) output[i] += weight * value[i];
    }
  }
  return {query, keys, values, scores, weights, output};
}

/** MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O, head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V) (3.2.2). */
class MultiHeadAttention {
  constructor(weights, name, config) {
    this.heads = config.num_attention_heads;
    [this.qProj, this.kProj, this.vProj, this.oProj] = ["q", "k", "v", "o"].map(
      letter => new Linear(weights, `${name}.${letter}_proj`));
    this.off = new Set();
  }

  /** The key and the value of each row of `states`. */
  keysAndValues(states) {
    const keys = this.kProj.forward(states), values = this.vProj.forward(states);
    return Array.from({length: states.length / this.kProj.inFeatures}, (_, row) => ({
      key: rowOf(keys, row, this.kProj.outFeatures), value: rowOf(values, row, this.vProj.outFeatures),
    }));
  }

  /** The output for each row of `states`, which looks at the keys and values `seen` by it, and what `attend` found. */
  forward(states, seen) {
    const queries = this.qProj.forward(states);
    const looks = seen.map((tokens, row) => attend(rowOf(queries, row, this.qProj.outFeatures),
      tokens.map(token => token.key), tokens.map(token => token.value), this.heads, this.off));
    return {output: this.oProj.forward(concatenate(...looks.map(look => look.output))), looks};
  }
}

/** erf by Kummer's series, all of whose terms are positive; at 6 it is 1 in double precision. */
function erf(x) {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x, sum = x;
  for (let n = 1; Math.abs(term) > 1e-16 * Math.abs(sum); n++) sum += term *= 2 * x * x / (2 * n + 1);
  return 2 / Math.sqrt(Math.PI) * Math.exp(-x * x) * sum;
}

const sigmoid = x => 1 / (1 + Math.exp(-x));
const geluByTanh = x => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const ACTIVATIONS = {
  relu: x => Math.max(0, x),
  gelu: x => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  gelu_new: geluByTanh,
  gelu_pytorch_tanh: geluByTanh,
  silu: x => x * sigmoid(x),
  swish: x => x * sigmoid(x),
  tanh: Math.tanh,
  sigmoid,
};

/** FFN(x) = max(0, x W_1 + b_1) W_2 + b_2 (eq. 2), at each position alike. */
class FeedForward {
  constructor(weights, name, config) {
    [this.linear1, this.linear2] = [1, 2].map(number => new Linear(weights, `${name}.linear${number}`));
    this.activation = ACTIVATIONS[config.activation_function];
  }

  forward(states) { return this.linear2.forward(this.linear1.forward(states).map(this.activation)); }
}

// Layers (section 3.1)

/** LayerNorm(x + Sublayer(x)) (section 3.1), or pre-norm: x + Sublayer(LayerNorm(x)). */
class AddNorm extends LayerNorm {
  constructor(weights, name, config) {
    super(weights, name, config.layer_norm_eps);
    this.isPre = config.norm_position === "pre";
  }

  around(states, sublayer) {
    const change = sublayer(this.isPre ? this.forward(states) : states), sum = change.map((x, i) => x + states[i]);
    return this.isPre ? sum : this.forward(sum);
  }
}

/** Self-attention, in the decoder then attention to the encoder's output, then feed-forward (figure 1). */
class Layer {
  constructor(weights, name, config, number, hasSource) {
    this.number = number;
    for (const kind of hasSource ? ["self_attention", "cross_attention"] : ["self_attention"]) {
      this[kind] = new MultiHeadAttention(weights, `${name}.${kind}`, config);
      this[`${kind}_norm`] = new AddNorm(weights, `${name}.${kind}_norm`, config);
    }
    this.feed_forward = new FeedForward(weights, `${name}.feed_forward`, config);
    this.feed_forward_norm = new AddNorm(weights, `${name}.feed_forward_norm`, config);
  }

  /** The states after this layer. `seen` are the nodes that each one looks at; `source` the keys of an encoder. */
  forward(states, nodes, seen, source) {
    const {number} = this;
    states = this.self_attention_norm.around(states, x => {
      this.self_attention.keysAndValues(x).forEach((own, row) => { nodes[row].cache[number] = own; });
      const {output, looks} = this.self_attention.forward(x, seen.map(each => each.map(node => node.cache[number])));
      looks.forEach((look, row) => { nodes[row].looks.self[number] = look; });
      return output;
    });
    if (source) {
      states = this.cross_attention_norm.around(states, x => {
        const {output, looks} = this.cross_attention.forward(x, nodes.map(() => source.cache[number]));
        looks.forEach((look, row) => { nodes[row].looks.cross[number] = look; });
        return output;
      });
    }
    return this.feed_forward_norm.around(states, x => this.feed_forward.forward(x));
  }
}

// Stacks (sections 3.1, 3.4 and 3.5)

/** A token at its place in a text: `parent` is the one before it, `looks` what each layer's attention computed. */
class Node {
  constructor(token, parent = null) {
    this.token = token;
    this.parent = parent;
    this.position = parent ? parent.position + 1 : 0;
    this.cache = [];
    this.looks = {self: [], cross: []};
  }

  /** The nodes from the first one to this. */
  path() {
    const nodes = [];
    for (let node = this; node; node = node.parent) nodes.push(node);
    return nodes.reverse();
  }

  static chain(tokens, parent = null) {
    return tokens.map(token => parent = new Node(token, parent));
  }
}

/** Embeddings and positions, N layers, and a final norm if they are pre-norm. */
class Stack {
  constructor(weights, name, config, depth, hasSource = false) {
    this.config = config;
    this.embedTokens = new Embedding(weights, `${name}.embed_tokens`);
    const types = `${name}.embed_token_types`;
    this.tokenType = weights.has(`${types}.weight`) ? new Embedding(weights, types).row(0) : null;
    this.embedPositions = config.position_embedding_type === "learned"
      ? new LearnedPositionalEmbedding(weights, `${name}.embed_positions`, config)
      : new SinusoidalPositionalEmbedding(config);
    this.embeddingScale = config.scale_embedding ? config.hidden_size ** 0.5 : 1;
    const norm = part => new LayerNorm(weights, `${name}.${part}`, config.layer_norm_eps);
    this.embeddingNorm = config.embedding_norm ? norm("embedding_norm") : identity;
    const layer = number => new Layer(weights, `${name}.layers.${number}`, config, number, hasSource);
    this.layers = Array.from({length: depth}, (_, number) => layer(number));
    this.norm = config.final_norm ?? config.norm_position === "pre" ? norm("norm") : identity;
  }

  /** Embeddings, scaled (section 3.4), plus positions (section 3.5). */
  embed(nodes) {
    return this.embeddingNorm.forward(concatenate(...nodes.map(({token, position}) => {
      const encoding = this.embedPositions.row(position), {tokenType} = this;
      return this.embedTokens.row(token).map(
        (x, i) => x * this.embeddingScale + (tokenType ? tokenType[i] : 0) + encoding[i]);
    })));
  }

  forward(nodes, seen, source = null) {
    let states = this.embed(nodes);
    for (const layer of this.layers) states = layer.forward(states, nodes, seen, source);
    return this.norm.forward(states);
  }
}

// Models (section 3, figure 1)

/** What all models share: `logits` of the token after each node, and `attentions`, by kind and layer. */
class Model {
  constructor(config) { this.config = config; }

  /** What a decoder looks at; null for models without an encoder. */
  encode() { return null; }

  /** Logits (vocab_size) after each of `nodes`, whose parents have been read before or stand before them. */
  logits(nodes, source) {
    const logits = this.lmHead.forward(this.read(nodes, source)), size = this.lmHead.outFeatures;
    return nodes.map((_, row) => rowOf(logits, row, size));
  }
}

/** The paper's model: the encoder-decoder and the linear projection to the vocabulary (section 3.4). */
class VanillaForConditionalGeneration extends Model {
  constructor(config, weights) {
    super(config);
    this.encoder = new Stack(weights, "model.encoder", config, config.encoder_layers);
    this.decoder = new Stack(weights, "model.decoder", config, config.decoder_layers, true);
    this.lmHead = new Linear(weights, "lm_head");
    this.attentions = {
      encoder: this.encoder.layers.map(layer => layer.self_attention),
      decoder: this.decoder.layers.map(layer => layer.self_attention),
      cross: this.decoder.layers.map(layer => layer.cross_attention),
    };
  }

  /** The source's nodes, and the keys and values that each layer of the decoder has of them. */
  encode(ids) {
    const nodes = Node.chain(ids), states = this.encoder.forward(nodes, nodes.map(() => nodes));
    return {nodes, cache: this.attentions.cross.map(attention => attention.keysAndValues(states))};
  }

  read(nodes, source) { return this.decoder.forward(nodes, nodes.map(node => node.path()), source); }
}

/** The decoder alone, which predicts the next token (Radford et al., 2018). */
class VanillaDecoderForCausalLM extends Model {
  constructor(config, weights) {
    super(config);
    this.decoder = new Stack(weights, "decoder", config, config.num_hidden_layers);
    this.lmHead = new Linear(weights, "lm_head");
    this.attentions = {decoder: this.decoder.layers.map(layer => layer.self_attention)};
  }

  read(nodes) { return this.decoder.forward(nodes, nodes.map(node => node.path())); }
}

/** The encoder alone, which predicts masked tokens (Devlin et al., 2019, section 3.1). */
class VanillaEncoderForMaskedLM extends Model {
  constructor(config, weights) {
    super(config);
    this.encoder = new Stack(weights, "encoder", config, config.num_hidden_layers);
    this.dense = new Linear(weights, "transform.dense");
    this.activation = ACTIVATIONS[config.activation_function];
    this.norm = new LayerNorm(weights, "transform.norm", config.layer_norm_eps);
    this.lmHead = new Linear(weights, "lm_head");
    this.attentions = {encoder: this.encoder.layers.map(layer => layer.self_attention)};
  }

  read(nodes) {
    const states = this.encoder.forward(nodes, nodes.map(() => nodes));
    return this.norm.forward(this.dense.forward(states).map(this.activation));
  }
}

// What the paper replaced: recurrent encoder-decoders

/** One direction of a layer of an LSTM (Hochreiter and Schmidhuber, 1997) or of a GRU (Cho et al., 2014). */
class RecurrentLayer {
  constructor(weights, name, suffix, cell) {
    [this.input, this.hidden] = ["ih", "hh"].map(part => {
      const [weight, bias] = ["weight", "bias"].map(kind => weights.get(`${name}.${kind}_${part}_l0${suffix}`));
      return new Linear(new Map([["x.weight", weight], ["x.bias", bias]]), "x");
    });
    this.isLSTM = cell === "lstm";
    this.width = this.hidden.inFeatures;
  }

  zeros() { return Array.from({length: this.isLSTM ? 2 : 1}, () => new Float32Array(this.width)); }

  /** The states after one step: h and c of an LSTM, h of a GRU. */
  step(x, before) {
    const {width} = this, [h, c] = before, fromX = this.input.forward(x), fromH = this.hidden.forward(h);
    const gate = (number, i) => fromX[number * width + i] + fromH[number * width + i];
    if (!this.isLSTM) {
      return [h.map((old, i) => {
        const reset = sigmoid(gate(0, i)), update = sigmoid(gate(1, i));
        return (1 - update) * Math.tanh(fromX[2 * width + i] + reset * fromH[2 * width + i]) + update * old;
      })];
    }
    const cell = c.map((old, i) => sigmoid(gate(1, i)) * old + sigmoid(gate(0, i)) * Math.tanh(gate(2, i)));
    return [cell.map((value, i) => sigmoid(gate(3, i)) * Math.tanh(value)), cell];
  }
}

/** torch rounds halves to the even number. */
function roundHalfToEven(x) {
  const floor = Math.floor(x);
  return x - floor === 0.5 ? floor + floor % 2 : Math.round(x);
}

/** How much a decoder's state looks at each encoder state (Bahdanau et al., 2015; Luong et al., 2015). */
class RecurrentAttention {
  constructor(weights, name, config) {
    const part = which => weights.has(`${name}.${which}.weight`) ? new Linear(weights, `${name}.${which}`) : null;
    this.kind = config.attention_type;
    [this.keyProj, this.queryProj, this.energy] = [part("key_proj"), part("query_proj"), part("energy")];
    [this.positionProj, this.positionEnergy] = [part("position_proj"), part("position_energy")];
    this.window = config.attention_window;
    this.heads = 1;
    this.off = new Set();
  }

  keysOf(values) { return this.keyProj ? values.map(value => this.keyProj.forward(value)) : values; }

  attend(query, {keys, values}, position) {
    let scores;
    if (this.energy) {
      const projected = this.queryProj.forward(query);
      scores = keys.map(key => this.energy.forward(key.map((x, i) => Math.tanh(x + projected[i])))[0]);
    } else {
      scores = keys.map(key => dot(query, key));
    }
    let gaussian = null;
    if (this.window) {
      // Luong, section 3.2: the window is around the target's position, or around p_t = S sigmoid(...) (eq. 9 and 10).
      const length = keys.length;
      const energy = this.positionProj
        && this.positionEnergy.forward(this.positionProj.forward(query).map(Math.tanh))[0];
      const centre = this.positionProj ? length * sigmoid(energy) : position;
      const middle = Math.min(roundHalfToEven(centre), length - 1);
      scores = scores.map((score, place) => Math.abs(place - middle) > this.window ? -Infinity : score);
      if (this.positionProj) {
        gaussian = keys.map((_, place) => Math.exp(-((place - centre) ** 2) / (2 * (this.window / 2) ** 2)));
      }
    }
    const weights = softmax(scores).map((weight, j) => weight * (gaussian ? gaussian[j] : 1));
    const output = new Float32Array(values[0].length);
    for (let j = 0; j < values.length && !this.off.has(0); j++) {
      for (let i = 0; i < output.length; i++) output[i] += weights[j] * values[j][i];
    }
    return {query, keys, values, scores: Float32Array.from(scores), weights, output};
  }
}

/** Recurrent layers on both sides, with or without attention; see RecurrentDecoder in modeling_recurrent.py. */
class RecurrentForConditionalGeneration extends Model {
  constructor(config, weights) {
    super(config);
    const {cell_type: cell, attention_type: kind} = config, {encoder, decoder} = {
      encoder: "model.encoder", decoder: "model.decoder",
    };
    this.scale = config.hidden_size ** 0.5;
    this.feedsContext = kind === "additive";
    this.encoderEmbedding = new Embedding(weights, `${encoder}.embed_tokens`);
    this.decoderEmbedding = new Embedding(weights, `${decoder}.embed_tokens`);
    this.encoderLayers = Array.from({length: config.encoder_layers}, (_, i) =>
      ["", "_reverse"].map(suffix => new RecurrentLayer(weights, `${encoder}.layers.${i}`, suffix, cell)));
    this.decoderLayers = Array.from({length: config.decoder_layers}, (_, i) =>
      new RecurrentLayer(weights, `${decoder}.layers.${i}`, "", cell));
    this.initialProj = new Linear(weights, `${decoder}.initial_proj`);
    this.attention = kind === "none" ? null : new RecurrentAttention(weights, `${decoder}.attention`, config);
    this.outputProj = this.attention && new Linear(weights, `${decoder}.output_proj`);
    this.lmHead = new Linear(weights, "lm_head");
    this.attentions = this.attention ? {cross: [this.attention]} : {};
  }

  /** The encoder's states, each a half read from the left and one from the right, and the decoder's first states. */
  encode(ids) {
    const nodes = Node.chain(ids), width = this.config.hidden_size;
    let states = ids.map(id => this.encoderEmbedding.row(id).map(x => x * this.scale));
    for (const directions of this.encoderLayers) {
      const [forward, backward] = directions.map((layer, isBackward) => {
        let state = layer.zeros();
        const outputs = (isBackward ? [...states].reverse() : states).map(x => (state = layer.step(x, state))[0]);
        return isBackward ? outputs.reverse() : outputs;
      });
      states = forward.map((half, i) => concatenate(half, backward[i]));
    }
    const ends = concatenate(states.at(-1).subarray(0, width / 2), states[0].subarray(width / 2));
    const flat = this.initialProj.forward(ends).map(Math.tanh);
    const initial = Array.from({length: flat.length / width}, (_, i) => rowOf(flat, i, width));
    if (this.config.input_feeding) initial.push(new Float32Array(width));
    return {nodes, initial, values: states, keys: this.attention ? this.attention.keysOf(states) : null};
  }

  read(nodes, source) { return concatenate(...nodes.map(node => this.step(node, source))); }

  /** The output after a node, whose `states` are those of the layers and, with input feeding, the output itself. */
  step(node, source) {
    const before = node.parent ? node.parent.states : source.initial, count = this.config.cell_type === "lstm" ? 2 : 1;
    const x = this.decoderEmbedding.row(node.token).map(value => value * this.scale);
    const look = query => (node.looks.cross[0] = this.attention.attend(query, source, node.position)).output;
    let inner = x, context = null;
    if (this.feedsContext) inner = concatenate(x, context = look(before[(this.decoderLayers.length - 1) * count]));
    else if (this.config.input_feeding) inner = concatenate(x, before.at(-1));
    node.states = this.decoderLayers.flatMap((layer, number) => {
      const after = layer.step(inner, before.slice(number * count, (number + 1) * count));
      inner = after[0];
      return after;
    });
    if (!this.attention) return inner;
    const joined = this.feedsContext ? concatenate(x, context, inner) : concatenate(look(inner), inner);
    const output = this.outputProj.forward(joined).map(Math.tanh);
    if (this.config.input_feeding) node.states.push(output);
    return output;
  }
}

const ARCHITECTURES = {
  VanillaForConditionalGeneration, VanillaDecoderForCausalLM, VanillaEncoderForMaskedLM,
  RecurrentForConditionalGeneration,
};

// The search (section 6.1; Wu et al., 2016, section 7)

/** The numbers of the `count` largest values, largest first. */
function topK(values, count) {
  if (count > 64) return Array.from(values.keys()).sort((a, b) => values[b] - values[a]).slice(0, count);
  const best = [];
  for (let i = 0; i < values.length; i++) {
    if (best.length === count && !(values[i] > values[best[count - 1]])) continue;
    let place = best.length;
    while (place && values[i] > values[best[place - 1]]) place--;
    best.splice(place, 0, i);
    if (best.length > count) best.pop();
  }
  return best;
}

function logSoftmax(logits) {
  let most = -Infinity, sum = 0;
  for (const logit of logits) most = Math.max(most, logit);
  for (const logit of logits) sum += Math.exp(logit - most);
  const normalizer = most + Math.log(sum);
  return Float64Array.from(logits, logit => logit - normalizer);
}

/** ((5 + length) / 6)^alpha (Wu et al., 2016, eq. 14), or for the form "transformers" length^alpha. */
function lengthPenalty(length, alpha, form) {
  return form === "transformers" ? length ** alpha : ((5 + length) / 6) ** alpha;
}

const SHOWN = 10;  // alternatives that are kept of each distribution

/**
 * A beam search on its way: with one beam it is greedy. `advance` makes a step, until `isDone`.
 *
 * `open` are the nodes of hypotheses, best first; `finished` the best ended ones; `steps` all nodes, step by step.
 * Each node gets `logProb`, that of its token; `total`, that of its hypothesis; and `next`, the best tokens after it.
 */
class BeamSearch {
  constructor(model, source, prompt, {beams, limit, ends, earlyStopping, ...penalty}) {
    const {lengthPenalty: alpha, lengthPenaltyForm: form} = penalty;
    Object.assign(this, {model, source, beams, limit, ends, earlyStopping, alpha, form});
    this.candidates = beams * Math.max(2, 1 + ends.length);
    [this.open, this.finished, this.steps, this.length] = [[], [], [], 0];
    const nodes = Node.chain(prompt);
    this.root = nodes.at(-1);
    this.root.total = 0;
    // The whole prompt is read at once; the distribution after its last token begins the search.
    this.follow(nodes, [this.root]);
    this.isDone = limit < 1;
  }

  /** Read `nodes`, and go on from those that are `open`. */
  follow(nodes, open) {
    const logits = this.model.logits(nodes, this.source);
    nodes.forEach((node, i) => {
      const logProbs = logSoftmax(logits[i]), after = nodes[i + 1];
      node.next = topK(logProbs, Math.max(SHOWN, this.candidates)).map(token => ({token, logProb: logProbs[token]}));
      if (after?.parent === node) after.logProb = logProbs[after.token];
      if (open.includes(node)) node.logProbs = logProbs;  // all of them only where a token may be drawn
    });
    for (const node of this.open) node.logProbs = null;
    this.open = open;
  }

  advance() {
    const length = ++this.length, continuations = [];
    for (const parent of this.open) {
      for (const {token, logProb} of parent.next.slice(0, this.candidates)) {
        continuations.push({parent, token, logProb, total: parent.total + logProb});
      }
    }
    const best = topK(continuations.map(each => each.total), this.candidates).map(i => continuations[i]);
    const hasEnded = each => this.ends.includes(each.token) || length >= this.limit;
    const grow = each => Object.assign(each.node ??= new Node(each.token, each.parent), {
      total: each.total, logProb: each.logProb, isEnd: hasEnded(each),
    });
    for (const each of best.slice(0, this.beams).filter(hasEnded)) {
      this.finished.push({node: grow(each), length, score: each.total / lengthPenalty(length, this.alpha, this.form)});
    }
    this.finished.sort((a, b) => b.score - a.score).splice(this.beams);
    const open = best.filter(each => !hasEnded(each)).slice(0, this.beams).map(grow);
    const ended = this.finished.filter(each => each.length === length).map(each => each.node);
    this.steps.push([...open, ...ended]);
    this.isDone = !open.length || this.cannotImprove(open[0]);
    if (this.isDone) this.open = [];
    else this.follow(open, open);
  }

  /** True if no open hypothesis, of which `best` is the best, can be better than the finished ones. */
  cannotImprove(best) {
    if (this.beams === 1 || this.earlyStopping === true) return this.finished.length === this.beams;
    // With a penalty, what an open hypothesis can reach is its score if more tokens were to cost nothing.
    const toLimit = this.alpha > 0 && (this.form === "paper" || this.earlyStopping === "never");
    const reachable = best.total / lengthPenalty(toLimit ? this.limit : this.length, this.alpha, this.form);
    const rank = this.form === "transformers" ? this.beams : 1;
    return this.finished.length >= rank && this.finished[rank - 1].score >= reachable;
  }
}

/** The tokens of which one is drawn, and their probabilities: of the `topK` best, those that come to `topP`. */
function sampled(logProbs, {temperature = 1, topK: count = 0, topP = 1}) {
  const order = topK(logProbs, count || logProbs.length);
  const probabilities = softmax(order.map(token => logProbs[token] / temperature));
  let sum = 0, kept = 0;
  while (kept < order.length && (kept === 0 || sum < topP)) sum += probabilities[kept++];
  return order.slice(0, kept).map((token, i) => ({token, probability: probabilities[i] / sum}));
}

/** Draws one token after the other: a search of one hypothesis, with the same fields as BeamSearch. */
class Sampling extends BeamSearch {
  constructor(model, source, prompt, {options, random = Math.random, ...search}) {
    super(model, source, prompt, {...search, beams: 1});
    Object.assign(this, {options, random});
  }

  advance() {
    const length = ++this.length, [parent] = this.open, choices = sampled(parent.logProbs, this.options);
    let left = this.random(), i = 0;
    while (i < choices.length - 1 && (left -= choices[i].probability) > 0) i++;
    const {token} = choices[i], logProb = parent.logProbs[token], total = parent.total + logProb;
    const isEnd = this.ends.includes(token) || length >= this.limit;
    const node = Object.assign(new Node(token, parent), {logProb, total, isEnd});
    this.steps.push([node]);
    this.isDone = isEnd;
    if (isEnd) [this.open, this.finished] = [[], [{node, length, score: total}]];
    else this.follow([node], [node]);
  }
}

// Tokenizers: what tokenizer.json of the library `tokenizers` says, as far as `tokenizer_for_html` lets it pass

/** GPT-2's printable character for each byte. */
const CHARACTER_OF_BYTE = (() => {
  let next = 256;
  return Array.from({length: 256}, (_, byte) =>
    String.fromCodePoint(byte > 32 && byte < 127 || byte > 160 && byte !== 173 ? byte : next++));
})();
const BYTE_OF_CHARACTER = new Map(CHARACTER_OF_BYTE.map((character, byte) => [character, byte]));

class Tokenizer {
  constructor(description) {
    Object.assign(this, description);
    const added = new Set(this.addedAlone);
    const own = this.tokens.map((token, id) => [token, id]).filter(([token, id]) => token !== null && !added.has(id));
    this.ids = new Map(own);
    this.special = new Set(this.specialIds);
    const size = this.tokens.length;
    this.merges = new Map(this.merges.map(([left, right, id], rank) => [left * size + right, {rank, id}]));
    // The classes are lists of characters, for a browser may know another version of Unicode.
    const fill = pattern => pattern.replace(/\{(\w)\}/g, (_, name) => this.classes[name]);
    const compile = (pattern, flags) => new RegExp(fill(pattern), flags);
    this.patterns = this.patterns.map(pattern => compile(pattern, "gu"));
    [this.spaceBefore, this.spaceAfter] = [compile("[{s}]*$", "u"), compile("^[{s}]*", "u")];
    this.encoder = new TextEncoder();
    this.cache = new Map();
  }

  /** The ids of a text, between those with which a sequence begins and ends. */
  encode(text) { return [...this.prefix, ...this.encodeAlone(text), ...this.suffix]; }

  encodeAlone(text) {
    text = text.replace(/\p{Surrogate}/gu, "\ufffd");
    const ids = [];
    for (const part of this.findAdded(text, this.added.filter(token => !token.normalized))) {
      if (part.id !== undefined) { ids.push(part.id); continue; }
      const normalized = this.prepend && part.text ? this.prepend + part.text : part.text;
      for (const piece of this.findAdded(normalized, this.added.filter(token => token.normalized))) {
        if (piece.id !== undefined) ids.push(piece.id);
        else for (const word of this.split(piece.text)) ids.push(...this.encodeWord(word));
      }
    }
    return ids;
  }

  /** Cut a text at added tokens, the longest first; those of `frame` are text where a user spells them. */
  findAdded(text, added) {
    if (!added.length) return [{text}];
    const byLength = added.map(token => token.content).sort((a, b) => b.length - a.length);
    const pattern = new RegExp(byLength.map(each => each.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&")).join("|"), "gu");
    const parts = [];
    let start = 0;
    for (const match of text.matchAll(pattern)) {
      const token = added.find(each => each.content === match[0]);
      if (this.frame.includes(token.content)) continue;
      let from = match.index, to = from + match[0].length;
      if (token.lstrip) from = Math.max(start, this.spaceBefore.exec(text.slice(0, from)).index);
      if (token.rstrip) to += this.spaceAfter.exec(text.slice(to))[0].length;
      if (start < from) parts.push({text: text.slice(start, from)});
      parts.push({id: token.id});
      start = to;
    }
    if (start < text.length) parts.push({text: text.slice(start)});
    return parts;
  }

  /** The words of a text, each a piece that the model cuts into tokens. */
  split(text) {
    if (this.addPrefixSpace && text && !text.startsWith(" ")) text = ` ${text}`;
    let pieces = [text];
    for (const pattern of this.patterns) {
      pieces = pieces.flatMap(piece => {
        const parts = [];
        let start = 0;
        for (const match of piece.matchAll(pattern)) {
          if (start < match.index) parts.push(piece.slice(start, match.index));
          parts.push(match[0]);
          start = match.index + match[0].length;
        }
        return start < piece.length ? [...parts, piece.slice(start)] : parts;
      });
    }
    pieces = pieces.filter(piece => piece);
    if (!this.isByteLevel) return pieces;
    return pieces.map(piece => Array.from(this.encoder.encode(piece), byte => CHARACTER_OF_BYTE[byte]).join(""));
  }

  /** The byte pair encoding of a word: of its pairs, the one learned first is merged, the leftmost of them first. */
  encodeWord(word) {
    if (this.cache.has(word)) return this.cache.get(word);
    const byteId = byte => this.ids.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
    const idsOf = character => this.ids.has(character) ? [this.ids.get(character)]
      : Array.from(this.encoder.encode(character), byteId);
    const isWhole = this.ignoreMerges && this.ids.has(word);
    const ids = isWhole ? [this.ids.get(word)] : this.merge([...word].flatMap(idsOf));
    if (this.cache.size < 10000) this.cache.set(word, ids);
    return ids;
  }

  merge(ids) {
    const size = this.tokens.length, rankOf = i => this.merges.get(ids[i] * size + ids[i + 1])?.rank ?? Infinity;
    const ranks = ids.map((_, i) => i < ids.length - 1 ? rankOf(i) : Infinity);
    for (;;) {
      let best = 0;
      for (let i = 1; i < ranks.length; i++) if (ranks[i] < ranks[best]) best = i;
      if (!(ranks[best] < Infinity)) return ids;
      ids.splice(best, 2, this.merges.get(ids[best] * size + ids[best + 1]).id);
      ranks.splice(best + 1, 1);
      for (const i of [best - 1, best]) if (i >= 0) ranks[i] = i < ids.length - 1 ? rankOf(i) : Infinity;
    }
  }

  /** The bytes of UTF-8 that a token stands for. */
  bytesOf(token) {
    const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(token);
    if (byte && !this.isByteLevel) return [parseInt(byte[1], 16)];
    const bytes = [...token].map(character => BYTE_OF_CHARACTER.get(character));
    return this.isByteLevel && !bytes.includes(undefined) ? bytes : [...this.encoder.encode(token)];
  }

  /** The text of token ids, without the special ones. */
  decode(ids) {
    const tokens = ids.filter(id => !this.special.has(id)).map(id => this.tokens[id]).filter(token => token != null);
    if (this.isByteLevel) {
      const decoder = new TextDecoder("utf-8", {ignoreBOM: true});
      return decoder.decode(Uint8Array.from(tokens.flatMap(token => this.bytesOf(token))));
    }
    let text = "", bytes = [];
    const flush = () => {
      try {
        text += new TextDecoder("utf-8", {fatal: true, ignoreBOM: true}).decode(Uint8Array.from(bytes));
      } catch {
        text += "\ufffd".repeat(bytes.length);
      }
      bytes = [];
    };
    for (const token of tokens) {
      const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(token);
      if (byte) { bytes.push(parseInt(byte[1], 16)); continue; }
      flush();
      text += token;
    }
    flush();
    return this.stripsSpace && text.startsWith(" ") ? text.slice(1) : text;
  }

  /** How to show each token to a reader: its characters, and "·" for one that does not end a character. */
  labels(ids) {
    const decoder = new TextDecoder("utf-8", {ignoreBOM: true});
    return ids.map(id => {
      const token = this.tokens[id] ?? "";
      if (this.special.has(id)) return token;
      const label = decoder.decode(Uint8Array.from(this.bytesOf(token)), {stream: true});
      if (!label) return "·";
      // A mark that combines with the character before it is shown on a circle.
      return label.trim() ? label.trim().replace(/^(?=\p{M})/u, "\u25cc") : "␣";
    });
  }

  /** How to show a token that stands alone: bytes that are no whole character by their numbers. */
  label(id) {
    const [label] = this.labels([id]), token = this.tokens[id] ?? "?";
    if (label !== "·" && !label.includes("\ufffd")) return label;
    return this.bytesOf(token).map(byte => `<${byte.toString(16).toUpperCase().padStart(2, "0")}>`).join("");
  }
}

/** A model and its tokenizer, from what `export_to_html` wrote. */
function load(data, base64) {
  const weights = new Weights(data.tensors, decodeBase64(base64));
  const model = new ARCHITECTURES[data.config.class](data.config, weights);
  return {model, tokenizer: new Tokenizer(data.tokenizer)};
}

/** How many tokens may be written after a source (section 6.1: at most 50 more than it has) or a prompt. */
function limitOf(data, source, prompt) {
  const {positions, maxNewTokens} = data.search, most = Math.min(maxNewTokens ?? positions, positions - prompt);
  return source === null ? Math.min(most, maxNewTokens ?? 50) : Math.min(most, source + 50);
}

if (typeof module !== "undefined") {
  module.exports = {
    load, limitOf, BeamSearch, Sampling, sampled, Node, Tokenizer, ACTIVATIONS, ARCHITECTURES,
  };
}
