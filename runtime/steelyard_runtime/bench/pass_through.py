"""The least that an aiohttp proxy on uvloop can do: what the router's cost is compared with."""

import argparse
import asyncio

import aiohttp
import uvloop
from aiohttp import web


async def serve(port: int, to: str) -> None:
    """Pass POSTs through to `to`; never ends."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            if request.method == "GET":
                return web.Response()
            body = await request.read()
            headers = {"Content-Type": "application/json", "X-Request-Id": "bench"}
            async with session.post(to + request.path, data=body, headers=headers) as answer:
                response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
                await response.prepare(request)
                while data := await answer.content.readany():
                    await response.write(data)
                await response.write_eof()
                return response

        runner = web.ServerRunner(web.Server(handle, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", required=True)
    given = parser.parse_args()
    uvloop.run(serve(given.port, given.to))


if __name__ == "__main__":
    main()
