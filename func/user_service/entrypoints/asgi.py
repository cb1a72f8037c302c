"""The application for any ASGI server: `uvicorn user_service.entrypoints.asgi:app`."""

from user_service.app import create_app

app = create_app()
