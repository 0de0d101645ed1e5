"""The pages' application, made at its first request: every process of Airflow loads the plugin, and one serves pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI


class Pages:
    """An ASGI application that imports the real one when it is first called."""

    def __init__(self) -> None:
        self._app: FastAPI | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if self._app is None:
            from esteira.web.app import application

            self._app = application()
        await self._app(scope, receive, send)
