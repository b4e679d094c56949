"""Embeds the texts of a Parquet file through several servers with Ray Data, and counts what it wrote.

    pip install "ray[data]"
    cuda-green-embed serve --model all-MiniLM-L6-v2 --bind 127.0.0.1:8081
    cuda-green-embed serve --model all-MiniLM-L6-v2 --bind 127.0.0.1:8082
    python3 ray_data.py texts.parquet vectors/ http://127.0.0.1:8081 http://127.0.0.1:8082

The input has the columns `id`, which is unique, and `text`; the output has `vector` too. A batch goes to one server after
another until one answers, so servers may come and go. It is written once it is whole: Ray does a batch again if its
process is lost, and a vector depends on its text alone, so no row is lost or doubled. At the end both files are compared.
"""

import argparse
import base64
import http.client
import itertools
import json
import os
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pyarrow.parquet as parquet
import ray


class Embed:
    """Gives the rows of a batch their vectors. Each process has one."""

    def __init__(self, servers, patience):
        # Processes begin with different servers.
        start = os.getpid() % len(servers)
        self.servers = itertools.cycle(servers[start:] + servers[:start])
        self.server = next(self.servers)
        self.patience = patience

    def __call__(self, rows):
        rows["vector"] = self.vectors([str(text) for text in rows["text"]])
        return rows

    def vectors(self, texts):
        body = json.dumps({"input": texts, "encoding_format": "base64"}).encode()
        end = time.monotonic() + self.patience
        while True:
            try:
                # Bulk work, however few texts a batch has.
                request = urllib.request.Request(
                    f"{self.server}/bulk/v1/embeddings", body, {"Content-Type": "application/json"}
                )
                with urllib.request.urlopen(request, timeout=60) as answer:
                    data = json.load(answer)["data"]
                return [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in data]
            except urllib.error.HTTPError as error:
                # A request that is wrong is wrong everywhere; 408, 429 and those of 500 are worth another try.
                if error.code < 500 and error.code not in (408, 429):
                    raise RuntimeError(f"{self.server}: {error.code}: {error.read().decode()}") from error
                failure = error
            # A server that is gone, or whose answer ended early.
            except (OSError, ValueError, http.client.HTTPException) as error:
                failure = error
            if time.monotonic() > end:
                raise RuntimeError(f"no server answered within {self.patience} s: {failure}")
            before, self.server = self.server, next(self.servers)
            print(f"{before} failed ({failure!r}); trying {self.server}", file=sys.stderr, flush=True)
            time.sleep(0.2)


def compare(source, output):
    """Ensures that the output has each id of the source once, with a vector."""
    expected = parquet.read_table(source, columns=["id"])["id"].to_pylist()
    written = parquet.read_table(output, columns=["id", "vector"])
    found = written["id"].to_pylist()
    lost = set(expected) - set(found)
    doubled = len(found) - len(set(found))
    lengths = {len(vector) for vector in written["vector"].to_pylist()}
    print(f"{len(found)} rows of {len(expected)}: {len(lost)} lost, {doubled} doubled, vectors of {lengths} values")
    return len(found) == len(expected) and not lost and not doubled and len(lengths) == 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a Parquet file with the columns id and text")
    parser.add_argument("output", help="a folder that is not there yet")
    parser.add_argument("servers", nargs="+", help="http://host:port")
    parser.add_argument("--batch", type=int, default=256, help="texts in a request")
    parser.add_argument("--processes", type=int, default=4, help="requests at a time")
    parser.add_argument("--patience", type=float, default=300, help="seconds for which a batch is tried again")
    given = parser.parse_args()
    if os.path.exists(given.output):
        parser.error(f"{given.output} is there already")
    rows = ray.data.read_parquet(given.source)
    rows = rows.map_batches(
        Embed,
        fn_constructor_args=(given.servers, given.patience),
        batch_size=given.batch,
        compute=ray.data.ActorPoolStrategy(size=given.processes),
        num_cpus=0.25,  # it waits most of the time
    )
    rows.write_parquet(given.output)
    sys.exit(0 if compare(given.source, given.output) else 1)


if __name__ == "__main__":
    main()
