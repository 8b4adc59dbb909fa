//! The file of a sidecar.

use wxtokend::config::{Agent, Format, Notice};

const GOOD: &str = r#"
[agent]
servers = ["http://wxtokend:50051", "unix:///run/wxtokend.sock"]
key_file = "/run/secrets/key"
apps = ["shop", "wx2"]
[grpc]
listen = "unix:/run/agent.sock"
[http]
[admin]
[log]
format = "json"
[[output]]
app = "shop"
kind = "file"
path = "/run/token"
[[output]]
app = "wx2"
kind = "file"
path = "/run/env"
format = "TOKEN={{ access_token }}\nGENERATION={{generation}}\n"
mode = "0640"
owner = "1000:2000"
signal = "HUP"
pid_file = "/run/pid"
[[output]]
app = "shop"
kind = "command"
command = ["systemctl", "reload", "shop"]
timeout = "5s"
"#;

#[test]
fn everything_that_can_be_set_is_understood() {
    let agent = Agent::parse(GOOD, "agent.toml", []).unwrap();
    assert_eq!(
        agent.servers,
        ["http://wxtokend:50051", "unix:///run/wxtokend.sock"]
    );
    let apps: Vec<_> = agent.apps.iter().map(ToString::to_string).collect();
    assert_eq!(apps, ["shop", "wx2"]);
    let [plain, template, command] = &agent.outputs[..] else {
        panic!("{:?}", agent.outputs);
    };
    let file = plain.file.as_ref().unwrap();
    assert_eq!(
        (&file.format, file.mode, file.owner),
        (&Format::Token, 0o600, None)
    );
    assert_eq!(plain.notice, None);
    let file = template.file.as_ref().unwrap();
    assert!(matches!(file.format, Format::Template(_)));
    assert_eq!((file.mode, file.owner), (0o640, Some((1000, Some(2000)))));
    assert!(matches!(
        template.notice,
        Some(Notice::Signal { signal: 1, .. })
    ));
    assert_eq!(command.file, None);
    assert!(matches!(command.notice, Some(Notice::Command(_))));
}

/// Files and what is told of them. `AGENT` stands for a good first table, `FILE` for an output that is a
/// file.
const BAD: [(&str, &str); 31] = [
    (
        "",
        "`agent` needs `servers`, a list like `[\"http://wxtokend:50051\"]`",
    ),
    ("", "`agent` needs `apps`, a list of names"),
    (
        "[agent]\nservers = ['https://a:1']",
        ":2:12: `agent.servers[0]` must be a URL that starts with `http://`",
    ),
    (
        "[agent]\nservers = ['http://a']",
        "needs a port: `http://host:50051`",
    ),
    (
        "[agent]\nservers = ['http://a:1/x']",
        "must be `http://host:port` without a path",
    ),
    (
        "[agent]\napps = ['a b']",
        ":2:9: `agent.apps[0]` must be 1 to 64 characters",
    ),
    (
        "AGENT[store]",
        "`store` belongs in the file of a server: `wxtokend serve`",
    ),
    (
        "AGENT[[app]]",
        "`app` belongs in the file of a server: `wxtokend serve`",
    ),
    ("AGENT[[output]]", "`output[0]` needs an `app`"),
    (
        "AGENT[[output]]",
        "`output[0]` needs a `kind`: `file` or `command`",
    ),
    (
        "AGENT[[output]]\napp = 'other'",
        "`output[0].app` is none of `agent.apps`",
    ),
    (
        "AGENT[[output]]\napp = 'shop'\nkind = 'file'",
        "`output[0]` needs a `path`",
    ),
    (
        "AGENT[[output]]\napp = 'shop'\nkind = 'command'",
        "needs a `command`, or a `signal` and a `pid_file`",
    ),
    (
        "FILEformat = 'x'",
        "must be `token`, `json`, or a text with `{{access_token}}`",
    ),
    (
        "FILEformat = '{{secret}}'",
        "may only hold `{{access_token}}`, `{{app_id}}`",
    ),
    ("FILEformat = '{{access_token'", "may only hold"),
    (
        "FILEmode = '999'",
        "must be permissions in octal digits, like `\"0640\"`",
    ),
    ("FILEmode = '7777'", "must be permissions in octal digits"),
    (
        "FILEowner = 'root'",
        "must be numbers, like `\"1000\"` or `\"1000:1000\"`",
    ),
    (
        "FILEsignal = 'KILL'\npid_file = 'x'",
        "`output[0].signal` must be `HUP`, `INT`, `USR1`, `USR2` or `TERM`",
    ),
    (
        "FILEsignal = 'HUP'",
        "needs `signal` and `pid_file`, or neither",
    ),
    (
        "FILEcommand = ['x']\nsignal = 'HUP'\npid_file = 'x'",
        "write two outputs",
    ),
    (
        "FILE[[output]]\napp = 'shop'\nkind = 'file'\npath = 'x'",
        "`output[1].path` is written by another output already",
    ),
    (
        "FILE[[output]]\napp = 'shop'\nkind = 'file'\npath = './y/../x'",
        "`output[1].path` is written by another output already",
    ),
    (
        "AGENTkey_file = '/k'\n[[output]]\napp = 'shop'\nkind = 'file'\npath = '/./k'",
        "`output[0].path` is the file with the key",
    ),
    (
        "AGENT[[output]]\napp = 'shop'\nkind = 'file'\npath = '/run/'",
        "`output[0].path` must name a file, and not a folder",
    ),
    (
        "AGENT[[output]]\napp = 'shop'\nkind = 'command'\nmode = '0600'",
        "`output[0].mode` belongs to `kind = \"file\"`",
    ),
    (
        "FILEmode = '0044'",
        "`output[0].mode` must let the owner read the file",
    ),
    ("AGENToverlap = '2h'", ":4:11: `agent.overlap` must be"),
    (
        "AGENTsdk = 'wxjava'\nmargin = '1s'",
        "`agent.margin` is known from `sdk`: keep one of them",
    ),
    ("FILEcomand = ['x']", "is unknown, did you mean `command`?"),
];

#[test]
fn every_problem_is_told_with_its_place() {
    let file = "AGENT[[output]]\napp = 'shop'\nkind = 'file'\npath = 'x'\n";
    let agent = "[agent]\nservers = ['http://a:1']\napps = ['shop']\n";
    for (text, expected) in BAD {
        let text = text.replace("FILE", file).replace("AGENT", agent);
        let told = Agent::parse(&text, "agent.toml", [])
            .unwrap_err()
            .to_string();
        assert!(told.contains(expected), "{told}\n--- for\n{text}");
    }
}
