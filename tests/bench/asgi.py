"""The application of `application.py` behind HTTP: ASGI in its barest form, uvicorn with uvloop and httptools, orjson.

    asgi.py VERSION-DIRECTORY CONTEXT-FIELDS [--in-process SECONDS < bodies]

Prints its address, then answers until it is ended; or how many bodies it answers a second without HTTP.
"""
import argparse, socket, sys, time
import orjson, uvicorn
from application import Application, Onnx

arguments = argparse.ArgumentParser()
arguments.add_argument("directory")
arguments.add_argument("context", type=int)
arguments.add_argument("--in-process", type=float)
arguments = arguments.parse_args()
application = Application(arguments.directory, arguments.context, Onnx, orjson.loads, orjson.dumps)
HEADERS = [(b"content-type", b"application/json")]


async def app(scope, receive, send):
    if scope["type"] != "http" or scope["path"] != "/v1/rank":
        raise ValueError("only POST /v1/rank is answered")
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message["body"])
        more = message.get("more_body", False)
    answer = application.answer(parts[0] if len(parts) == 1 else b"".join(parts))
    length = (b"content-length", str(len(answer)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, length]})
    await send({"type": "http.response.body", "body": answer})


if arguments.in_process:
    bodies, done, start = sys.stdin.buffer.read().splitlines(), 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < arguments.in_process:
        application.answer(bodies[done % len(bodies)])
        done += 1
    print(done / elapsed)
else:
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", lifespan="off", access_log=False, log_level="warning",
        server_header=False, date_header=False, timeout_keep_alive=3600,
    )
    uvicorn.Server(config).run(sockets=[listener])
