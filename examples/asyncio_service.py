"""A web service of your own that uses the model: it returns an image's most probable labels.

It needs FastAPI and uvicorn (the extra `gateway` installs them) and a model server:

    MODEL_SERVER=localhost:8500 MODEL=clothing uvicorn --app-dir examples asyncio_service:app
    curl --data-binary @shirt.jpg localhost:8000/tags
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request

from serving_client import AsyncClient, ImageError, ServingError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open one client when the service starts; all requests share its connection."""
    async with AsyncClient(os.environ["MODEL_SERVER"], model=os.environ["MODEL"], timeout_s=5) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/tags")
async def tags(request: Request) -> list[str]:
    """Return the labels with a probability of at least 0.2."""
    client: AsyncClient = request.app.state.client
    try:
        (prediction,) = await client.classify([await request.body()], top_k=5)
    except ImageError as error:
        raise HTTPException(400, str(error)) from error
    except ServingError as error:
        raise HTTPException(503, str(error)) from error
    return [score.label for score in prediction.scores if score.probability >= 0.2]
