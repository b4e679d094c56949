"""What people use for sentence embeddings today, measured as `cuda-green bench embed` measures ours; prints JSON.

    python3 peers_embed.py MODEL_DIR TEXTS_FILE [--quick]

MODEL_DIR is a sentence-transformers folder, TEXTS_FILE has a text a line. The peers are sentence-transformers in f16
with its best batch size, and PyTorch's forward pass of the same model as a CUDA graph over padded batches, sorted by
length as sentence-transformers sorts them, which has neither tokeniser nor Python in its time.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import warnings

warnings.filterwarnings("ignore")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"

FIRST = """
import sys, warnings
warnings.filterwarnings("ignore")
from sentence_transformers import SentenceTransformer
import torch
model = SentenceTransformer(sys.argv[1], device="cuda", model_kwargs={"torch_dtype": torch.float16})
model.encode(["A man is eating food."])
"""


def first_vector(folder):
    """Seconds from the start of a process to its first vector: the median of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", FIRST, folder], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def percentiles(times):
    times = sorted(times)
    return {"p50_us": times[len(times) // 2] * 1e6, "p99_us": times[int(len(times) * 0.99)] * 1e6}


def latencies(call, rounds):
    for _ in range(30):
        call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
        time.sleep(0.0005)
    return percentiles(times)


class Graphs:
    """The forward pass over padded batches as CUDA graphs, one for each shape."""

    def __init__(self, torch, model):
        self.torch, self.model, self.times = torch, model, {}
        self.inputs = []  # a graph does not keep what it reads
        self.stream = torch.cuda.Stream()

    def capture(self, rows, columns):
        torch = self.torch
        ids = torch.full((rows, columns), 1000, device="cuda")
        mask = torch.ones((rows, columns), device="cuda", dtype=torch.long)
        features = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        with torch.cuda.stream(self.stream), torch.inference_mode():
            for _ in range(3):
                self.model.forward(dict(features))
            self.stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream):
                self.model.forward(dict(features))
        self.stream.synchronize()
        self.inputs.append(features)
        return graph

    def replay(self, graph):
        with self.torch.cuda.stream(self.stream):
            graph.replay()
            self.stream.synchronize()

    def seconds(self, rows, columns):
        """Seconds of one replay, of many in a row."""
        if (rows, columns) not in self.times:
            graph, count = self.capture(rows, columns), 20
            with self.torch.cuda.stream(self.stream):
                graph.replay()
                self.stream.synchronize()
                start = time.perf_counter()
                for _ in range(count):
                    graph.replay()
                self.stream.synchronize()
            self.times[rows, columns] = (time.perf_counter() - start) / count
        return self.times[rows, columns]


def main():
    folder, texts_file = sys.argv[1:3]
    quick = "--quick" in sys.argv
    start_seconds = None if quick else first_vector(folder)
    import sentence_transformers
    import torch
    from sentence_transformers import SentenceTransformer

    with open(texts_file, encoding="utf-8") as lines:
        texts = [line.rstrip("\n") for line in lines][:100_000]
    model = SentenceTransformer(folder, device="cuda", model_kwargs={"torch_dtype": torch.float16}).eval()
    model.max_seq_length = 256
    part = texts[: 20_000 if quick else 50_000]
    batches = {}
    for size in (256, 1024, 4096):
        model.encode(part[:size], batch_size=size)
        torch.cuda.synchronize()
        start = time.perf_counter()
        model.encode(part, batch_size=size, show_progress_bar=False)
        batches[size] = len(part) / (time.perf_counter() - start)
    best = max(batches, key=batches.get)
    one = "a search for something that was said long ago by a man of words"
    rounds = 100 if quick else 400
    tokenised = model.tokenizer([one], return_tensors="pt")
    features = {key: value.cuda() for key, value in tokenised.items()}

    def forward():
        with torch.inference_mode():
            model.forward(dict(features))["sentence_embedding"]
            torch.cuda.synchronize()

    graphs = Graphs(torch, model)
    tokens = features["input_ids"].shape[1]
    graph = graphs.capture(1, tokens)
    result = {
        "device": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "sentence_transformers": sentence_transformers.__version__,
        "texts": len(part),
        "first_vector_s": start_seconds,
        "sentence_transformers_texts_per_s": batches,
        "sentence_transformers_best_batch": best,
        "one_text": {
            "tokens": tokens,
            "sentence_transformers": latencies(lambda: model.encode([one]), rounds),
            "forward": latencies(forward, rounds),
            "graph": latencies(lambda: graphs.replay(graph), rounds),
        },
    }
    lengths = [len(ids) for ids in model.tokenizer(texts, truncation=True, max_length=256)["input_ids"]]
    lengths.sort()
    padded = {}
    for size in (512, 2048, 4096):
        chunks = [lengths[at : at + size] for at in range(0, len(lengths) - size + 1, size)]
        seconds = sum(graphs.seconds(size, -(-max(chunk) // 4) * 4) for chunk in chunks)
        padded[size] = sum(map(sum, chunks)) / seconds
    result["padded_graph_tokens_per_s"] = padded
    result["mean_tokens"] = sum(lengths) / len(lengths)
    del graphs
    from transformers import BertConfig, BertModel

    base = {}
    bert = BertModel(BertConfig(), add_pooling_layer=False).half().eval().cuda()

    class Base:
        def forward(self, features):
            return bert(**features).last_hidden_state.mean(1)

    graphs = Graphs(torch, Base())
    for columns, rows in ((50, 512), (512, 64)):
        base[columns] = rows * columns / graphs.seconds(rows, columns)
    result["bert_base_padded_graph_tokens_per_s"] = base
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
