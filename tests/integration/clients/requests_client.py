"""requests_client.py URL: requests with a session, a login, a file; then urllib."""

import hashlib
import os
import sys
import urllib.request

import requests


def main():
    url, token = sys.argv[1], os.environ["TOKEN"]
    with requests.Session() as session:
        session.headers["Authorization"] = "Bearer " + token
        answer = session.get(url + "/echo", params={"a": "b c"})
        print(answer.status_code, answer.headers["x-authorization"])
        body = os.urandom(3000000)
        answer = session.post(url + "/sum", data=iter([body[:1000], body[1000:]]))
        print(answer.text == f"{len(body)} {hashlib.sha256(body).hexdigest()}\n")
    answer = requests.get(url + "/echo", auth=("user", token))
    print(answer.status_code, token in answer.text and "authorization: Basic " in answer.text)
    request = urllib.request.Request(url + "/echo", headers={"X-Key": token})
    with urllib.request.urlopen(request) as answer:
        print(answer.status, f"x-key: {token}" in answer.read().decode())


main()
