"""Writes SDKS.md: the lines between `recipe begins` and `recipe ends` of the clients that are tested here. With `--check` it only
looks whether the page is what it would write."""

import pathlib
import re
import sys
import textwrap

HERE = pathlib.Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "SDKS.md"

HEAD = """\
# WeChat's SDKs, with tokens from wxtokend

Each recipe is taken from a program in [`tests/interop/sdks`](tests/interop/sdks/) that is run with the unchanged SDK from its public package: several rotations without a refused token and without
a fetch of its own, and ten seconds in which WeChat refuses everything, without running in circles. `tests/interop/recipes.py` writes this page.

In the environment of the programs are `WXTOKEND_HTTP` (`http://wxtokend:8080`), `WECHAT_APPID`, `WXTOKEND_KEY` (the key of a `[[consumer]]`, which takes the place of the AppSecret) and `WECHAT_URL`: where the SDK
makes its other calls, WeChat itself or, for SDKs that know one host for everything, a router.

Say which SDK the consumer uses (`sdk = "…"` in its `[[consumer]]`): wxtokend then adds to a token's lease what that SDK subtracts.
Programs that log users in (`jscode2session`, OAuth) send WeChat the secret that their SDK is configured with, so they have to keep the AppSecret there, and a consumer's key has no place. They ask a sidecar on their own machine, which
ignores `secret`: `WXTOKEND_HTTP` is then `http://127.0.0.1:8080` of `wxtokend agent`.

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


def page():
    parts = [HEAD]
    for title, sdk, file, language, number in RECIPES:
        consumer = f" `sdk = \"{sdk}\"`." if sdk else ""
        source = f"[`{file}`](tests/interop/sdks/{file})."
        parts.append(f"## {title}\n\n{source}{consumer}\n\n```{language}\n{recipe(file, number)}\n```\n")
    return "\n".join(parts)


if sys.argv[1:] == ["--check"]:
    if PAGE.read_text() != page():
        sys.exit("error: SDKS.md is not what the tested programs say: run tests/interop/recipes.py")
    print("SDKS.md holds the tested recipes")
else:
    PAGE.write_text(page())
