"""OpenAI's and Hugging Face's clients, as their users write them, against a server of all-MiniLM-L6-v2."""

import asyncio
import math
import sys
import threading

from huggingface_hub import AsyncInferenceClient, InferenceClient
from openai import APIStatusError, AsyncOpenAI, NotFoundError, OpenAI, UnprocessableEntityError

url = sys.argv[1]
texts = ["A man is eating food.", "The girl is carrying a baby.", "A man is eating a piece of bread."]


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


openai = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
# The client asks for base64 unless it is told otherwise.
answer = openai.embeddings.create(model="text-embedding-3-small", input=texts)
assert [one.index for one in answer.data] == [0, 1, 2]
assert all(len(one.embedding) == 384 for one in answer.data)
assert answer.usage.prompt_tokens == answer.usage.total_tokens == 8 + 9 + 11, answer.usage
first = [one.embedding for one in answer.data]
assert cosine(first[0], first[2]) > 0.7 > 0.3 > cosine(first[0], first[1])

floats = openai.embeddings.create(model="any", input=texts, encoding_format="float")
assert all(cosine(one.embedding, other) > 0.99999 for one, other in zip(floats.data, first))
single = openai.embeddings.create(model="any", input=texts[0])
assert cosine(single.data[0].embedding, first[0]) > 0.999
tokens = [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]
for given in (tokens, [tokens]):
    by_tokens = openai.embeddings.create(model="any", input=given)
    assert cosine(by_tokens.data[0].embedding, first[0]) > 0.999
short = openai.embeddings.create(model="any", input=texts[0], dimensions=64).data[0].embedding
assert len(short) == 64 and cosine(short, first[0][:64]) > 0.999
assert abs(sum(value * value for value in short) - 1) < 1e-4
bulk = openai.embeddings.create(model="any", input=texts, extra_body={"lane": "bulk"}, user="someone")
assert all(cosine(one.embedding, other) > 0.999 for one, other in zip(bulk.data, first))
by_path = OpenAI(base_url=f"{url}/bulk/v1", api_key="none").embeddings.create(model="any", input=texts)
assert len(by_path.data) == 3

[model] = openai.models.list().data
assert openai.models.retrieve(model.id) == model and answer.model == model.id

for wrong, kind, status in (
    ({"input": "word " * 5000}, APIStatusError, 413),
    ({"input": [""] * 3000}, APIStatusError, 413),
    ({"input": texts[0], "dimensions": 4000}, UnprocessableEntityError, 422),
    ({"input": [[30522]]}, UnprocessableEntityError, 422),
):
    try:
        openai.embeddings.create(model="any", **wrong)
        raise AssertionError(f"{status} was expected")
    except kind as error:
        assert error.status_code == status and error.body["message"], error
try:
    openai.get("/nothing", cast_to=object)
    raise AssertionError("404 was expected")
except NotFoundError:
    pass

client = InferenceClient(url)
vectors = client.feature_extraction(texts)
assert vectors.shape == (3, 384) and vectors.dtype == "float32"
assert all(cosine(one, other) > 0.999 for one, other in zip(vectors.tolist(), first))
cut = client.feature_extraction("word " * 5000, normalize=True, truncate=True, truncation_direction="right")
assert cut.shape == (1, 384)


async def at_once():
    openai = AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    hugging_face = AsyncInferenceClient(url)
    asked = [openai.embeddings.create(model="any", input=texts[n % 3]) for n in range(24)]
    asked += [hugging_face.feature_extraction(texts[n % 3]) for n in range(24)]
    answers = await asyncio.gather(*asked)
    for n, answer in enumerate(answers[:24]):
        assert cosine(answer.data[0].embedding, first[n % 3]) > 0.999
    for n, answer in enumerate(answers[24:]):
        assert cosine(answer[0].tolist(), first[n % 3]) > 0.999


asyncio.run(at_once())

# Threads that share a client, as a service's do.
failed = []


def ask(n):
    vector = openai.embeddings.create(model="any", input=texts[n % 3]).data[0].embedding
    if cosine(vector, first[n % 3]) < 0.999:
        failed.append(n)


threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed
print("went well")
