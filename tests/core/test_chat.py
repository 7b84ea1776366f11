from pathlib import Path

import pytest

from sae_core.models import LanguageModel, load_model
from sae_core.models.chat import ChatError
from tests.tiny import BOS, EOS, tiny_model, tiny_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ALTERNATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}{% endfor %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set messages = messages[1:] %}"
    "{% endif %}" + ALTERNATE + "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' }}"
    "{% if loop.first and system %}{{ '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}{% endif %}"
    "{{ m['content'] | trim + ' [/INST]' }}{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
LLAMA_3 = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    + ALTERNATE
    + "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + "
    "'\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}" + ALTERNATE + "{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' "
    "if m['role'] == 'user' else m['content'] + eos_token }}{% endfor %}"
)
FORMATS = {"chatml": CHATML, "llama_2": LLAMA_2, "llama_3": LLAMA_3, "gemma": GEMMA, "mistral": MISTRAL}
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": "Hello there"},
    {"role": "assistant", "content": "Hi, you."},
    {"role": "user", "content": "The end"},
]
REFUSING = "{{ raise_exception('Conversation roles must alternate.') }}"


def chat_model(folder: Path, template: str | None) -> LanguageModel:
    source = tiny_model(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(source)
    return load_model(source, device="cpu", name="tiny")


def test_a_conversation_is_the_models_own_format_with_roles(tmp_path: Path) -> None:
    model = chat_model(tmp_path / "model", CHATML)
    chat = model.render_chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there"}])

    assert chat.text == (
        f"{BOS}system\nBe brief.{EOS}\n{BOS}user\nHello there{EOS}\n{BOS}assistant\n"  # opens the assistant's turn
    )
    token_ids = model.tokenize(chat.text)
    assert len(token_ids) == len(chat.tokens)  # the template's BOS is the only one
    content = [
        (token.role, model.decode([token_id]))
        for token, token_id in zip(chat.tokens, token_ids, strict=True)
        if not token.added
    ]
    assert "".join(text for role, text in content if role == "system") == "Be brief."
    assert "".join(text for role, text in content if role == "user") == "Hello there"
    assert {token.role for token in chat.tokens} == {"system", "user", "assistant"}
    assert all(token.added for token in chat.tokens if token.role == "assistant")


def test_a_finished_answer_opens_no_other_turn(tmp_path: Path) -> None:
    model = chat_model(tmp_path / "model", CHATML)
    chat = model.render_chat([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
    assert chat.text == f"{BOS}user\nHi{EOS}\n{BOS}assistant\nHello{EOS}\n"


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    model = chat_model(tmp_path / "model", None)
    with pytest.raises(ChatError, match="tiny has no chat template"):
        model.render_chat([{"role": "user", "content": "Hi"}])


def test_the_templates_refusal_is_quoted(tmp_path: Path) -> None:
    model = chat_model(tmp_path / "model", REFUSING)
    with pytest.raises(ChatError, match=r"refuses this conversation: Conversation roles must alternate"):
        model.render_chat([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "turns", [TURNS[:1], TURNS[:2], TURNS, [SYSTEM, *TURNS]], ids=["one", "two", "three", "system"]
)
def test_every_format_keeps_what_was_written_apart_from_what_it_added(
    tmp_path: Path, name: str, turns: list[dict[str, str]]
) -> None:
    model = chat_model(tmp_path / "model", FORMATS[name])
    if turns[0] == SYSTEM and name in ("gemma", "mistral"):
        with pytest.raises(ChatError, match=r"refuses this conversation: (System role|Conversation roles)"):
            model.render_chat(turns)
        return
    chat = model.render_chat(turns)
    token_ids = model.tokenize(chat.text)
    assert len(token_ids) == len(chat.tokens)
    assert token_ids[0] == model.bos_token_id
    assert token_ids[1] != model.bos_token_id  # the format's BOS is the only one in front
    written = dict.fromkeys(("system", "user", "assistant"), "")
    for token, token_id in zip(chat.tokens, token_ids, strict=True):
        if not token.added:
            written[token.role or ""] += model.decode([token_id])
    for role, text in written.items():  # formats may trim, and a space may belong to a word's token
        said = [turn["content"] for turn in turns if turn["role"] == role]
        assert "".join(text.split()) == "".join("".join(said).split())
    assert chat.tokens[0].added
