"""Tokenizers, chat templates and what the reference library makes of texts and conversations with them.

    python tests/reference/text.py

Needs transformers and tokenizers. Trains small tokenizers of each published kind, writes chat templates that use the constructs
of published ones, and stores what `transformers` answers; the tests of `runtime/src/tokenizer` expect the same. Writes to
`tests/reference/text/`. The unigram model is trained a little differently every time; the rest comes out the same.
"""

import json
import logging
import re
import shutil
from datetime import datetime
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

logging.disable(logging.WARNING)
OUT = Path(__file__).parent / "text"

TEXTS = [
    "",
    " ",
    "  two spaces, then three   ",
    "Natalia sold 48 clips in April, and half as many in May. How many in all?",
    "line one\nline two\r\nline three\n\n\n",
    "\ttabs\tand  \t mixed",
    "don't can't I'll we've they're he'd I'M",
    "x = 3.14159 * r**2 # comment\ndef f(a, b):\n    return a + b\n",
    "1234567 12,345.67 -0.5e-10 ½ ² Ⅻ ٣٤",
    "caf\u00e9 vs cafe\u0301 \u212b \u00c5 A\u030a \ufb01 \u1e9b\u0323",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "\u4e2d\u6587\u548c\u65e5\u672c\u8a9e\u3067\u3059\u3002 \ud55c\uad6d\uc5b4",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u202babc\u202c",
    "nbsp\u00a0here, thin\u2009space, zero\u200bwidth, ideographic\u3000space, line\u2028sep",
    "control \x00 \x01 \x07 \x1b[0m \x7f \x85 \x1c \x1f end",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 \u1019\u103c\u1014\u103a\u1019\u102c",
    "\ufeffbyte order mark, \ufffd replacement, \U0010ffff last",
    "\u2581already\u2581marked \u2581 alone",
    "<0x41><0xE2> not bytes",
    "<|im_start|>user\nnot a turn<|im_end|>",
    "<s>[INST] said in plain text [/INST]</s>",
    "<tool_call>{\"name\": \"f\"}</tool_call>",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "https://example.org/a?b=c&d=%20#e",
    "Größenwahn, naïveté, Ærøskøbing, İstanbul, ıı, ẞ",
]

TRAINING = TEXTS + [
    "The quick brown fox jumps over the lazy dog. " * 3,
    "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins with four. " * 2,
    "Reverse the string: hello -> olleh. Sort the letters. Answer with JSON: {\"answer\": [1, 2, 3], \"ok\": true}. " * 2,
    "You are a helpful assistant. user assistant system tool think function name arguments parameters " * 2,
]

QWEN_SPLIT = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
LLAMA_SPLIT = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


def special(*texts):
    return [AddedToken(text, special=True, normalized=False) for text in texts]


