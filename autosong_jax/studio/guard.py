"""What stands before every request: who may ask, from which page, and what browsers may do with answers.

A page of any site can have the browser of whoever visits it send requests to this machine. So the Host must be this
server's (or a site could point its own name here and read the answers: DNS rebinding), the Origin, where there is one,
its own, and whatever changes something needs the header `X-Studio`, which a form cannot send and a script only where a
server allows it, as this one never does.
"""

import hmac
import ipaddress
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Studio"
COOKIE = "studio"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SAFE = ("GET", "HEAD", "OPTIONS")
_ANSWERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """An ASGI application behind its guard.

    Args:
      app: what is guarded.
      names: that the server may be called by in Host, beside `LOOPBACK`.
      token: without which nobody may ask; None for whoever reaches the server. With one, it may be called by any IP
        address, which no site can point elsewhere.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = (), token: str | None = None):
        self._app, self._names, self._token = app, {name.lower() for name in (*LOOPBACK, *names)}, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _ANSWERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, answer)

    def _refusal(self, scope: Scope):
        """What is answered in place of the application; None where it may answer."""
        headers, safe = Headers(scope=scope), scope["method"] in _SAFE
        host = headers.get("host", "")
        if not self._is_ours(host):
            return _refuse(403, f"Host {host[:100]!r}: expected the address that the studio was started with; another "
                           "name is let in by --allowed_host")
        origin = headers.get("origin")
        if origin is not None and _place(origin) != host.lower():
            return _refuse(403, f"Origin {origin[:100]!r}: only the studio's own page may ask")
        if headers.get("sec-fetch-site") == "cross-site" and scope["path"] != "/":
            return _refuse(403, "only the studio's own page may ask, not another site's")
        if self._token is not None and (refusal := self._without_token(scope, headers)):
            return refusal
        if not safe and HEADER not in headers:
            return _refuse(403, f"{scope['method']} needs the header {HEADER}: 1, which shows that no page of another "
                           "site sent it")
        return None

    def _is_ours(self, host: str) -> bool:
        name = _name(host)
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._token is not None

    def _without_token(self, scope: Scope, headers: Headers):
        """The answer to those who do not show the token, or show it in the address of the page, for their browser."""
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        if (self._is_token(shown) and scheme.lower() == "bearer") or (cookie and self._is_token(cookie.value)):
            return None
        if scope["path"] == "/" and self._is_token(QueryParams(scope["query_string"]).get("token", "")):
            response = RedirectResponse("/", 303)
            response.set_cookie(COOKIE, self._token, max_age=30 * 86400, httponly=True, samesite="strict")
            return response
        how = "open the address that the studio printed when it started, or send the header Authorization: Bearer TOKEN"
        if scope["path"] == "/":
            return PlainTextResponse(f"The studio needs its token: {how}.\n", 401)
        return _refuse(401, f"the token is missing or wrong: {how}")

    def _is_token(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode("utf-8", "replace"), self._token.encode())


def _name(host: str) -> str:
    """The name in a Host header, without its port; "" where there is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _place(origin: str) -> str:
    """The name and port in an Origin header; "" where there is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _refuse(status: int, error: str) -> JSONResponse:
    return JSONResponse({"error": error}, status)
