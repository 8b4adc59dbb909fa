"""wechatpy with tokens from wxtokend: calls ten times a second until stdin closes, then says how it went."""

import os
import select
import sys

import requests
from wechatpy import WeChatClient
from wechatpy.exceptions import WeChatClientException


# recipe begins
class Client(WeChatClient):
    """Asks wxtokend for tokens, and WeChat for everything else. Its `secret` is the consumer's key."""

    def fetch_access_token(self):
        return self._fetch_access_token(
            url=f"{os.environ['WXTOKEND_HTTP']}/cgi-bin/token",
            params={"grant_type": "client_credential", "appid": self.appid, "secret": self.secret},
        )


client = Client(os.environ["WECHAT_APPID"], os.environ["WXTOKEND_KEY"], timeout=10)
# recipe ends

client.API_BASE_URL = f"{os.environ['WECHAT_URL']}/cgi-bin/"  # the simulated WeChat

# It tries a refused token again without end; Python ends that.
FAILURES = (WeChatClientException, requests.RequestException, RecursionError)


def main():
    calls = failed = 0
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        calls += 1
        try:
            client.misc.get_wechat_ips()
        except FAILURES:
            failed += 1
    print(f"calls {calls} failed {failed}")


main()
