"""A server of tokens as distribution's token authentication wants them: JSON Web Tokens, RS256.

Made of Python's standard library and the `openssl` program, which makes the key and signs.
"""

import base64
import http.server
import secrets
import subprocess
import threading
import time
import urllib.parse

import parts
from layout import to_json
from process import run

ISSUER = "token-server-of-a-test"
SERVICE = "registry-of-a-test"
LIFETIME_SECONDS = 300
# Signing is quick; a machine with two cores is not always.
SIGN_SECONDS = 30


class TokenServer:
    """One server; `grants` says of each user's name what it may do, with `(password, actions)`."""

    def __init__(self, folder, port, grants):
        # By another name than the registry's: so whoever follows must have been told that it may.
        self.host = f"localhost:{port}"
        self.certificate = folder / "token.crt"
        # Who was given a token, and for what.
        self.given = []
        self._address = ("127.0.0.1", port)
        self._grants = grants
        self._key = folder / "token.key"
        self._server = self._thread = None
        run(parts.path("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=tokens", "-keyout", self._key, "-out", self.certificate)
        pem = self.certificate.read_text(encoding="ascii").splitlines()
        self._header = {"alg": "RS256", "typ": "JWT", "x5c": ["".join(pem[1:-1])]}

    @property
    def realm(self):
        """Where tokens are asked for."""
        return f"http://{self.host}/token"

    def settings(self):
        """The `auth` part of distribution's configuration."""
        return {"token": {
            "realm": self.realm, "service": SERVICE, "issuer": ISSUER,
            "rootcertbundle": str(self.certificate)}}

    def start(self):
        """Begins to serve."""
        assert self._server is None, "the token server is running"
        self._server = http.server.ThreadingHTTPServer(self._address, self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def stop(self):
        """Serves no more."""
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = self._thread = None

    def user_of(self, authorization):
        """Whose name and password a header holds; None without one, an error if they are wrong."""
        if not authorization:
            return None
        kind, _, encoded = authorization.partition(" ")
        user, _, password = base64.b64decode(encoded).decode().partition(":")
        if kind != "Basic" or self._grants.get(user, (None, ()))[0] != password:
            raise PermissionError(user)
        return user

    def token(self, user, scopes):
        """A token for those of the scopes that the user may have; nobody may have anything."""
        allowed = self._grants[user][1] if user else ()
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            granted = [action for action in actions.split(",") if action in allowed]
            access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time())
        claims = {
            "iss": ISSUER, "sub": user or "", "aud": SERVICE, "iat": now, "nbf": now - 10,
            "exp": now + LIFETIME_SECONDS, "jti": secrets.token_hex(8), "access": access}
        self.given.append((user, tuple(scopes)))
        signed = b".".join(_encode(to_json(part)) for part in (self._header, claims))
        command = [parts.path("openssl"), "dgst", "-sha256", "-sign", str(self._key)]
        signature = subprocess.run(
            command, input=signed, capture_output=True, check=True, timeout=SIGN_SECONDS).stdout
        return (signed + b"." + _encode(signature)).decode()

    def _handler(self):
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            """One connection."""

            protocol_version = "HTTP/1.1"

            def do_GET(self):
                """Gives a token, or 401 for a wrong password."""
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                try:
                    user = server.user_of(self.headers["Authorization"])
                except PermissionError:
                    self._answer(401, {"details": "wrong name or password"})
                    return
                scopes = " ".join(query.get("scope", [])).split()
                token = server.token(user, scopes)
                self._answer(200, {"token": token, "expires_in": LIFETIME_SECONDS})

            def log_message(self, *_):
                """Says nothing: `given` has what the tests ask for."""

            def _answer(self, status, value):
                body = to_json(value)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler


def _encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")
