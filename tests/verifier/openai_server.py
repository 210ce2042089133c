"""An OpenAI-compatible server before a vision-language model: real HTTP, and the model's own log-probabilities.

It does by itself what vLLM does: renders the conversation, decodes the image from its data URL, runs the model and
lists the likeliest tokens, or writes them. `faults` makes it fail.
"""

import base64
import io
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.concurrency import run_in_threadpool

from assay.vision_language.vision_language_model import VisionLanguageModel


class OpenAiServer:
    """The server.

    Args:
        vlm: what answers.
        name: under which the model is served.
    """

    def __init__(self, vlm: VisionLanguageModel, name: str = "tiny") -> None:
        self._vlm = vlm
        self._lock = threading.Lock()
        self.name = name
        self.list_at_most: int | None = None
        #: requests seen, as (headers, body).
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        #: taken one a request, before the model is asked: a status, or a function of the proper answer.
        self.faults: deque[Any] = deque()
        self.in_flight = self.most_in_flight = 0
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self._complete)
        self.base_url = ""

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append((dict(request.headers), body))
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, Response):
            return fault
        # In a thread, as a server's engine is; the loop goes on taking requests.
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            answer = await run_in_threadpool(self._answer, body)
            return fault(answer) if fault is not None else JSONResponse(answer)
        finally:
            self.in_flight -= 1

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        images, messages = [], []
        for message in body["messages"]:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            shown = []
            for part in parts:
                if part["type"] == "image_url":
                    data = part["image_url"]["url"].removeprefix("data:image/png;base64,")
                    images.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
                    shown.append({"type": "image"})
                else:
                    shown.append(part)
            messages.append({"role": message["role"], "content": shown})
        assert images
        with self._lock, torch.inference_mode():
            text = self._vlm.processor.apply_chat_template(messages, add_generation_prompt=True)
            inputs = self._vlm.inputs([text], [images])
            choice = self._listed(inputs, body) if body.get("logprobs") else self._written(inputs, body)
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": self.name,
            "choices": [{"index": 0, **choice}],
        }

    def _listed(self, inputs: dict[str, torch.Tensor], body: dict[str, Any]) -> dict[str, Any]:
        """One token, and the likeliest ones at its place."""
        assert body["max_tokens"] == 1
        logits = self._vlm.model(**inputs).logits[0, -1]
        logprobs, ids = torch.log_softmax(logits, -1).sort(descending=True)
        count = self.list_at_most or body["top_logprobs"]
        listed = [
            {"token": self._vlm.tokenizer.decode([token]), "logprob": logprob, "bytes": None}
            for token, logprob in zip(ids[:count].tolist(), logprobs[:count].tolist(), strict=True)
        ]
        return {
            "message": {"role": "assistant", "content": listed[0]["token"]},
            "logprobs": {"content": [{**listed[0], "top_logprobs": listed}]},
            "finish_reason": "length",
        }

    def _written(self, inputs: dict[str, torch.Tensor], body: dict[str, Any]) -> dict[str, Any]:
        """The likeliest token next, time and again, by this loop's own arithmetic."""
        assert body["temperature"] == 0.0
        said: list[int] = []
        for _ in range(body["max_tokens"]):
            logits = self._vlm.model(**inputs).logits[0, -1]
            said.append(int(logits.argmax()))
            if said[-1] == self._vlm.tokenizer.eos_token_id:
                said.pop()
                break
            further = torch.tensor([[said[-1]]])
            inputs["input_ids"] = torch.cat([inputs["input_ids"], further], dim=1)
            inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(further)], dim=1)
        return {
            "message": {"role": "assistant", "content": self._vlm.tokenizer.decode(said)},
            "logprobs": None,
            "finish_reason": "stop",
        }


@contextmanager
def running(server: OpenAiServer) -> Iterator[OpenAiServer]:
    """Serve on a free port of the loopback until the `with` ends."""
    runner = uvicorn.Server(uvicorn.Config(server.app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not runner.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    port = runner.servers[0].sockets[0].getsockname()[1]
    server.base_url = f"http://127.0.0.1:{port}/v1"
    try:
        yield server
    finally:
        runner.should_exit = True
        thread.join(timeout=10)
