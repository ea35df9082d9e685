// Runs the engine of exported pages in node: reads {engine, data, weights, tasks} from standard input, and prints what
// each task gives. Numbers that JSON does not have are not among them.
"use strict";
const {readFileSync} = require("node:fs");
const {engine, data, weights, tasks} = JSON.parse(readFileSync(0, "utf8"));
const {load, limitOf, BeamSearch, Sampling, sampled, Node, ACTIVATIONS, ARCHITECTURES} = require(engine);
const loaded = data.config ? load(data, weights) : {};
const tokenizer = loaded.tokenizer ?? (data.tokenizer && new (require(engine).Tokenizer)(data.tokenizer));
const {model} = loaded;

function randomOf(seed) {
  return () => (seed = (seed * 16807) % 2147483647) / 2147483647;
}

const RUN = {
  /** Token ids, without the prompt, of the best hypotheses, and their scores. */
  search({ids, prompt = [data.search.start], beams, limit, sampling, seed}) {
    const hasSource = Boolean(model.encode([0]));
    const source = hasSource ? model.encode(ids) : null;
    const start = hasSource ? prompt : ids;
    const search = {...data.search, beams: beams ?? data.search.beams,
                    limit: limit ?? limitOf(data, hasSource ? ids.length : null, start.length)};
    const run = sampling ? new Sampling(model, source, start, {...search, options: sampling, random: randomOf(seed)})
      : new BeamSearch(model, source, start, search);
    while (!run.isDone) run.advance();
    return run.finished.map(({node, score}) => ({tokens: node.path().slice(start.length).map(each => each.token), score}));
  },

  /** Logits and all weights of attention, of an encoder-decoder also those of the encoder, layer by layer. */
  read({ids, target, off = []}) {
    for (const [kind, layer, head] of off) model.attentions[kind][layer].off.add(head);
    const source = model.encode(ids), nodes = Node.chain(source ? target : ids);
    const logits = model.logits(nodes, source).map(row => Array.from(row));
    const weights = (rows, kind) => rows.map(node => node.looks[kind].map(look => Array.from(look.weights)));
    for (const [kind, layer, head] of off) model.attentions[kind][layer].off.delete(head);
    return {
      logits, self: weights(nodes, "self"), cross: weights(nodes, "cross"),
      encoder: source ? weights(source.nodes, "self") : [],
    };
  },

  distribution({logProbs, options}) { return sampled(logProbs, options); },
  encode({texts}) { return texts.map(text => tokenizer.encode(text)); },
  decode({rows}) { return rows.map(ids => tokenizer.decode(ids)); },
  labels({rows}) { return rows.map(ids => tokenizer.labels(ids)); },
  activations({values}) {
    return Object.fromEntries(Object.entries(ACTIVATIONS).map(([name, activation]) => [name, values.map(x => activation(x))]));
  },
  names() { return Object.keys(ARCHITECTURES); },

  /** Tokens that greedy search writes in a second. */
  speed({rows}) {
    let tokens = 0;
    const begin = performance.now();
    for (const ids of rows) {
      const search = {...data.search, beams: 1, limit: limitOf(data, ids.length, 1)};
      const run = new BeamSearch(model, model.encode(ids), [data.search.start], search);
      while (!run.isDone) { run.advance(); tokens++; }
    }
    return tokens / (performance.now() - begin) * 1000;
  },
};
process.stdout.write(JSON.stringify(tasks.map(task => RUN[task.run](task))));
