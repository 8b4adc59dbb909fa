"""A program in Python's asyncio that always has a living token. The driver, `../run.py`, tells it over stdin what to do."""

import asyncio
import os
import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tokens_asyncio import Tokens
from wxtokend.v1 import token_service_pb2 as pb


def tell(*words):
    print(*words, flush=True)


def reason(error):
    details = rpc_status.from_call(error).details
    info = error_details_pb2.ErrorInfo()
    assert details[0].Unpack(info)
    return info.reason


class Call:
    """What `rpc_status` wants, of an error of asyncio's."""

    def __init__(self, error):
        self.error = error

    def trailing_metadata(self):
        return tuple(self.error.trailing_metadata())

    def code(self):
        return self.error.code()

    def details(self):
        return self.error.details()


async def main():
    tokens = Tokens(os.environ["WXTOKEND_TARGET"], os.environ["WXTOKEND_APP"], os.environ["WXTOKEND_KEY"])
    while line := await asyncio.to_thread(sys.stdin.readline):
        match line.split():
            case ["get"]:
                token = await tokens.current()
                tell("got", token.generation, token.access_token)
            case ["held"]:
                tell("held", tokens.held.generation, tokens.held.access_token)
            case ["report", token, errcode]:
                outcome = await tokens.refused(token, int(errcode))
                tell("reported", pb.Outcome.Name(outcome), tokens.held.generation)
            case ["stranger"]:
                try:
                    await tokens.service.GetToken(pb.GetTokenRequest(app_id="nobody"), timeout=5, metadata=tokens.key)
                except grpc.aio.AioRpcError as error:
                    tell("refused", error.code().name, reason(Call(error)))


asyncio.run(main())
