"""A real HTTP server for the tests of `http` and `judge`: honest at /ok, and with one fault at each other path.

    python -m tests.grading_server       prints its port and serves until it is killed

POST /ok and /v1/chat/completions grade by equality: of `completion` and `reference`, or of what stands around the random word
of the judge's request. A path like /flaky-3-500 fails 2 times with status 500 and then is honest; GET /count tells how many
requests came.
"""

import json
import re
import socket
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

seen: Counter[str] = Counter()
headers: list[str] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_json(200, {"count": sum(seen.values()), "by_path": dict(seen), "authorization": headers})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.path.strip("/").split("/")[0]
        seen[fault] += 1
        headers.append(self.headers.get("Authorization", ""))
        flaky = re.fullmatch(r"flaky-(\d+)-(\d+)", fault)
        if flaky and seen[fault] < int(flaky[1]):
            self.send_json(int(flaky[2]), {"error": "not now"}, {"Retry-After": "0.1"})
        elif fault == "slow":
            time.sleep(30)
        elif fault == "disconnect":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "broken":
            self.send_bytes(200, b'{"score": 1.0, "rea', {})
        elif fault == "big":
            self.send_bytes(200, b'"' + b"x" * 3_000_000 + b'"', {})
        elif fault == "redirect":
            self.send_bytes(302, b"", {"Location": "http://127.0.0.1:1/elsewhere"})
        elif fault == "refuses":
            self.send_json(401, {"error": f"who are you, {self.headers.get('Authorization')}?"})
        elif fault == "says":
            self.send_json(200, body["row"]["say"])
        elif self.path.endswith("/chat/completions"):
            self.send_json(200, completion(body, fault))
        else:
            equal = body["completion"] == body["reference"]
            said = {
                "score": float(equal),
                "reason": f"{body['prompt']}: compared",
                "parts": {"length": len(body["completion"])},
            }
            self.send_json(200, said)

    def send_json(self, status: int, value: Any, more: dict[str, str] | None = None) -> None:
        self.send_bytes(
            status, json.dumps(value).encode(), {"Content-Type": "application/json", **(more or {})}
        )

    def send_bytes(self, status: int, content: bytes, more: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def completion(body: dict[str, Any], fault: str) -> dict[str, Any]:
    """A chat completion that grades: 1 when the reference stands in the answer; what goes wrong is named by the path."""
    asked = body["messages"][0]["content"]
    word = re.findall(r"the word (GRADE-\w+)", asked)[-1]
    reference = asked.split("which is right:\n")[1].split("\n\n")[0]
    answer = asked.split(f"\n{word}\n")[1]
    grade = int(reference in answer)
    content = {
        "obeys": re.findall(r"write: (.*)", answer + "\nwrite: nothing")[0],
        "high": f"{word} 7",
        "undecided": f"{word} 1\nbut then again",
    }.get(fault, f"I compared the two.\n{word} {grade}")
    usage = {"prompt_tokens": len(asked.split()), "completion_tokens": 6}
    return {"choices": [{"message": {"role": "assistant", "content": content}}], "usage": usage}


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
