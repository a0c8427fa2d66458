"""Credentials of a connection: the API key, and further headers for gateways with two keys.

Cloudflare AI Gateway, for one, demands `cf-aig-authorization` beside `Authorization`:
https://developers.cloudflare.com/ai-gateway/configuration/authentication/
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow_vace.exceptions import VaceInputError
from airflow_vace.redaction import excerpt

if TYPE_CHECKING:
    from collections.abc import Iterable

Headers = tuple[tuple[str, str], ...]

# The key is a header's value: a line break would start another header, and HTTP headers are ASCII.
_KEY = re.compile(r"[\x21-\x7e]+")
_AUTH_SCHEME = re.compile(r"(?:bearer|token|basic|api-?key|key)(?:\s+|:\s*)", re.IGNORECASE)
_QUOTES = "'\"`\u2018\u2019\u201c\u201d\xab\xbb"
# A line of a shell, a `.env` file or a request: `export REPLICATE_API_TOKEN=…`, `Authorization: …`.
_NAME_BEFORE_KEY = re.compile(
    r"(?:export\s+|set\s+)?(?:[A-Z][A-Z0-9_]*(?:TOKEN|KEY|SECRET)\s*=|(?:proxy-)?authorization\s*:|[\w-]*key\s*:)\s*",
    re.IGNORECASE,
)
# `$REPLICATE_API_TOKEN`, `{{ var.value.key }}`, `<your-key>`, `***`: nothing has put the key in their place.
_PLACEHOLDER = re.compile(r"\$\{?\w+\}?|\{\{.*\}\}|<[^<>]*>|[*.\u2022\u2026]+")
# Copied text may contain these beside ordinary blanks: zero-width characters and a byte order mark.
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
# RFC 9110, sections 5.1 and 5.5, without obsolete text.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
# The client sets these for each request, so another value would break the request.
_OWN_NAMES = frozenset(
    {
        *("host", "content-length", "content-type", "transfer-encoding", "connection", "keep-alive"),
        *("te", "trailer", "upgrade", "expect", "proxy-authorization", "proxy-connection"),
        *("accept", "accept-encoding", "range", "if-range", "cancel-after", "cache-control", "model"),
    }
)
_SECRET_NAME = re.compile(r"auth|(?<!port)key|token|secret|passw|cookie|credential|signature", re.IGNORECASE)
# Words, numbers and addresses, such as `replicate`, route requests. If hidden, they would vanish from logs
# and from the URLs in responses.
_PLAIN_VALUE = re.compile(r"[a-z-]{1,10}|\d{1,8}|https?://[^\s?#@]+", re.IGNORECASE)
# Shorter keys occur in ordinary words, so their removal would garble responses and messages.
_MIN_HIDDEN_KEY_LENGTH = 4
_MIN_HIDDEN_HEADER_LENGTH = 8


def read_key(password: str | None, headers: Headers, key_header: str) -> str:
    """Return the API key without the blanks and line ends of a paste; "" where the headers replace the key.

    :param headers: further headers of the connection
    :param key_header: name of the back-end's header with the key
    :raises VaceInputError: for an unusable key, never with the key; and for a second value of `key_header`
    """
    key = (password or "").strip().strip(INVISIBLE).strip()
    is_in_headers = any(name.lower() == key_header.lower() for name, _ in headers)
    if key and is_in_headers:
        remedy = f"remove {key_header!r}, or the password"
        raise unusable_headers(f"names {key_header!r}, which carries the password", remedy)
    if not key and headers:
        return ""
    remedy = "put the API key into the connection's password"
    problem = "has an API key with a blank, a line break or a character outside of ASCII inside: copy the key"
    problem += " again, and put it alone, in one line, into the password field"
    if not key:
        problem = "has no API key: put the key that the vendor gave you into the password field"
    elif key[0] in _QUOTES or key[-1] in _QUOTES:
        remedy = "remove the quotes around the API key"
        problem = "has an API key in quotes: remove the quotes around the key in the password field"
    elif _PLACEHOLDER.fullmatch(key):
        problem = "has a placeholder in place of the API key: put the key itself into the password field"
    elif _NAME_BEFORE_KEY.match(key):
        remedy = "remove the name before the API key"
        problem = "has an API key behind a name: put only the key into the password field, without a name,"
        problem += " without 'Bearer ' or another scheme"
    elif scheme := _AUTH_SCHEME.match(key):
        remedy = f"remove {scheme[0]!r} from the API key"
        problem = f"has an API key that begins with {scheme[0]!r}: put only the key into the password field,"
        problem += " without 'Bearer ' or another scheme"
    elif _KEY.fullmatch(key):
        return key
    raise VaceInputError(f"The connection {problem}.", field="password", remedy=remedy)


def check_headers(given: object) -> Headers:
    """Return the further headers of a connection, without blanks around names and values.

    :param given: an object of text
    :raises VaceInputError: for another type, and for names and values that HTTP forbids; never with a value
    """
    if not isinstance(given, Mapping):
        raise unusable_headers("is no object", 'give an object such as {"cf-aig-authorization": "Bearer …"}')
    found: dict[str, tuple[str, str]] = {}
    for name, value in given.items():
        shown = excerpt(repr(name), 80)
        if not isinstance(name, str) or not _NAME.fullmatch(name := name.strip()):
            raise unusable_headers(f"has the name {shown}, which no header may have", "correct the name")
        if name.lower() in _OWN_NAMES:
            raise unusable_headers(f"names {shown}, which each request sets itself", f"remove {shown}")
        if name.lower() in found:
            raise unusable_headers(f"names {shown} twice", "name each header once")
        # Numbers of users, such as `New-Api-User: 1`, are numbers in JSON too.
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(text, str) or not _VALUE.fullmatch(text := text.strip()):
            remedy = f"give one line of ASCII for {shown}"
            raise unusable_headers(f"has no usable value for {shown}: {remedy}", remedy)
        found[name.lower()] = (name, text)
    return tuple(found.values())


def unusable_headers(problem: str, remedy: str) -> VaceInputError:
    """Return the error for the connection's extra `headers`; no value is shown."""
    tail = "" if remedy in problem else f": {remedy}"
    return VaceInputError(
        f"The connection's extra 'headers' {problem}{tail}. Nothing was sent.",
        field="headers",
        value="***",
        remedy=remedy,
    )


