"""A server of one model as people write it with FastAPI and torch: decode, normalize, ask, answer.

    python -m tests.bench.plain_server FOLDER PORT

FOLDER holds a saved classifier of ours, of which the network, the statistics and the class names are taken.
"""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image

from imgrec.classifier import Classifier

classifier = Classifier.load(Path(sys.argv[1]))
model, card = classifier.model, classifier.card
height, width, channels = card.image_shape
mean = torch.tensor(card.statistics.mean).view(-1, 1, 1)
std = torch.tensor(card.statistics.std).view(-1, 1, 1)
app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    """The body is a picture."""
    image = Image.open(io.BytesIO(await request.body()))
    pixels = np.array(image.convert("L" if channels == 1 else "RGB").resize((width, height)))
    images = torch.from_numpy(pixels.reshape(height, width, channels)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        (shares,) = torch.softmax(model((images / 255 - mean) / std), dim=1).tolist()
    best = max(range(len(shares)), key=shares.__getitem__)
    return {
        "label": card.class_names[best],
        "probability": shares[best],
        "probabilities": dict(zip(card.class_names, shares, strict=True)),
    }


uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
