"""First letters: how they are asked, and how right answers are counted."""

from collections.abc import Callable
from pathlib import Path
from string import ascii_uppercase

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from sae_core.errors import ModelError
from sae_core.models import HookPoint, LanguageModel, load_model
from sae_core.probing import measure_spelling, spelling_task, word_activations
from tests.tiny import BOS, EOS, UNK

WORDS = [f"{letter}{middle}{end}" for letter in "abcdt" for middle in "aeiou" for end in ("rn", "st")]


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A tiny model whose tokens are words and letters, and which always says " T"."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=[UNK, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = [f" {word} has the first letter: {letter}\n" for word in WORDS for letter in ascii_uppercase]
    tokenizer.train_from_iterator(lines, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, unk_token=UNK)
    size = len(fast)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=2, n_positions=256))
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(100 * model.lm_head.weight[fast.encode(" T")[-1]])
    folder: Path = tmp_path_factory.mktemp("speller")
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return load_model(folder, device="cpu")


def test_a_prompt_has_ten_answers_and_one_question(speller: LanguageModel) -> None:
    task = spelling_task(speller, 20, seed=0)
    assert len(task.words) == len(task.letters) == len(task.token_ids) == 20
    for word, letter, ids in zip(task.words, task.letters, task.token_ids, strict=True):
        *examples, question = speller.decode(ids.tolist()).removeprefix(BOS).split("\n")
        assert question == f"{word} has the first letter:"
        assert word[1].upper() == letter
        assert speller.decode([int(ids[task.place])]) == word
        assert len(examples) == 10
        assert all(line.split()[0][0].upper() == line[-1] for line in examples)
        assert not any(line.startswith(f"{word} ") for line in examples), "the answer is not among the examples"
    again, other = spelling_task(speller, 20, seed=0), spelling_task(speller, 20, seed=1)
    assert again.token_ids.tolist() == task.token_ids.tolist() != other.token_ids.tolist()
    assert len(spelling_task(speller, 10_000, seed=0).words) >= len(WORDS)


def test_right_answers_are_counted(speller: LanguageModel) -> None:
    task = spelling_task(speller, 10_000, seed=0)
    found = measure_spelling(speller, task)
    share = np.mean([letter == "T" for letter in task.letters])
    assert 0 < share < 0.5
    assert found.accuracy == pytest.approx(share)
    assert found.low < found.accuracy < found.high and found.words == len(task.words)
    assert not found.spells


def test_activations_are_those_at_the_word(speller: LanguageModel) -> None:
    task = spelling_task(speller, 20, seed=0)
    hook = HookPoint("resid_post", 0)
    found = word_activations(speller, task, hook)
    for row, ids in zip(found, task.token_ids, strict=True):
        whole = speller.activations(torch.tensor(ids[None]), hook)[0, task.place]
        np.testing.assert_allclose(row, whole.numpy(), atol=1e-5)


def test_a_vocabulary_without_words_cannot_be_asked(load_family: Callable[[str], LanguageModel]) -> None:
    with pytest.raises(ModelError, match=r"words as single tokens: too few to ask"):
        spelling_task(load_family("llama"), 20, seed=0)