def secrets_of(key: str, headers: Headers) -> tuple[str, ...]:
    """Return the key and the secret values of headers: each whole, and without `Bearer ` in front."""
    secrets = [key] if key else []
    for name, value in headers:
        if _SECRET_NAME.search(name) or not _PLAIN_VALUE.fullmatch(value):
            secrets += [value, _AUTH_SCHEME.sub("", value, count=1)]
    return tuple(dict.fromkeys(secret for secret in secrets if secret))


def account_key_of(key: str, headers: Headers) -> str:
    """Return the key of the account: the API key alone, since a gateway's second key may change."""
    return key or "\n".join(f"{name.lower()}: {value}" for name, value in headers)


def hidden_forms(key: str, headers: Headers) -> tuple[str, ...]:
    """Return all spellings of the secrets in responses, the longest first; short secrets have none."""
    found = list(_spellings_of(key)) if len(key) >= _MIN_HIDDEN_KEY_LENGTH else []
    for secret in secrets_of("", headers):
        if len(secret) >= _MIN_HIDDEN_HEADER_LENGTH and not _PLAIN_VALUE.fullmatch(secret):
            found += _spellings_of(secret)
    return tuple(sorted(dict.fromkeys(found), key=len, reverse=True))


def _spellings_of(key: str) -> Iterable[str]:
    in_json = json.dumps(key)[1:-1]
    # Some JSON encoders escape slashes.
    return key, in_json, in_json.replace("/", "\\/"), quote(key, safe=""), quote(key)
