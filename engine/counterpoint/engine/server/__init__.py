"""HTTP: the page, WHIP, chat, sessions, predictions as they come. `app` is the ASGI application."""
