"""Writes RECIPES.md from the clients that are tested here: whole files of gRPC clients, and of programs with an SDK the lines between
`recipe begins` and `recipe ends`. With `--check` it only looks whether the page is what it would write."""

import pathlib
import re
import sys
import textwrap

HERE = pathlib.Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "RECIPES.md"

HEAD = """\
# Tokens from wxtokend, in each language and with each SDK

Each recipe is taken from a program in [`tests/interop`](tests/interop/) that is run against a server. `tests/interop/recipes.py` writes this page.

- [gRPC](#grpc): a client with the newest token at hand, generated from the proto.
- [WeChat's SDKs](#wechats-sdks): unchanged, with the address of the token call set to wxtokend's.
- A program that does neither reads a file, or its environment: see the sidecar in the README.

# gRPC

Each of these files holds the newest token of an app: it watches, reconnects by itself, and asks only if there is no news. `.ci/run interop` builds them with their language's own library from public packages, and calls WeChat with what they
hold, all the time: through rotations, a killed server and a drained one none of the calls is refused; a token that WeChat does refuse is reported and replaced.

The key is that of a `[[consumer]]`. Where there are no consumers, and at a sidecar, there is none: leave `authorization` out.
Over a unix socket Python and Java send its path as the authority, which HTTP/2 forbids: Python's files here see to that, and Java needs `.overrideAuthority("localhost")` beside netty's channel for sockets.
"""

# (title, file, language)
LANGUAGES = [
    ("Python", "python/tokens.py", "python"),
    ("Python, asyncio", "python/tokens_asyncio.py", "python"),
    ("Go", "go/tokens.go", "go"),
    ("Java", "java/Tokens.java", "java"),
    ("Node", "node/tokens.js", "js"),
    ("C++", "cpp/tokens.h", "cpp"),
]

SDKS = """\
# WeChat's SDKs

`.ci/run interop` runs each of them unchanged, from its public package: several rotations without a refused token and without a fetch of its own, and ten seconds in which WeChat refuses everything, without running in circles.

In the environment of the programs are `WXTOKEND_HTTP` (`http://wxtokend:8080`), `WECHAT_APPID`, `WXTOKEND_KEY` (the key of a `[[consumer]]`, which takes the place of the AppSecret) and `WECHAT_URL`: where the SDK
makes its other calls, WeChat itself or, for SDKs that know one host for everything, a router.

Say which SDK the consumer uses (`sdk = "…"` in its `[[consumer]]`): wxtokend then adds to a token's lease what that SDK subtracts.
Programs that log users in (`jscode2session`, OAuth) send WeChat the secret that their SDK is configured with, so they have to keep the AppSecret there, and a consumer's key has no place. They ask a sidecar on their own machine, which
ignores `secret`: `WXTOKEND_HTTP` is then `http://127.0.0.1:8080` of `wxtokend agent`.

Not tried, because its package could not be had: PowerWeChat. By its source, `app.AccessToken.EndpointToGetToken = "http://wxtokend:8080/cgi-bin/token"` does it; the shape of its requests is among those that are tested.

## A router, for SDKs that know one host

Token paths go to wxtokend, everything else to WeChat. For nginx:

```nginx
server {
  listen 127.0.0.1:8081;
  access_log off;  # tokens and keys travel in the query

  location = /cgi-bin/token        { proxy_pass http://wxtokend:8080; }
  location = /cgi-bin/stable_token { proxy_pass http://wxtokend:8080; }
  location / {
    proxy_pass https://api.weixin.qq.com;
    proxy_ssl_server_name on;
    proxy_set_header Host api.weixin.qq.com;
  }
}
```
"""

# (title, `sdk` of the consumer, file, language, which recipe of the file)
RECIPES = [
    ("Python: wechatpy", "wechatpy", "wechatpy/client.py", "python", 0),
    ("Node: co-wechat-api, through a router", "co-wechat-api", "node/co-wechat-api.js", "js", 0),
    ("Node: wechat-api, through a router", "wechat-api", "node/wechat-api.js", "js", 0),
    ("Node: node-easywechat, through a router", "node-easywechat", "node/node-easywechat.js", "js", 0),
    ("Go: silenceper/wechat", "silenceper", "silenceper/main.go", "go", 0),
    ("Java: WxJava, mini program", "wxjava", "wxjava/Client.java", "java", 0),
    ("PHP: Laravel, the token alone", None, "laravel/controllers.php", "php", 0),
    ("PHP: Laravel, in WeChat's words", "easywechat", "laravel/controllers.php", "php", 1),
    ("Rust: wechat-minapp", "wechat-minapp", "wechat-minapp/src/main.rs", "rust", 0),
]


def recipe(file, number):
    text = (HERE / "sdks" / file).read_text()
    found = re.findall(r"^[^\n]*recipe begins[^\n]*\n(.*?)^[^\n]*recipe ends", text, re.MULTILINE | re.DOTALL)
    if number >= len(found):
        sys.exit(f"error: {file} has no recipe {number}")
    return textwrap.dedent(found[number]).strip("\n")


def section(title, folder, file, consumer, language, code):
    source = f"[`{file}`](tests/interop/{folder}/{file})."
    return f"## {title}\n\n{source}{consumer}\n\n```{language}\n{code}\n```\n"


def page():
    parts = [HEAD]
    for title, file, language in LANGUAGES:
        code = (HERE / "languages" / file).read_text().strip("\n")
        parts.append(section(title, "languages", file, "", language, code))
    parts.append(SDKS)
    for title, sdk, file, language, number in RECIPES:
        consumer = f" `sdk = \"{sdk}\"`." if sdk else ""
        parts.append(section(title, "sdks", file, consumer, language, recipe(file, number)))
    return "\n".join(parts)


if sys.argv[1:] == ["--check"]:
    if PAGE.read_text() != page():
        sys.exit("error: RECIPES.md is not what the tested programs say: run tests/interop/recipes.py")
    print("RECIPES.md holds the tested recipes")
else:
    PAGE.write_text(page())
