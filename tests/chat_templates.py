"""Chat templates of well-known models, as they publish them, without their parts for tools."""

from tokenizers import AddedToken

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN2_5 = (
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if message.role != 'system' or not loop.first %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
QWEN3 = (
    "{%- set ns = namespace(last=0) %}{%- for message in messages %}{%- if message.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}{%- set content = message.content %}"
    "{%- if message.role == 'assistant' and '</think>' in content and loop.index0 < ns.last %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA3_2 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: ' }}"
    "{{- date_string + '\n\n' + system_message + '<|eot_id|>' }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
DEEPSEEK_R1 = (
    "{% set ns = namespace(system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}"
    "{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}"
    "{%- for message in messages %}{%- if message['role'] == 'user' %}{{'<｜User｜>' + message['content']}}{%- endif %}"
    "{%- if message['role'] == 'assistant' %}{% set content = message['content'] %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor -%}"
    "{% if add_generation_prompt %}{{'<｜Assistant｜><think>\n'}}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token}}{% endif %}{% endfor %}"
)
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ message.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML with the assistant's text marked, as TRL's training templates do."""
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI3_5 = PHI3.replace("== 'system' %}", "== 'system' and message['content'] %}")
PHI3_MARKED = (
    "{%- for message in messages %}{%- if message['role'] == 'user' %}"
    "{{- '<|user|>\n' + message['content'] + '<|end|>\n' }}{%- elif message['role'] == 'assistant' %}"
    "{{- '<|assistant|>\n' }}{%- generation %}{{- message['content'] + '<|end|>\n' }}{%- endgeneration %}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}"
    "{%- elif messages[-1]['role'] == 'assistant' %}"
    "{%- generation %}{{- eos_token }}{%- endgeneration %}{%- else %}{{- eos_token }}{%- endif %}"
)
"""TRL's for training: the end of the text is a marked part of its own."""
COHERE2_SYSTEM = "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|># System Preamble\nYour name is Aya."
COHERE2 = (
    "{{ bos_token }}{% set ns = namespace(system_prompt=false) %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{% break %}{% endif %}"
    "{% endfor %}" + COHERE2_SYSTEM + "{% if ns.system_prompt %}\n\n# Developer Preamble\n{{ ns.system_prompt }}"
    "{% endif %}<|END_OF_TURN_TOKEN|>{% for message in messages %}{% if message['role'] == 'system' %}{% continue %}"
    "{% endif %}<|START_OF_TURN_TOKEN|>{% if message['role'] == 'user' %}<|USER_TOKEN|>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<|CHATBOT_TOKEN|><|START_RESPONSE|>{{ message['content'] }}"
    "<|END_RESPONSE|>{% endif %}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>{% endif %}"
)
"""With a shorter preamble; two tokens end the assistant's turn."""

SPECIAL = {
    "chatml": (CHATML, "<|endoftext|>", "<|endoftext|>", ("<|im_start|>", "<|im_end|>")),
    "qwen2.5": (QWEN2_5, None, "<|im_end|>", ("<|im_start|>", "<|im_end|>")),
    "qwen3": (QWEN3, None, "<|im_end|>", ("<|im_start|>", "<|im_end|>")),
    "marked": (MARKED, None, "<|im_end|>", ("<|im_start|>", "<|im_end|>")),
    "llama-3": (
        LLAMA3, "<|begin_of_text|>", "<|end_of_text|>",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "llama-3.2": (
        LLAMA3_2, "<|begin_of_text|>", "<|eot_id|>",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "deepseek-r1": (
        DEEPSEEK_R1, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    ),
    "mistral": (MISTRAL, "<s>", "</s>", ("<s>", "</s>", "[INST]", "[/INST]")),
    "phi-3": (
        PHI3, "<s>", "<|endoftext|>",
        ("<s>", *(AddedToken(f"<|{name}|>", rstrip=True) for name in ("system", "user", "assistant", "end"))),
    ),
    "phi-3.5": (PHI3_5, "<s>", "<|endoftext|>", ("<s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")),
    "cohere2": (
        COHERE2, "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>",
        (
            "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>",
            "<|CHATBOT_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>",
        ),
    ),
}  # fmt: skip
"""name -> (template, beginning of sequence, end of sequence, special tokens). Llama-3's and ChatML's end of sequence is
a base model's: another than the end of a turn. Phi-3's marks take the white space after them along."""
