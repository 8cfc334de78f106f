"""events.py URL COUNT: each server-sent event is printed, and only then asked to be followed by the next."""

import os
import sys
import urllib.request


def main():
    url, count = sys.argv[1], int(sys.argv[2])
    request = urllib.request.Request(
        f"{url}/events/{count}", headers={"Authorization": "Bearer " + os.environ["TOKEN"]})
    seen = 0
    with urllib.request.urlopen(request) as events:
        for line in events:
            print(line.decode(), end="")
            if line == b"\n":
                seen += 1
                urllib.request.urlopen(f"{url}/next/{seen}").read()


main()