def byte_level(split, normalizer=None, size=560, digits=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=split == LLAMA_SPLIT))
    if normalizer:
        tokenizer.normalizer = normalizer
    if split:
        steps = [pre_tokenizers.Split(Regex(split), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    else:
        steps = ([pre_tokenizers.Digits(individual_digits=True)] if digits else []) + [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TRAINING, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    return tokenizer


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def sentence_piece(prepend, specials, size=620):
    """Byte-pair encoding as it is converted from SentencePiece: spaces are letters, unknown letters are bytes."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "\u2581")
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("\u2581+[^\u2581]*"), behavior="isolated")
    trained.train_from_iterator(
        [re.sub("[^ -~\u00c0-\u024f]", "", text) for text in TRAINING],
        trainers.BpeTrainer(vocab_size=size - 256 - len(specials), show_progress=False),
    )
    state = json.loads(trained.to_str())["model"]
    letters = [token for token in state["vocab"] if token not in BYTES and token not in specials]
    vocabulary = {token: index for index, token in enumerate(specials + BYTES + letters)}
    merges = [tuple(merge) for merge in state["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    steps = [normalizers.Prepend("\u2581")] if prepend else []
    tokenizer.normalizer = normalizers.Sequence(steps + [normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()] + ([decoders.Strip(" ", 1, 0)] if prepend else [])
    )
    tokenizer.add_special_tokens(special(*specials))
    return tokenizer


def unigram():
    """Pieces with probabilities; compatibility forms, bytes for unknown letters."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first")
    tokenizer.train_from_iterator(
        [text for text in TRAINING for _ in range(4)],
        trainers.UnigramTrainer(vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False),
    )
    state = json.loads(tokenizer.to_str())["model"]
    # Thresholds of training differ in the last bits between machines; scores with few digits do not.
    pieces = [(piece, round(score, 4)) for piece, score in state["vocab"]]
    pieces += [(byte, -12.0) for byte in BYTES]
    tokenizer.model = models.Unigram(pieces, unk_id=2, byte_fallback=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(replacement="\u2581", prepend_scheme="first")])
    tokenizer.add_special_tokens(special("<pad>", "</s>", "<unk>"))
    # An end token behind every text, as encoders have it.
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def begins_with(tokenizer, begin):
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B:1", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    return tokenizer


def make_tokenizers():
    qwen = byte_level(QWEN_SPLIT, normalizers.NFC())
    qwen.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    qwen.add_tokens([AddedToken(text, normalized=False) for text in ["<tool_call>", "</tool_call>", "<think>", "</think>"]])
    smol = byte_level(None, digits=True)
    smol.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    llama3 = byte_level(LLAMA_SPLIT)
    names = ["begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eom_id", "eot_id", "python_tag"]
    llama3.add_special_tokens(special(*[f"<|{name}|>" for name in names]))
    gemma = sentence_piece(False, ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"])
    mistral = sentence_piece(True, ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"])
    llama2 = sentence_piece(True, ["<unk>", "<s>", "</s>"])
    return {
        "qwen3": (qwen, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, ["<|im_end|>", "<|endoftext|>"]),
        "smollm": (smol, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}, []),
        "llama3": (begins_with(llama3, "<|begin_of_text|>"), {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]),
        "gemma": (begins_with(gemma, "<bos>"), {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}, ["<eos>", "<end_of_turn>"]),
        "mistral": (begins_with(mistral, "<s>"), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, ["</s>"]),
        "llama2": (begins_with(llama2, "<s>"), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, ["</s>"]),
        "unigram": (unigram(), {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}, ["</s>"]),
    }


# Templates of our own, which use the constructs of published ones.

CHATML = """{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}
{{- '<|im_start|>system\\nYou answer briefly.<|im_end|>\\n' -}}
{%- endif -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

QWEN3 = """{#- Reverse iteration, namespaces, functions, thoughts that are kept after the last question only. -#}
{%- macro open(role) %}{{- '<|im_start|>' ~ role ~ '\\n' }}{% endmacro %}
{%- set state = namespace(last=-1, open=true) %}
{%- for message in messages[::-1] %}
    {%- if state.open and message.role == 'user' and not (message.content is string and message.content.startswith('<result>')) %}
        {%- set state.open = false %}
        {%- set state.last = messages|length - loop.index %}
    {%- endif %}
{%- endfor %}
{%- set preface = messages[0].content if messages[0].role == 'system' else none %}
{%- if tools or preface is not none %}
    {{- open('system') }}
    {%- if preface is not none %}{{- preface ~ ('\\n\\n' if tools else '') }}{%- endif %}
    {%- if tools %}
        {{- "Functions:" }}
        {%- for tool in tools %}{{- '\\n' ~ (tool | tojson) }}{%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- set words = message.content if message.content is string else '' %}
        {%- set thought = none %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in words %}
            {%- set halves = words.split('</think>') %}
            {%- set thought = halves[0].rstrip('\\n').split('<think>')[-1] %}
            {%- set words = halves[-1].lstrip('\\n') %}
        {%- endif %}
        {{- open('assistant') }}
        {%- if loop.index0 > state.last and (thought or loop.last) %}
            {{- '<think>\\n' + (thought or '').strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- words.lstrip('\\n') }}
        {%- for call in message.tool_calls or [] %}
            {%- set call = call.function or call %}
            {%- if words or not loop.first %}{{- '\\n' }}{%- endif %}
            {{- '<tool_call>{"name": "' ~ call.name ~ '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.previtem is undefined or loop.previtem.role != 'tool' %}{{- open('user') }}{%- endif %}
        {{- '<result>' + message.content + '</result>' }}
        {{- '<|im_end|>\\n' if loop.last or loop.nextitem.role != 'tool' else '\\n' }}
    {%- elif not (loop.first and message.role == 'system') %}
        {{- open(message.role) ~ message.content ~ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- open('assistant') }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""

LLAMA3 = """{#- The day, tests of what is defined, lists without their head, indented schemas, roles by another name. -#}
{%- set day = strftime_now('%d %b %Y') if strftime_now is defined else 'a day' %}
{%- if date_string is defined %}
    {%- set day = date_string %}
{%- endif %}
{%- set preface, rest = '', messages %}
{%- if messages[0]['role'] == 'system' %}
    {%- set preface = messages[0]['content'] | trim %}
    {%- set rest = messages[1:] %}
{%- endif %}
{{- bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\nDay: ' + day + '\\n' + preface + '<|eot_id|>' }}
{%- for message in rest %}
    {%- set role = 'ipython' if message.role == 'tool' else message.role %}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}
    {%- if loop.first and tools is not none and tools is defined %}
        {%- if message.role != 'user' %}{{ raise_exception('functions are told to the first user') }}{% endif %}
        {%- for tool in tools %}
            {{- tool | tojson(indent=4) }}
            {{- '\\n\\n' }}
        {%- endfor %}
    {%- endif %}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls | length > 1 %}
            {{- raise_exception('one call at a time, not ' ~ message.tool_calls | length) }}
        {%- endif %}
        {%- set called = message.tool_calls[0].function %}
        {{- '{"name": "' + called.name + '", "parameters": ' + called.arguments | tojson + '}' }}
    {%- elif message.content is mapping or (message.content is iterable and message.content is not string) %}
        {{- message.content | tojson }}
    {%- else %}
        {{- message['content'] | trim }}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

GEMMA = """{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('a system message has no place here') }}{% endif %}
{% for message in messages %}
{% if (loop.index0 % 2 == 0) != (message.role == 'user') %}{{ raise_exception('roles take turns') }}{% endif %}
{% set speaker = 'model' if (message.role == 'assistant') else message.role %}
{{ '<start_of_turn>' + speaker + '
' + message['content'] | trim + '<end_of_turn>
' }}{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model
' }}{% endif %}"""

MISTRAL = """{#- Filters over lists, items with a condition, strings without their end, equality of messages, ids of calls. -#}
{%- set talk = messages | rejectattr('role', 'equalto', 'system') | list %}
{%- set asked = talk | selectattr('role', 'equalto', 'user') | list %}
{%- set count = namespace() %}
{%- set count.turns = 0 %}
{%- for message in talk if message.role in ['user', 'assistant'] and not message.tool_calls %}
    {%- if (count.turns % 2 == 0) != (message['role'] == 'user') %}
        {{- raise_exception('user and assistant take turns') }}
    {%- endif %}
    {%- set count.turns = count.turns + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in talk %}
    {%- if message.role == 'user' %}
        {%- if tools is not none and message == asked[-1] %}
            {{- '[AVAILABLE_TOOLS] [' }}
            {%- for tool in tools %}
                {{- '{' }}
                {%- for key, value in tool.function.items() if key != 'return' %}
                    {{- '"' + key + '": ' + ('"' + value + '"' if value is string else value | tojson) }}
                    {{- '' if loop.last else ', ' }}
                {%- endfor %}
                {{- '}' if loop.last else '}, ' }}
            {%- endfor %}
            {{- '][/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {%- set preface = messages[0]['content'] + '\\n\\n' if loop.last and messages[0].role == 'system' else '' %}
        {{- '[INST] ' + preface + message['content'] + '[/INST]' }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- '[TOOL_CALLS] [' }}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.id is not defined or tool_call.id | length != 9 %}
                {{- raise_exception('ids of calls have nine characters') }}
            {%- endif %}
            {%- set written = tool_call.function | tojson %}
            {{- written[:-1] + ', "id": "' + tool_call.id + '"}' + (', ' if not loop.last else ']' + eos_token) }}
        {%- endfor %}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + message['content'] | trim + eos_token }}
    {%- elif message['role'] == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content | string + ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}
"""

# What the assistant wrote is marked; the rest is what several small templates do.
MARKED = """{%- macro turn(role, close=true) -%}
<|im_start|>{{ role }}
{% endmacro -%}
{% for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- turn('assistant') }}
        {%- generation %}
            {%- if message.content is not none %}{{ message.content }}{% endif %}
            {%- for call in message.tool_calls or [] %}
                {{- '<tool_call>' ~ (call.function | tojson(sort_keys=true)) ~ '</tool_call>' }}
            {%- endfor %}
            {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- turn(message.role) }}{{ message.content }}<|im_end|>{{ '\\n' }}
    {%- endif %}
{% endfor %}
{%- if documents %}
    {%- for document in documents %}
        {%- if loop.index > 2 %}{% break %}{% endif %}
        {%- if not document.text %}{% continue %}{% endif %}
{{ loop.index }}. {{ document.title | upper }}: {{ document['text'] | replace('\\n', ' ') }}
    {% endfor %}
{%- endif %}
{%- if add_generation_prompt %}{{ turn('assistant') }}{% endif %}"""

# How values are written that are no strings, and the methods of Python's strings.
VALUES = """{{ true }} {{ false }} {{ none }} {{ 1.0 }} {{ 1e22 }} {{ 0.00001 }} {{ 2 ** 10 }} {{ 7 // 2 }} {{ 7 / 2 }}
{{ [1, 'a', none, true, 2.5] }} {{ {'k': 'v', 'n': {'x': [1]}} }} {{ "it's" }} {{ ["it's", 'say "so"', 'both \\' "'] }}
{{ messages[0] | tojson }}
{{ {'a': [1, 2, {'b': none}], 'c': {}, 'd': []} | tojson(indent=2) }}
{{ {'b': 1, 'a': 'é<>&\\'"'} | tojson(ensure_ascii=true, separators=(',', ':'), sort_keys=true) }}
{{ [1.0, 0.1, 1e-7, 123456789012345678, true] | tojson }}
{{ messages[0].content.strip() }}|{{ messages[0].content | trim }}|{{ messages[0].content.upper() }}|{{ messages[0].content.title() }}
{{ messages | map(attribute='role') | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'equalto', 'user') | list | length }}
{{ undefined_name }}{{ messages[0].nothing }}|{{ undefined_name is defined }} {{ undefined_name | default('fallback') }}
{%- set parts = messages[-1].content.split(' ') %}
{{ parts[0] }} {{ parts[-1] }} {{ parts[1:3] | join('+') }} {{ 'a-b-c'.split('-', 1) | join('/') }} {{ 'x,y'.replace(',', ';') }}
{{ 'abc'[::-1] }} {{ 'abc'[1:] }} {{ [3, 1, 2] | sort | first }} {{ [3, 1, 2] | last }} {{ 'abc' | length }} {{ ('a' in 'abc') and ('z' not in 'abc') }}
{% for key, value in {'one': 1, 'two': 2}.items() %}{{ loop.index }}{{ key }}={{ value }}{% if not loop.last %}, {% endif %}{% else %}never{% endfor %}
{% for message in messages %}{{ loop.cycle('odd', 'even') }}{{ loop.revindex }}{{ ' after ' + loop.previtem.role if loop.previtem is defined else '' }};{% endfor %}
{{ 'yes' if messages | length > 1 else 'no' }} {{ messages[0].get('content', '') | length }} {{ messages[0].get('absent', 'default') }}
{{ range(3) | list }} {{ dict(a=1).items() | list }} {{ 'content' in messages[0] }} {{ (messages[0].content | string).startswith(('Q', 'W', ' ')) }}
{%- filter upper %} filtered {% endfilter %}
"""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a place, \u2103 \u2014 \"now\" & <here>",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {"type": "string", "description": "A town, such as Z\u00fcrich"},
                    "days": {"type": "integer", "minimum": 1, "default": 3},
                    "exact": {"type": "boolean", "default": False},
                    "step": {"type": "number", "default": 0.5},
                },
                "required": ["place"],
            },
        },
    },
    {"type": "function", "function": {"name": "add", "description": "Sum", "parameters": {"type": "object", "properties": {}}}},
]


def call(name, arguments, key="call00001"):
    return {"id": key, "type": "function", "function": {"name": name, "arguments": arguments}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


CHATS = {
    "question": {"messages": [user("What is 2+2?")]},
    "answer": {"messages": [user("What is 2+2?"), assistant("4")]},
    "system": {"messages": [{"role": "system", "content": "You count.\n"}, user("Go on"), assistant("1"), user("And?"), assistant("2")]},
    "spaces": {"messages": [user("  lead \u00a0\u3000\x1f and trail \n\n"), assistant("\n\n  answer  \n"), user("\t")]},
    "unicode": {"messages": [user(TEXTS[10]), assistant(TEXTS[11]), user(TEXTS[12]), assistant(TEXTS[9] + TEXTS[15])]},
    "thinking": {
        "messages": [
            user("Think."),
            assistant("42", reasoning_content="\nSix by seven.\n"),
            user("Again."),
            assistant("<think>\nSame.\n</think>\n\n42 still"),
        ]
    },
    "old_thinking": {"messages": [user("Think."), assistant("42", thinking="Six by seven.")]},
    "tools": {
        "messages": [
            {"role": "system", "content": "Use functions."},
            user("Weather in Z\u00fcrich?"),
            assistant("", tool_calls=[call("get_weather", {"place": "Z\u00fcrich", "days": 2, "step": 0.25, "exact": True, "note": None})]),
            {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "{\"celsius\": 21.5}"},
            assistant("21.5 \u2103."),
        ],
        "tools": TOOLS,
    },
    "two_calls": {
        "messages": [
            user("Both, please."),
            assistant("Calling.", tool_calls=[call("add", {"a": [1, 2]}), call("add", {"b": {"c": "d"}}, "call00002")]),
            {"role": "tool", "tool_call_id": "call00001", "content": "3"},
            {"role": "tool", "tool_call_id": "call00002", "content": "d"},
            assistant("Done."),
        ],
        "tools": TOOLS,
    },
    "only_tools": {"messages": [user("Weather?")], "tools": TOOLS},
    "no_thinking": {"messages": [user("Quick.")], "variables": {"enable_thinking": False}},
    "documents": {
        "messages": [user("Read."), assistant("Read.")],
        "documents": [{"title": "One", "text": "a\nb"}, {"title": "None", "text": ""}, {"title": "Three", "text": "c"}],
    },
    "two_users": {"messages": [user("One."), user("Two.")]},
    "spelled": {"messages": [user("<|im_end|>\n<|im_start|>assistant\n</s>"), assistant("[/INST]")]},
}

TEMPLATES = {
    "chatml": ("smollm", CHATML),
    "qwen3": ("qwen3", QWEN3),
    "llama3": ("llama3", LLAMA3),
    "gemma": ("gemma", GEMMA),
    "mistral": ("mistral", MISTRAL),
    "marked": ("qwen3", MARKED),
    "values": ("smollm", VALUES),
}


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    expected = {"texts": TEXTS, "tokenizers": {}, "chats": CHATS, "templates": {}}
    loaded = {}
    for name, (tokenizer, config, ends) in make_tokenizers().items():
        folder = OUT / name
        folder.mkdir(parents=True)
        write(folder / "tokenizer.json", json.loads(tokenizer.to_str()))
        templates = [(key, source) for key, (of, source) in TEMPLATES.items() if of == name]
        main_template = [source for key, source in templates if key in ("chatml", "qwen3", "llama3", "gemma", "mistral")]
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
        if name in ("qwen3", "gemma"):
            settings["chat_template"] = main_template[0]
        elif main_template:
            (folder / "chat_template.jinja").write_text(main_template[0], encoding="utf-8")
        write(folder / "tokenizer_config.json", settings)
        if ends:
            write(folder / "generation_config.json", {"eos_token_id": [tokenizer.token_to_id(end) for end in ends]})
        fast = loaded[name] = PreTrainedTokenizerFast.from_pretrained(folder)
        expected["tokenizers"][name] = [
            {
                "whole": fast(text).input_ids,
                "bare": (ids := fast(text, add_special_tokens=False).input_ids),
                "decoded": fast.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
            }
            for text in TEXTS
        ]
    today = datetime.now().strftime("%d %b %Y")
    for key, (name, source) in TEMPLATES.items():
        cases = {}
        for chat, parts in CHATS.items():
            for answer in (False, True):
                case = cases[f"{chat}{' +answer' if answer else ''}"] = {}
                arguments = {
                    "conversation": parts["messages"],
                    "tools": parts.get("tools"),
                    "documents": parts.get("documents"),
                    "chat_template": source,
                    "add_generation_prompt": answer,
                    **parts.get("variables", {}),
                }
                try:
                    text = loaded[name].apply_chat_template(**arguments, tokenize=False)
                except Exception as error:  # What a template raises, and what it trips over.
                    case["error"] = str(error)
                    continue
                case["text"] = text.replace(today, "{TODAY}")
                if today in text:
                    continue
                case["tokens"] = loaded[name].apply_chat_template(**arguments, tokenize=True, return_dict=True)["input_ids"]
                if "generation" in source and not answer:
                    masked = loaded[name].apply_chat_template(**arguments, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
                    case["written"] = masked["assistant_masks"]
        expected["templates"][key] = {"tokenizer": name, "source": source, "cases": cases}
    write(OUT / "expected.json", expected)
    total = sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file())
    print(f"{total / 1e3:.0f} kB in {OUT}")


main()
