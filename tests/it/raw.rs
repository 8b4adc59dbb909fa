//! A server that answers with exact bytes, and says what it was asked.
//!
//! Raw on purpose: it can do what no HTTP library lets a server do, and shares no mistake with one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// What a connection gets.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Reads the request, sends these bytes, closes.
    Bytes(Vec<u8>),
    /// Reads the request, sends these bytes, and then nothing more, for ever.
    Hang(Vec<u8>),
    /// Reads the request, resets the connection.
    Reset,
    /// Closes without reading.
    Close,
    /// Accepts, then neither reads nor writes.
    Ignore,
}

impl Answer {
    /// A reply with a body and its right length.
    pub(crate) fn http(status: u16, content_type: &str, body: &str) -> Self {
        let head = format!(
            "HTTP/1.1 {status} Status\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
             Date: Wed, 19-Feb-2020 06:00:00 GMT\r\n\r\n",
            body.len()
        );
        Self::Bytes((head + body).into_bytes())
    }

    /// As WeChat answers.
    pub(crate) fn json(body: &str) -> Self {
        Self::http(200, "application/json; encoding=utf-8", body)
    }
}

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Asked {
    /// The target without its query.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub(crate) fn query(&self) -> BTreeMap<String, String> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect()
    }
}

/// A server that gives its first answer to the first connection, and so on; the last one it repeats.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) port: u16,
    log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
struct Log {
    connections: usize,
    asked: Vec<Asked>,
}

impl Server {
    pub(crate) async fn answering(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Arc::<Mutex<Log>>::default();
        let server = Self {
            port,
            log: Arc::clone(&log),
        };
        tokio::spawn(async move {
            for turn in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                log.lock().unwrap().connections += 1;
                let answer = answers[turn.min(answers.len() - 1)].clone();
                tokio::spawn(serve(stream, answer, Arc::clone(&log)));
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests that arrived.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.log.lock().unwrap().asked.clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.log.lock().unwrap().connections
    }
}

/// A URL that nobody listens at.
pub(crate) async fn refusing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

async fn serve(mut stream: TcpStream, answer: Answer, log: Arc<Mutex<Log>>) {
    match &answer {
        Answer::Close => return,
        Answer::Ignore => sleep(Duration::from_mins(1)).await,
        _ => {}
    }
    let Some(asked) = read(&mut stream).await else {
        return;
    };
    log.lock().unwrap().asked.push(asked);
    match answer {
        Answer::Bytes(bytes) => {
            // A client that has seen enough hangs up.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Answer::Hang(bytes) => {
            let _ = stream.write_all(&bytes).await;
            sleep(Duration::from_mins(1)).await;
        }
        Answer::Reset => stream.set_zero_linger().unwrap(),
        Answer::Close | Answer::Ignore => {}
    }
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        more(stream, &mut bytes).await?;
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap().split(' ').map(str::to_owned);
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers: BTreeMap<_, _> = headers
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .map_or(0, |n| n.parse().unwrap());
    while bytes.len() < end + 4 + length {
        more(stream, &mut bytes).await?;
    }
    Some(Asked {
        method: first.next()?,
        target: first.next()?,
        version: first.next()?,
        headers,
        body: String::from_utf8(bytes[end + 4..].to_vec()).unwrap(),
    })
}

async fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    let read = stream.read_buf(bytes).await.ok()?;
    (read > 0).then_some(())
}
