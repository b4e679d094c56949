"""Vectors of sentence-transformers in f32 for ordinary and hostile texts; prints JSON, which is committed as
`cuda-green-embed/tests/data/golden.json`.

    python3 golden_embed.py MODEL_DIR
"""

import json
import os
import sys
import warnings

warnings.filterwarnings("ignore")
os.environ["HF_HUB_OFFLINE"] = "1"

# A text is its part, so many times.
TEXTS = [
    ("A man is eating food.", 1),
    ("The new movie is awesome, and the cat plays in the garden.", 1),
    ("", 1),
    (" ", 1),
    (" \t\r\n\u00a0\u3000", 1),
    ("word ", 10_000),
    ("every word here counts, ", 60),
    ("x", 1),
    ("x", 99),
    ("x", 100),
    ("x", 101),
    ("pneumono", 2_000),
    ("\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 emoji \U0001f1e9\U0001f1ea", 1),
    ("\u0645\u0631\u062d\u0628\u0627 \u0628\u0643 \u05e9\u05dc\u05d5\u05dd", 1),
    ("a\u0000b \u0000 c", 1),
    ("\ufffd\ufffe\u0007control\u007f", 1),
    ("[CLS] [SEP] [PAD] [MASK] [UNK] ##ing", 1),
    ("\u4f60\u597d\uff0c\u4e16\u754c \ud55c\uad6d\uc5b4 \u3053\u3093\u306b\u3061\u306f", 1),
    ("Caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m \u1e9e \u0130", 1),
    ("zero\u200bwidth\u200cjoin\u00adsoft\ufeff", 1),
    ("...!?;:'\"()[]{}<>@#$%^&*_-+=/\\|~`", 1),
    ("3.14159 1e-9 0xff 2026-11-28T16:35:42Z", 1),
    ("https://example.org/a?b=c&d=%20#e mail@example.org", 1),
    ("THE SAME IN CAPITALS", 1),
]


def main():
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer, __version__

    torch.backends.cuda.matmul.allow_tf32 = False
    model = SentenceTransformer(sys.argv[1], device="cuda", model_kwargs={"torch_dtype": torch.float32})
    model.max_seq_length = 256
    made = {
        "sentence_transformers": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(0),
        "max_seq_length": model.max_seq_length,
        "texts": [],
    }
    for part, times in TEXTS:
        vector = model.encode([part * times])[0]
        ids = model.tokenizer(part * times, truncation=True, max_length=256)["input_ids"]
        made["texts"].append(
            {"part": part, "times": times, "tokens": len(ids), "vector": [round(float(v), 7) for v in vector]}
        )
    json.dump(made, sys.stdout)
    print()


if __name__ == "__main__":
    main()
