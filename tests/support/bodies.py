"""Bodies that are sent by hand: to see when a server stops to read them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from service.client import Client
from tests.support.api import Api

MIB = 2**20
PREDICTION = "/CustomVision/v3.0/Prediction/p/classify/iterations/flowers/image"

BODIES = [
    ("/classify", "application/json"),
    ("/classify", "multipart/form-data; boundary=b"),
    ("/v1/embeddings", "application/json"),
    (PREDICTION, "application/octet-stream"),
    (PREDICTION, "multipart/form-data; boundary=b"),
    ("/v1/datasets", "application/json"),
    ("/v1/datasets/{dataset}/images", "multipart/form-data; boundary=b"),
    ("/v1/jobs", "application/json"),
    ("/v1/keys", "application/json"),
]


def send_body(api: Api, path: str, kind: str, key: str, chunked: bool, mib: int) -> tuple[int, int]:
    """The status that came while a body of so many MiB was sent, and how many were."""
    host, port = api.url.removeprefix("http://").split(":")
    length = "transfer-encoding: chunked" if chunked else f"content-length: {mib * MIB}"
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\n{length}\r\n"
    head += f"authorization: Bearer {key}\r\n\r\n"
    start = b'--b\r\ncontent-disposition: form-data; name="files"; filename="f"\r\n\r\n'
    block = b" " * MIB
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode())
        sent, answer = 0, b""
        try:
            for number in range(mib):
                data = start + block[len(start) :] if number == 0 else block
                frame = b"%x\r\n%b\r\n" % (len(data), data) if chunked else data
                connection.sendall(frame)
                sent += 1
                connection.settimeout(0.01)
                try:
                    answer = connection.recv(4096)
                    break
                except TimeoutError:
                    connection.settimeout(30)
        except OSError:  # it hung up while more was sent
            pass
        connection.settimeout(30)
        try:
            answer = answer or connection.recv(4096)
        except OSError:
            return 0, sent
    return int(answer.split(b" ")[1]), sent


@contextmanager
def head_alone(api: Api, tenant: Client, path: str, kind: str, mib: int) -> Iterator[socket.socket]:
    """A connection on which a request's head was sent, and none of its body."""
    host, port = api.url.removeprefix("http://").split(":")
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\n"
    head += f"content-length: {mib * MIB}\r\n"
    head += f"authorization: {tenant.http.headers['authorization']}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode())
        yield connection


def only_head(api: Api, tenant: Client, path: str, kind: str, mib: int) -> int:
    with head_alone(api, tenant, path, kind, mib) as connection:
        return int(connection.recv(4096).split(b" ")[1])


def many(item: str, head: str, tail: str, size: int) -> bytes:
    """A body of about `size` bytes that repeats one item of a list."""
    return (head + ",".join([item] * (size // (len(item) + 1))) + tail).encode()
