"""A trained lattice behind HTTP: requests that arrive together share a forward, and none can harm another."""

try:
    import starlette as starlette
    import uvicorn as uvicorn
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"latticegnn.service needs starlette and uvicorn; {error.name} is not installed; "
        "pip install 'latticegnn[serve]'."
    ) from error

from latticegnn.service.app import Service as Service
from latticegnn.service.limits import Limits as Limits
from latticegnn.service.server import run as run
