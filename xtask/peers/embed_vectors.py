"""The vectors that sentence-transformers gives of texts that are trouble; prints cuda-green-embed/tests/data/vectors.json.

    python3 embed_vectors.py MODEL_DIR

MODEL_DIR is all-MiniLM-L6-v2 as `cargo xtask fetch models` brings it. In f32 on the CPU, one text at a time, so that
padding has no part in it. Each text is a piece and how often it is repeated, and has the number of its tokens and the
first values of its vector, which are enough to tell any two apart.
"""

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import sentence_transformers
import tokenizers
import torch

VALUES = 24

TEXTS = [
    ("A man is eating food.", 1),
    ("", 1),
    (" ", 1),
    (" \t\r\n\u00a0\u3000", 1),
    ("word ", 10_000),
    ("a b c ", 127),
    ("x", 100_000),
    ("a", 100),
    ("a", 101),
    ("antidisestablishmentarianism", 3),
    ("a-", 5_000),
    ("!", 1_000),
    ("世界", 5_000),
    ("a\u0301", 5_000),
    ("\u200b", 10_000),
    (" ", 100_000),
    ("\0", 1),
    ("nul\0in a word", 1),
    ("\ufffd", 1),
    ("replaced \ufffd character", 1),
    ("\u0301", 1),
    ("e\u0301\u0302\u0303", 1),
    ("I ❤️ 🍕", 1),
    ("👨\u200d👩\u200d👧", 1),
    ("🇩🇪", 1),
    ("שלום עולם", 1),
    ("مرحبا بالعالم", 1),
    ("\u202eabc\u202c", 1),
    ("नमस्ते दुनिया", 1),
    ("สวัสดีชาวโลก", 1),
    ("こんにちは世界", 1),
    ("안녕하세요", 1),
    ("豈更車", 1),
    ("ﬁ ﬂ ẞ İ ı Σας", 1),
    ("HÉLLO Wörld", 1),
    ("𝕳𝖊𝖑𝖑𝖔", 1),
    ("½ ² ① ㍿", 1),
    ("don't—won’t…«»", 1),
    ("https://example.org/?q=1&r=%20#x", 1),
    ("1,234,567.89 €", 1),
    ("[CLS] [SEP] [MASK] [PAD] [UNK]", 1),
    ("[mask] [MASK", 1),
    ("##ing ##ed", 1),
    ("line\u2028separator\u0085next\x1cfile", 1),
    ("private \ue000 use \U0010ffff", 1),
    ("  leading and trailing  ", 1),
    ("Sphinx of black quartz, judge my vow. ", 40),
]

model = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu")
lines = []
for piece, times in TEXTS:
    text = piece * times
    tokens = model.tokenize([text])
    with torch.inference_mode():
        vector = model.encode(text, batch_size=1)
    # An f32 has at most nine digits.
    values = [float(f"{value:.9g}") for value in vector[:VALUES].tolist()]
    row = {"piece": piece, "times": times, "tokens": int(tokens["attention_mask"].sum()), "vector": values}
    lines.append("  " + json.dumps(row))
made_by = {
    "sentence-transformers": sentence_transformers.__version__,
    "tokenizers": tokenizers.__version__,
    "torch": torch.__version__.split("+")[0],
}
print('{\n"made_by": ' + json.dumps(made_by) + ',\n"texts": [\n' + ",\n".join(lines) + "\n]\n}")
