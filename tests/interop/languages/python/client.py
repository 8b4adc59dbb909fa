"""A program in Python that always has a living token. The driver, `../run.py`, tells it over stdin what to do."""

import os
import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tokens import Tokens
from wxtokend.v1 import token_service_pb2 as pb


def tell(*words):
    print(*words, flush=True)


def reason(error):
    details = rpc_status.from_call(error).details
    info = error_details_pb2.ErrorInfo()
    assert details[0].Unpack(info)
    return info.reason


tokens = Tokens(os.environ["WXTOKEND_TARGET"], os.environ["WXTOKEND_APP"], os.environ["WXTOKEND_KEY"])
for line in sys.stdin:
    match line.split():
        case ["get"]:
            token = tokens.current()
            tell("got", token.generation, token.access_token)
        case ["held"]:
            tell("held", tokens.held.generation, tokens.held.access_token)
        case ["report", token, errcode]:
            outcome = tokens.refused(token, int(errcode))
            tell("reported", pb.Outcome.Name(outcome), tokens.held.generation)
        case ["stranger"]:
            try:
                tokens.service.GetToken(pb.GetTokenRequest(app_id="nobody"), timeout=5, metadata=tokens.key)
            except grpc.RpcError as error:
                tell("refused", error.code().name, reason(error))
