#!/usr/bin/env -S python3 -B
"""bellglass-echo, on which other tests rely: what it answers is what was sent, also when many send at
once. Prints TAP."""

import http.client
import os
import signal
import ssl
import subprocess
import sys
import threading

from harness import DEADLINE_S, Failure, Tap, temporary_folder

CLIENTS = 20
REQUESTS = 5
BODY = 300_000


def start(folder):
    process = subprocess.Popen([os.environ["BG_TEST_ECHO"], "--dir", folder], stdout=subprocess.PIPE,
                               text=True)
    words = dict(process.stdout.readline().split() for _ in range(3))
    return process, int(words["https"]), int(words["http"]), words["ca"]


def ask(connection, failures):
    try:
        for _ in range(REQUESTS):
            body = os.urandom(BODY)
            connection.request("POST", "/", body, {"Host": "echo.test"})
            response = connection.getresponse()
            if response.status != 200 or not response.read().endswith(b"\r\n\r\n" + body):
                raise Failure("the answer is not what was sent")
        connection.close()
    except (OSError, http.client.HTTPException, Failure) as e:
        failures.append(e)


def ask_at_once(connections):
    failures = []
    threads = [threading.Thread(target=ask, args=(c, failures)) for c in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise Failure(f"{len(failures)} of {len(threads)} failed, the first: {failures[0]!r}")


def main():
    tap = Tap()
    with temporary_folder() as folder:
        process, https, plain, ca = start(folder)
        context = ssl.create_default_context(cafile=ca)
        context.check_hostname = False  # it is for echo.test
        tap.check("many at once over TLS", lambda: ask_at_once(
            [http.client.HTTPSConnection("127.0.0.1", https, timeout=DEADLINE_S, context=context)
             for _ in range(CLIENTS)]))
        tap.check("many at once", lambda: ask_at_once(
            [http.client.HTTPConnection("127.0.0.1", plain, timeout=DEADLINE_S)
             for _ in range(CLIENTS)]))
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
