"""A real HTTP server that speaks protocol.py from a script: what the true service does seldom, on demand."""

import json
import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ScriptedService:
    """Hands out `grants` in order, remembers what it is told, stops and refuses leases as set."""

    def __init__(self, grants, port=0):
        self.grants = list(grants)
        self.events = defaultdict(dict)
        """lease → seq → event"""
        self.deliveries = defaultdict(int)
        self.goodbyes = []
        self.hellos = []
        self.stop_on = {}
        """lease → kind of event upon which the receipt says stop"""
        self.refused = set()
        self.away = False
        """Whether to answer 503 to everything."""
        self.closed = False
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                if service.closed:  # a kept-alive connection outlives the listening socket
                    self.close_connection = True
                    return
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"null")
                status, answer = service.answer(self.path, body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.lock = threading.Lock()
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.closed = True
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path, body):
        with self.lock:
            if self.away:
                return 503, {"detail": "starting"}
            if path == "/api/v1/workers":
                self.hellos.append(body)
                return 200, {"heartbeat_seconds": 0.3, "lease_seconds": 60}
            if path.endswith("/lease"):
                if self.grants:
                    return 200, {"grant": self.grants.pop(0), "no_work": None}
                done = {"reason": "complete", "message": "all told", "retry_seconds": 0.05}
                return 200, {"grant": None, "no_work": done}
            if path.endswith("/goodbye"):
                self.goodbyes.append(body["reason"])
                return 200, {"message": "farewell"}
            return self.store(int(re.search(r"/leases/(\d+)/events", path).group(1)), body["events"])

    def store(self, lease, numbered):
        self.deliveries[lease] += 1
        if lease in self.refused:
            return 409, {"detail": "the lease has ended"}
        stored = self.events[lease]
        for item in numbered:
            assert stored.get(item["seq"], item["event"]) == item["event"], "one number, two events"
            stored[item["seq"]] = item["event"]
        told = {event["event"] for event in stored.values()}
        command = "stop" if self.stop_on.get(lease) in told else "continue"
        return 200, {"through": max(stored, default=-1), "command": command, "reason": "pruned"}

    def kinds(self, lease):
        return [self.events[lease][seq]["event"] for seq in sorted(self.events[lease])]

    def last(self, lease):
        return self.events[lease][max(self.events[lease])]
