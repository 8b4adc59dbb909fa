//! `wxtokend agent`, following a real server.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use wxtokend::sandbox::Settings;

use crate::process::{Home, Process, Server, WeChat, get, http, token, until};

struct Stage {
    wechat: WeChat,
    home: Home,
}

impl Stage {
    /// A WeChat whose tokens rotate every three seconds, and a server on a unix socket.
    async fn new() -> Self {
        let settings = Settings {
            life: Duration::from_secs(6),
            overlap: Duration::from_secs(2),
            ..Settings::default()
        };
        let wechat = WeChat::start(&["c"], settings).await;
        let home = Home::new(&wechat.url(), "overlap = '2s'", &["c"]).on_unix();
        Self { wechat, home }
    }

    fn write_agent(&self, outputs: &str) -> String {
        let (server, folder) = (self.home.path("grpc.sock"), self.home.path(""));
        let text = format!(
            "[agent]\nservers = ['unix://{}']\napps = ['c']\n[grpc]\nlisten = '127.0.0.1:0'\n{}",
            server.display(),
            outputs.replace("DIR", folder.display().to_string().trim_end_matches('/')),
        );
        self.home.write("agent.toml", &text);
        self.home.path("agent.toml").display().to_string()
    }

    fn agent(&self, outputs: &str) -> Process {
        let config = self.write_agent(outputs);
        Process::start(&["agent", "--config", &config], &[])
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.home.path(name)).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_and_writes_every_token_and_no_reader_finds_half_of_one() {
    let stage = Stage::new().await;
    let server = stage.home.serve().await;
    let agent = stage.agent(
        "[[output]]\napp = 'c'\nkind = 'file'\npath = 'DIR/token'\nmode = '0640'\n\
         [[output]]\napp = 'c'\nkind = 'file'\npath = 'DIR/json'\nformat = 'json'\n\
         [[output]]\napp = 'c'\nkind = 'file'\npath = 'DIR/env'\nformat = 'T={{access_token}} G={{ generation }}'\n",
    );
    let agent = Server::of(agent).await;
    let mut client = agent.client().await;
    let first = token(&mut client, "c").await.unwrap();
    until("the file is written", || {
        stage.read("token") == first.access_token
    })
    .await;

    let tokens_read = Arc::new(AtomicUsize::new(0));
    let reader = tokio::task::spawn_blocking({
        let (count, path) = (Arc::downgrade(&tokens_read), stage.home.path("token"));
        move || read_over_and_over(&path, &count)
    });
    until("a later token is in all of them", || {
        let json: Value = serde_json::from_str(&stage.read("json")).unwrap_or_default();
        let token = json["access_token"].as_str().unwrap_or_default();
        let generation = json["generation"].as_u64().unwrap_or_default();
        let env = format!("T={token} G={generation}");
        generation > first.generation && stage.read("token") == token && stage.read("env") == env
    })
    .await;
    // On a busy machine it begins late.
    until("two tokens were read", || {
        tokens_read.load(Ordering::Relaxed) >= 2
    })
    .await;
    drop(tokens_read);
    let seen = reader.await.unwrap();
    let made = stage.wechat.tokens("c");
    assert!(seen.iter().all(|token| made.contains(token)));
    for (name, expected) in [("token", 0o640), ("json", 0o600)] {
        let metadata = fs::metadata(stage.home.path(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, expected, "{name}");
    }
    agent.process.signal("TERM").await;
    assert_eq!(agent.process.end().await.code(), 0);
    drop(server);
}

/// Everything that a file held, in a loop without a pause, until nobody wants to know how much that is.
fn read_over_and_over(path: &Path, count: &Weak<AtomicUsize>) -> Vec<String> {
    let mut seen = Vec::<String>::new();
    while let Some(count) = count.upgrade() {
        let text = fs::read_to_string(path).expect("it is never missing");
        assert!(text.len() > 100 && !text.ends_with('\n'), "half a token");
        if seen.last() != Some(&text) {
            seen.push(text);
            count.store(seen.len(), Ordering::Relaxed);
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_last_token_until_that_dies_and_follows_a_server_that_comes_back() {
    let stage = Stage::new().await;
    let mut server = stage.home.serve().await;
    let agent = Server::of(stage.agent("[admin]\nlisten = '127.0.0.1:0'\n")).await;
    let admin = agent.process.stdout_line("admin ").await;
    let admin = admin.strip_prefix("admin ").unwrap();
    let (_, page) = http(admin, "GET", "/metrics", "").await;
    assert!(page.contains("wxtokend_holder{app=\"c\"} 0"), "{page}");
    let budget = "replacement_budget_remaining{";
    assert!(!page.contains(budget), "it replaces nothing: {page}");
    let mut client = agent.client().await;
    let held = token(&mut client, "c").await.unwrap();
    server.process.kill().await;
    let still = token(&mut client, "c").await.unwrap();
    assert_eq!(still.access_token, held.access_token);
    let died = async {
        loop {
            match client.get_token(get("c")).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(status) => break status,
            }
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(10), died).await;
    let status = status.expect("it is refused after its death");
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains("cannot be reached"), "{status:?}");

    let _server = stage.home.serve().await;
    let newer = crate::process::token_that(&mut client, "c", "is newer", |token| {
        token.generation > held.generation
    });
    newer.await;
    agent.process.until_stderr("following again").await;
    assert!(!agent.process.stderr().contains(&held.access_token));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_run_for_each_token_until_it_succeeds() {
    let stage = Stage::new().await;
    let _server = stage.home.serve().await;
    // It fails the first time.
    let script = "if [ -e DIR/tried ]; then echo $WXTOKEND_GENERATION $WXTOKEND_ACCESS_TOKEN >> DIR/told; else touch DIR/tried; exit 7; fi";
    let agent = stage.agent(&format!(
        "[[output]]\napp = 'c'\nkind = 'command'\ncommand = ['sh', '-c', '{script}']\n"
    ));
    until("it was told twice", || {
        stage.read("told").lines().count() >= 2
    })
    .await;
    let told = stage.read("told");
    let made = stage.wechat.tokens("c");
    let mut before = 0;
    for line in told.lines() {
        let (generation, token) = line.split_once(' ').unwrap();
        assert!(made.contains(&token.to_owned()), "{line}");
        let generation = generation.parse::<u64>().unwrap();
        assert!(generation > before, "each once: {told}");
        before = generation;
    }
    assert!(
        agent.stderr().contains("`sh` failed: exit status: 7"),
        "{}",
        agent.stderr()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_takes_too_long_is_killed_with_all_that_it_started() {
    let stage = Stage::new().await;
    let _server = stage.home.serve().await;
    let script = "sleep 1000 & echo $! >> DIR/started; wait";
    let agent = stage.agent(&format!(
        "[[output]]\napp = 'c'\nkind = 'command'\ncommand = ['sh', '-c', '{script}']\ntimeout = '1s'\n"
    ));
    agent.until_stderr("`sh` took longer than 1s").await;
    let started = stage.read("started");
    is_gone(started.lines().next().unwrap()).await;
}

/// Until the process of this number is dead. What nobody has buried yet has no command line.
async fn is_gone(number: &str) {
    let cmdline = format!("/proc/{}/cmdline", number.trim());
    until("it is dead", || {
        fs::read_to_string(&cmdline).unwrap_or_default().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_outlives_the_sidecar() {
    let stage = Stage::new().await;
    let _server = stage.home.serve().await;
    let command = "command = ['sh', '-c', 'echo $$ > DIR/pid; sleep 1000; :']";
    let output = format!("[[output]]\napp = 'c'\nkind = 'command'\n{command}\n");
    for more in [&[][..], &["--once"]] {
        let _ = fs::remove_file(stage.home.path("pid"));
        let config = stage.write_agent(&output);
        let arguments = [&["agent", "--config", &config], more].concat();
        let agent = Process::start(&arguments, &[]);
        until("it runs", || stage.read("pid").ends_with('\n')).await;
        agent.signal("TERM").await;
        let ended = agent.end().await;
        assert_eq!(ended.code(), i32::from(!more.is_empty()), "{ended:?}");
        is_gone(&stage.read("pid")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_stands_for_many_processes_gets_no_signal() {
    let stage = Stage::new().await;
    let _server = stage.home.serve().await;
    let output = "[[output]]\napp = 'c'\nkind = 'command'\nsignal = 'USR1'\npid_file = 'DIR/pid'\n";
    for number in ["-1", "0", "-2147483648", "99999999999", "one"] {
        fs::write(stage.home.path("pid"), number).unwrap();
        let agent = stage.agent(output);
        let no = "there is no number of a process in it";
        agent.until_stderr(no).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_gets_a_signal_for_each_token() {
    let stage = Stage::new().await;
    let _server = stage.home.serve().await;
    let script = format!(
        "trap 'echo hup >> {0}/told' HUP; echo $$ > {0}/pid; while :; do sleep 0.05; done",
        stage.home.path("").display()
    );
    let mut program = tokio::process::Command::new("sh")
        .args(["-c", &script])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let _agent = stage
        .agent("[[output]]\napp = 'c'\nkind = 'command'\nsignal = 'HUP'\npid_file = 'DIR/pid'\n");
    until("it was told twice", || {
        stage.read("told").lines().count() >= 2
    })
    .await;
    program.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_it_lends_for_what_the_sdk_here_subtracts() {
    let stage = Stage::new().await;
    let _server = stage.home.serve().await;
    let config = stage.write_agent("[http]\nlisten = '127.0.0.1:0'\n");
    let set = [
        ("WXTOKEND__AGENT__SDK", "wxjava"),
        ("WXTOKEND__AGENT__OVERLAP", "2s"),
    ];
    let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let agent = Process::start(&["agent", "--config", &config], &set);
    let line = agent.stdout_line("http ").await;
    let url = line.strip_prefix("http ").unwrap();
    let target = "/cgi-bin/token?grant_type=client_credential&appid=c&secret=whatever";
    let (_, body) = http(url, "GET", target, "").await;
    let told: Value = serde_json::from_str(&body).unwrap();
    // Four fifths of the overlap in whole seconds, and WxJava's 200 s.
    assert_eq!(told["expires_in"], 201, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn once_does_each_output_and_ends() {
    let stage = Stage::new().await;
    let server = stage.home.serve().await;
    let config = stage.write_agent(
        "[[output]]\napp = 'c'\nkind = 'file'\npath = 'DIR/token'\ncommand = ['cp', 'DIR/token', 'DIR/copy']\n",
    );
    let ended = Process::run(&["agent", "--config", &config, "--once"]).await;
    assert_eq!((ended.code(), &*ended.stdout), (0, ""), "{ended:?}");
    let made = stage.wechat.tokens("c");
    assert!(made.contains(&stage.read("token")));
    assert_eq!(
        stage.read("copy"),
        stage.read("token"),
        "the file comes first"
    );
    // One that fails holds up no other.
    let fails = "[[output]]\napp = 'c'\nkind = 'command'\ncommand = ['false']\n";
    let writes = "[[output]]\napp = 'c'\nkind = 'file'\npath = 'DIR/after'\n";
    let config = stage.write_agent(&format!("{fails}{writes}"));
    let agent = Process::start(&["agent", "--config", &config, "--once"], &[]);
    until("it is written", || !stage.read("after").is_empty()).await;
    drop(agent);
    drop(server);

    let config = stage.write_agent("");
    let ended = Process::run(&["agent", "--config", &config, "--once"]).await;
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.contains("no `[[output]]` is configured"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_with_the_token_in_its_environment_and_the_sidecar_ends_with_it() {
    let stage = Stage::new().await;
    let _server = stage.home.serve().await;
    let config = stage.write_agent("[admin]\nlisten = '127.0.0.1:0'\n");
    let script = "echo $WXTOKEND_APP $WXTOKEND_ACCESS_TOKEN $WXTOKEND_ACCESS_TOKEN_C; exit 7";
    let program = ["agent", "--config", &config, "--", "sh", "-c", script];
    let ended = Process::run(&program).await;
    assert_eq!(ended.code(), 7, "{ended:?}");
    let words: Vec<_> = ended.stdout.split_whitespace().collect();
    let made = stage.wechat.tokens("c");
    assert_eq!((words[0], words[1]), ("c", words[2]), "and nothing else");
    assert!(made.contains(&words[1].to_owned()));

    let absent = ["agent", "--config", &config, "--", "/nowhere/program"];
    let ended = Process::run(&absent).await;
    assert_eq!(ended.code(), 1);
    assert!(
        ended.stderr.contains("`/nowhere/program` cannot be run"),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_started_anew_with_each_rotation_if_that_is_wished() {
    let stage = Stage::new().await;
    let _server = stage.home.serve().await;
    let config = stage.write_agent("");
    let script = "echo $WXTOKEND_GENERATION; while :; do sleep 0.05; done";
    let program = [
        "agent",
        "--config",
        &config,
        "--restart",
        "--",
        "sh",
        "-c",
        script,
    ];
    let agent = Process::start(&program, &[]);
    agent
        .until_stdout("it runs a third time", |said| said.lines().count() >= 3)
        .await;
    let said = agent.stdout();
    let generations: Vec<u64> = said.lines().map(|line| line.parse().unwrap()).collect();
    assert!(
        generations.is_sorted_by(|one, next| one < next),
        "{generations:?}"
    );
    agent.signal("TERM").await;
    assert_eq!(agent.end().await.code(), 0);
}
