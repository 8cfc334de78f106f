"""websocket_client.py URL: the greeting has the header that the service got; then messages come back."""

import asyncio
import os
import sys

import websockets


async def main():
    token = os.environ["TOKEN"]
    headers = {"Authorization": "Bearer " + token}
    async with websockets.connect(sys.argv[1], extra_headers=headers) as connection:
        print(await connection.recv())
        for message in ("short", "x" * 200000, b"\0\1\2" * 1000, token):
            await connection.send(message)
            print(await connection.recv() == message)
        print(await (await connection.ping()) is not None)


asyncio.run(main())
