"""The code that the Hub prints on a model's page under "Use this model", by the rules of its own huggingface.js.

`RULES` has them as data: for each library, blocks of code with the conditions under which the page shows them, as
packages/tasks/src/model-libraries-snippets.ts had them in November 2026. `{trust}` is there where the page has the tag
`custom_code`, which the Hub gives to a model whose config.json has an `auto_map` or `custom_pipelines`.
"""

import json

TRUST = ", trust_remote_code=True"
# The pipelines that the Hub knows transformers to have, of those that this package has models for.
PIPELINES = ("translation", "fill-mask", "text-generation", "text-classification", "token-classification")
PIPELINES += ("question-answering", "feature-extraction")
GONE = ("translation", "question-answering")
"""Those of which the page says that transformers 5 has none, and that the block below is to be used."""

AUTO = """# Load model directly
from transformers import AutoTokenizer, {auto_class}

tokenizer = AutoTokenizer.from_pretrained("{repo}"{trust})
model = {auto_class}.from_pretrained("{repo}"{trust})"""
PIPELINE = """# Use a pipeline as a high-level helper
from transformers import pipeline

pipe = pipeline("{task}", model="{repo}"{trust})"""
CHAT = """
messages = [
    {{"role": "user", "content": "Who are you?"}},
]
inputs = tokenizer.apply_chat_template(
	messages,
	add_generation_prompt=True,
	tokenize=True,
	return_dict=True,
	return_tensors="pt",
).to(model.device)

outputs = model.generate(**inputs, max_new_tokens=40)
print(tokenizer.decode(outputs[0][inputs["input_ids"].shape[-1]:]))"""
CHAT_PIPELINE = """
messages = [
    {{"role": "user", "content": "Who are you?"}},
]
pipe(messages)"""
JAVASCRIPT = """// npm i @huggingface/transformers
import {{ pipeline }} from '@huggingface/transformers';

// Allocate pipeline
const pipe = await pipeline('{task}', '{repo}');"""
PEFT = """from peft import PeftModel
from transformers import AutoModelFor{peft_task}

base_model = AutoModelFor{peft_task}.from_pretrained("{base}")
model = PeftModel.from_pretrained(base_model, "{repo}")"""
SENTENCES = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{repo}"{trust})

sentences = {sentences}
embeddings = model.encode(sentences)

similarities = model.similarity(embeddings, embeddings)
print(similarities.shape)
# [3, 3]"""
RANKING = """from sentence_transformers import CrossEncoder

model = CrossEncoder("{repo}"{trust})

query = "Which planet is known as the Red Planet?"
passages = [
	"Venus is often called Earth's twin because of its similar size and proximity.",
	"Mars, known for its reddish appearance, is often referred to as the Red Planet.",
	"Jupiter, the largest planet in our solar system, has a prominent red spot.",
	"Saturn, famous for its rings, is sometimes mistaken for the Red Planet."
]

scores = model.predict([(query, passage) for passage in passages])
print(scores)"""
EXAMPLES = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
PEFT_TASKS = {"CAUSAL_LM": "CausalLM", "SEQ_2_SEQ_LM": "Seq2SeqLM", "TOKEN_CLS": "TokenClassification"}
PEFT_TASKS |= {"SEQ_CLS": "SequenceClassification"}

RULES = (
    # library, what the block needs, the block
    ("transformers", "pipeline", PIPELINE),
    ("transformers", "pipeline chat", PIPELINE + CHAT_PIPELINE),
    ("transformers", "auto", AUTO),
    ("transformers", "auto chat", AUTO + CHAT),
    ("transformers.js", "task", JAVASCRIPT),
    ("peft", "peft_task", PEFT),
    ("sentence-transformers", "sentences", SENTENCES),
    ("sentence-transformers", "ranking", RANKING),
)


def snippets(data, repo, library, config=None, auto_class="", peft=None):
    """The blocks that the page of `repo` shows for a library, by the metadata of its card and by its config.json."""
    tags, task, config = set(data.tags or ()), data.pipeline_tag, config or {}
    custom = bool({"auto_map", "custom_pipelines"} & set(config))
    peft_task = PEFT_TASKS.get((peft or {}).get("task_type"))
    is_chat = "conversational" in tags
    applies = {
        "ranking": task == "text-ranking",
        "sentences": task != "text-ranking",
        "task": bool(task),
        "pipeline": task in PIPELINES and not is_chat,
        "pipeline chat": task in PIPELINES and is_chat,
        "auto": bool(auto_class) and not is_chat,
        "auto chat": bool(auto_class) and is_chat,
        "peft_task": bool(peft_task),
    }
    given = {"repo": repo, "task": task, "auto_class": auto_class, "trust": TRUST if custom else ""}
    given |= {"peft_task": peft_task, "base": (peft or {}).get("base_model_name_or_path")}
    given["sentences"] = json.dumps(EXAMPLES, indent=4)
    return [block.format(**given) for name, needs, block in RULES if name == library and applies[needs]]
