"""Dream's Python tokenizer has a native equivalent that gives the same ids."""

import itertools
import json
import random
import unicodedata

import pytest
import regex
import transformers
from released import write

from mdm_schedules.errors import StorageError
from mdm_schedules.integrations.transformers.native import load_tokenizer
from mdm_schedules.integrations.transformers.native.convert import convert

WORDS = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "Ġ Ġ", "i n", "in g", "Ã ©"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>", "<|beginoftext|>"]
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def letters():
    """Return a printable letter for each byte, as in GPT-2's byte-level BPE."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}


def vocabulary():
    tokens = [*letters().values(), *(pair.replace(" ", "") for pair in MERGES)]
    return {token: i for i, token in enumerate(tokens)}


def released_tokenizer(folder):
    folder.mkdir(exist_ok=True)
    vocab = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    merges = "#version: 0.2\n" + "\n".join(MERGES) + "\n"
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    added = {
        str(len(vocab) + i): {
            "content": token,
            "special": True,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "single_word": False,
        }
        for i, token in enumerate(SPECIAL)
    }
    config = {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "added_tokens_decoder": added,
        "bos_token": "<|beginoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "chat_template": CHAT,
        "add_bos_token": False,
        "model_max_length": 128,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "tokenization_dream.py").write_text("raise SystemExit('code of the repository ran')")


def reference_ids(text):
    """Encode by the description of byte-level BPE: special tokens, words, bytes, merges by rank."""
    vocab, byte = vocabulary(), letters()
    ranks = {tuple(pair.split()): i for i, pair in enumerate(MERGES)}
    ids = []
    for part in regex.split("(" + "|".join(map(regex.escape, SPECIAL)) + ")", text):
        if part in SPECIAL:
            ids.append(len(vocab) + SPECIAL.index(part))
            continue
        for word in WORDS.findall(unicodedata.normalize("NFC", part)):
            pieces = [byte[b] for b in word.encode()]
            while len(pieces) > 1:
                pairs = list(itertools.pairwise(pieces))
                best = min(pairs, key=lambda pair: ranks.get(pair, 999))
                if best not in ranks:
                    break
                joined, i = [], 0
                while i < len(pieces):
                    match = tuple(pieces[i : i + 2]) == best
                    joined.append("".join(best) if match else pieces[i])
                    i += 2 if match else 1
                pieces = joined
            ids += [vocab[piece] for piece in pieces]
    return ids


def texts():
    draw = random.Random(0)
    alphabet = "hello world  inging'll 'S 0123é\u0301\n\r\t.,!?ñ中文🙂ΩAÉ"
    yield from [
        "",
        "hello world",
        "  he  said: 'hello'\n\n",
        "e\u0301cole 2024",
        "<|mask|><|mask|>",
    ]
    for _ in range(200):
        size = draw.randint(1, 30)
        text = "".join(draw.choice(alphabet) for _ in range(size))
        yield text if draw.random() < 0.7 else f"{text}{draw.choice(SPECIAL)}{text[::-1]}"


def test_the_native_tokenizer_gives_the_ids_of_byte_level_bpe(tmp_path):
    released_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    for text in texts():
        ids = tokenizer(text)["input_ids"]
        assert ids == reference_ids(text), text
        assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


def test_special_tokens_and_the_chat_template_come_along(tmp_path):
    released_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    base = len(vocabulary())
    assert tokenizer.mask_token_id == base + 3
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (base, base)
    assert tokenizer.bos_token_id == base + 4
    said = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert said == "<|im_start|>user\nhello<|im_end|>\n"


def test_conversion_writes_a_tokenizer_that_needs_no_code(tmp_path):
    size = len(vocabulary()) + len(SPECIAL)
    write(tmp_path / "a", "dream")
    released_tokenizer(tmp_path / "a")
    mask = {"mask_token_id": 95}
    convert(tmp_path / "a", tmp_path / "b", **mask)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
    assert len(tokenizer) == size
    assert not list((tmp_path / "b").glob("*.py"))
    for text in list(texts())[:50]:
        assert tokenizer(text)["input_ids"] == reference_ids(text)


def test_a_tokenizer_of_other_code_is_refused(tmp_path):
    released_tokenizer(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "OddTokenizer"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(StorageError, match=r"OddTokenizer.*trust_remote_code=True"):
        load_tokenizer(tmp_path)
