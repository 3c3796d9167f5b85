"""Chat templates: the released conversation form, and the prefix that gives an LLM's own template eyes.

A template is Jinja, kept in the checkpoint, so that `pipeline`, vLLM and our own code render alike.
"""

# Parts of a message become one string: a picture its token, parts joined by new lines, in order. Then the
# LLM's own template sees plain strings, as it was written for. The last tag does not trim: transformers drops
# the end of its line, and what follows is the LLM's template as it stands.
FLATTEN_PARTS = """\
{%- set owl = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set content = message['content'] -%}
{%- if content is defined and content is not string and content is not none -%}
{%- set flat = namespace(parts=[]) -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}{%- set flat.parts = flat.parts + [part['text']] -%}
{%- elif part['type'] in ('image', 'image_url') -%}{%- set flat.parts = flat.parts + ['<image>'] -%}
{%- elif part['type'] in ('video', 'video_url') -%}{%- set flat.parts = flat.parts + ['<|video|>'] -%}
{%- else -%}{{- raise_exception('unknown content part ' ~ part['type'] ~ '; use text, image or video') -}}
{%- endif -%}
{%- endfor -%}
{%- set owl.messages = owl.messages + [dict(message, content=flat.parts | join('\\n'))] -%}
{%- else -%}
{%- set owl.messages = owl.messages + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = owl.messages %}
"""

RELEASED_SYSTEM = (
    "The following is a conversation between a curious human and AI assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions."
)

_TO_THE_FIRST_QUESTION = """\
{{- bos_token if bos_token is defined and bos_token else '' -}}
{%- if messages and messages[0]['role'] == 'system' -%}
{{- messages[0]['content'] -}}{%- set messages = messages[1:] -%}
{%- else -%}
{{- "SYSTEM" -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
""".replace("SYSTEM", RELEASED_SYSTEM)

# The released form: a picture has a `Human: ` line of its own; an answer ends in the end-of-sequence token.
HUMAN_AI = (
    FLATTEN_PARTS
    + _TO_THE_FIRST_QUESTION
    + """\
{%- set owl.text = message['content'] -%}
{%- for token in ['<image>', '<|video|>'] -%}
{%- set owl.text = owl.text.replace(token ~ '\\n', token ~ '\\nHuman: ') -%}
{%- set owl.text = owl.text.replace('\\n' ~ token, '\\nHuman: ' ~ token) -%}
{%- endfor -%}
{{- '\\nHuman: ' ~ owl.text -}}
{%- elif message['role'] == 'assistant' -%}
{%- set end = eos_token if eos_token is defined and eos_token else '' -%}
{{- '\\nAI: ' -}}{%- generation -%}{{- message['content'] ~ end -}}{%- endgeneration -%}
{%- else -%}
{{- raise_exception('role ' ~ message['role'] ~ ' is unknown here; use system, user or assistant') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '\\nAI: ' -}}{%- endif -%}
"""
)

# The same words for text alone, in the plain Jinja that llama.cpp reads: no `generation` tag, no `dict`.
HUMAN_AI_TEXT = (
    _TO_THE_FIRST_QUESTION
    + """\
{{- '\\nHuman: ' ~ message['content'] -}}
{%- elif message['role'] == 'assistant' -%}
{{- '\\nAI: ' ~ message['content'] ~ (eos_token if eos_token is defined and eos_token else '') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '\\nAI: ' -}}{%- endif -%}
"""
)


def with_media_parts(template: str) -> str:
    """The LLM's own template, verbatim, after the prefix that flattens content parts."""
    return FLATTEN_PARTS + template
