// Runs tasks with @huggingface/transformers, offline, on models in local folders; see transformers_js.py.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const { library, models, model, tasks } = JSON.parse(readFileSync(0, "utf8"));
const found = createRequire(`${library}/`).resolve("@huggingface/transformers");
const js = await import(pathToFileURL(found));
js.env.allowRemoteModels = false;
js.env.localModelPath = models;

const CLASSES = {
  tokens: js.AutoModelForSeq2SeqLM, continuation: js.AutoModelForCausalLM, logits: js.AutoModelForMaskedLM,
};
const ACTIONS = {
  // The tokens of a text, and what a model makes of them.
  ids: async ({ texts }) => {
    const tokenizer = await js.AutoTokenizer.from_pretrained(model);
    return texts.map((text) => tokenizer.encode(text));
  },
  model: async ({ kind, texts, dtype, options }) => {
    const tokenizer = await js.AutoTokenizer.from_pretrained(model);
    const loaded = await CLASSES[kind].from_pretrained(model, { dtype });
    const results = [];
    for (const text of texts) {
      const inputs = tokenizer(text);
      if (kind === "logits") results.push((await loaded(inputs)).logits.tolist()[0]);
      else results.push((await loaded.generate({ ...inputs, ...options })).tolist()[0].map(Number));
    }
    return results;
  },
  // A block of code, whose import is of the library above, and whose last expression, or what it logs, is the result.
  code: async ({ text }) => {
    const lines = [];
    const body = text.replace(/import (\{.*?\}) from ['"]@huggingface\/transformers['"];/, "const $1 = js;");
    const run = new (Object.getPrototypeOf(async () => {}).constructor)("js", "console", "result", body);
    await run(js, { log: (...values) => lines.push(...values) }, lines);
    return lines;
  },
};
const results = [];
for (const task of tasks) results.push(await ACTIONS[task.action](task));
console.log(JSON.stringify(results));
