"""The HTTP client in a client pod: `python -m lockgate.agent.demo.client`.

Reads one request a line on standard input (`{"url": "http://10.200.0.3:80/x", "method": "GET", "timeout": 1.0}`) and
writes what happened a line on standard output: `{"outcome": "answered", "status": 200, "body": "..."}`, or outcome
`dropped` (no answer within the time), `refused`, or `closed` (the connection ended without an answer).
"""

from __future__ import annotations

import http.client
import json
import sys
from typing import Any
from urllib.parse import urlsplit


def request(url: str, method: str, timeout: float, headers: dict[str, str]) -> dict[str, Any]:
    """One request on a connection of its own; `timeout` in seconds."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout)
    try:
        connection.connect()
    except TimeoutError:
        return {"outcome": "dropped"}
    except OSError as error:
        return {"outcome": "refused", "error": str(error)}
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request(method, target, headers=headers)
        answer = connection.getresponse()
        body = answer.read().decode("utf-8", errors="replace")
        return {"outcome": "answered", "status": answer.status, "body": body}
    except TimeoutError:
        return {"outcome": "dropped"}
    except (OSError, http.client.HTTPException) as error:
        return {"outcome": "closed", "error": str(error)}
    finally:
        connection.close()


def main() -> None:
    """Answer lines until standard input ends."""
    for line in sys.stdin:
        wanted = json.loads(line)
        result = request(
            wanted["url"], wanted.get("method", "GET"), float(wanted.get("timeout", 1.0)), wanted.get("headers", {})
        )
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
