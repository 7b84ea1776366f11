from pathlib import Path

import pytest

from sae_core.models import LanguageModel, load_model
from sae_core.models.chat import ChatError
from tests.tiny import BOS, EOS, tiny_model, tiny_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
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
    with pytest.raises(ChatError, match="refuses this conversation: Conversation roles must alternate"):
        model.render_chat([{"role": "user", "content": "Hi"}])
