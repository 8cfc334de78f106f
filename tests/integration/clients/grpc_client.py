"""grpc_client.py HOST:PORT: a call, one that fails, and a conversation, each with a token."""

import os
import queue
import sys

import grpc


def trailers(call):
    """Without what the proxy says of an answer that is empty."""
    return {m.key: m.value for m in call.trailing_metadata() if m.key != "content-length"}


def main():
    metadata = (("authorization", "Bearer " + os.environ["TOKEN"]),)
    with grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials()) as channel:
        answer, call = channel.unary_unary("/echo.Echo/One").with_call(b"hello", metadata=metadata)
        print(answer.decode(), call.code(), trailers(call))  # a placeholder of the secret's size
        big = os.urandom(1000000)
        answer = channel.unary_unary("/echo.Echo/One")(big, metadata=metadata)
        print(answer.endswith(b" " + big))
        try:
            channel.unary_unary("/echo.Echo/Fail")(b"", metadata=metadata)
        except grpc.RpcError as error:
            print(error.code(), error.details(), trailers(error))
        # One answer for each message, before the next one goes, though "o" is the beginning of the secret by
        # rot13.
        messages = queue.Queue()
        conversation = channel.stream_stream("/echo.Echo/Chat")(iter(messages.get, None),
                                                                metadata=metadata)
        for text in (b"one", b"two", b"three"):
            messages.put(text)
            print(next(conversation).decode())
        messages.put(None)
        print(list(conversation), conversation.code(), trailers(conversation))


main()
