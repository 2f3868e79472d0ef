"""Who may call our routes: whoever the WebUI itself lets in."""

from __future__ import annotations

import base64
import binascii
from hmac import compare_digest

from fastapi import HTTPException, Request
from modules import shared


def guard(request: Request) -> None:
    """A FastAPI dependency. Routes added by extensions are not covered by `--api-auth` nor by `--gradio-auth`.

    Passes when neither is set, for a browser that is logged in, and for the API's user and password.
    Raises 401 otherwise.
    """
    api = _pairs(shared.cmd_opts.api_auth)
    page = getattr(request.app, "auth", None)
    if not api and page is None:
        return
    cookies = [request.cookies.get(name) for name in ("access-token", "access-token-unsecure")]
    if page is not None and any(cookie and cookie in request.app.tokens for cookie in cookies):
        return
    user, password = _credentials(request)
    if user in api and compare_digest(password.encode(), api[user].encode()):
        return
    raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})


def _pairs(text: str | None) -> dict[str, str]:
    return dict(pair.split(":", 1) for pair in (text or "").split(",") if ":" in pair)


def _credentials(request: Request) -> tuple[str, str]:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password
