//! What a call gets, whatever it brings.
//!
//! An input is legible but for the body: `PEER METHOD CUT CUT …`, headers, an empty line, the body. It
//! arrives in chunks of the lengths CUT, over and over. A changed length makes nearly every body
//! unreadable, so each is sent twice: as it is, and as the message of a frame.
//!
//! The calls are answered by a server whose socket nobody uses, in front of a [`Shop`].

use std::{cell::RefCell, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use tokio::time::timeout;
use tonic::{Code, Status};
use wxtokend::{
    config::{self, Listen},
    domain::access::Peer,
    grpc::Server,
    pb::{ForceRefreshRequest, GetTokenRequest, WatchTokenRequest},
    telemetry::Metrics,
};

use super::shop::{ADMIN_KEY, KEY, Shop, TOKEN};

const SERVICE: &str = "/wxtokend.v1.TokenService/";

/// Contract: the longest message of a status, in bytes.
const LONGEST_MESSAGE: usize = 1024;

/// What peers accept at least.
const LONGEST_HEADERS: usize = 8 * 1024;

thread_local! {
    static SERVED: RefCell<Served> = RefCell::new(Served::new());
}

pub(crate) fn holds(input: &[u8]) {
    let Some(call) = Call::read(input) else {
        return;
    };
    let framed = call.framed();
    SERVED.with_borrow_mut(|served| {
        for call in [&call, &framed] {
            let heard = served.call(call, &call.cuts);
            heard.is_well_formed();
            heard.keeps_secrets(call);
            if call.is_ours() {
                call.is_answered(&heard);
                let whole = served.call(call, &[]);
                assert_eq!(heard.code, whole.code, "it matters how a call is cut");
            }
        }
    });
}

/// What a caller sends.
struct Call {
    peer: Peer,
    path: Uri,
    headers: HeaderMap,
    body: Vec<u8>,
    cuts: Vec<usize>,
}

impl Call {
    /// `None` if HTTP would not let it through.
    fn read(input: &[u8]) -> Option<Self> {
        let end = input.windows(2).position(|pair| pair == b"\n\n")?;
        let head = str::from_utf8(&input[..end]).ok()?;
        let (first, rest) = head.split_once('\n').unwrap_or((head, ""));
        let mut words = first.split(' ');
        let peer = match words.next()? {
            "unix" => Peer::Unix,
            "loopback" => Peer::Loopback,
            _ => Peer::Remote,
        };
        let path = words.next()?;
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("{SERVICE}{path}")
        };
        let cuts = words.map(|cut| cut.parse().ok().filter(|cut| *cut > 0));
        let mut headers = HeaderMap::new();
        for line in rest.lines() {
            let (name, value) = line.split_once(": ")?;
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
        }
        Some(Self {
            peer,
            path: path.parse().ok()?,
            headers,
            body: input[end + 2..].to_vec(),
            cuts: cuts.collect::<Option<_>>()?,
        })
    }

    /// The same with the body as the message of a frame.
    fn framed(&self) -> Self {
        let length = u32::try_from(self.body.len()).expect("inputs are small");
        let head = [&[0], length.to_be_bytes().as_slice()].concat();
        Self {
            peer: self.peer,
            path: self.path.clone(),
            headers: self.headers.clone(),
            body: [head, self.body.clone()].concat(),
            cuts: self.cuts.clone(),
        }
    }

    fn request(&self, cuts: &[usize]) -> Request<Chunks> {
        let mut chunks = Vec::new();
        let mut rest = Bytes::from(self.body.clone());
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let length = cuts.next().map_or(rest.len(), |cut| rest.len().min(*cut));
            chunks.push(Ok(Frame::data(rest.split_to(length))));
        }
        let mut request = Request::new(StreamBody::new(tokio_stream::iter(chunks)));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// Whether a secret is where an answer may quote it from, like the name of an app or of an encoding.
    fn tells(&self, secret: &str) -> bool {
        let quotable = |(name, value): (&HeaderName, &HeaderValue)| {
            name != "authorization" && contains(value.as_bytes(), secret)
        };
        contains(&self.body, secret) || self.headers.iter().any(quotable)
    }

    /// Whether it is one of the three calls of the contract.
    fn is_ours(&self) -> bool {
        let method = self.path.path().strip_prefix(SERVICE);
        method.is_some_and(|m| ["GetToken", "ForceRefresh", "WatchToken"].contains(&m))
    }

    fn is_answered(&self, heard: &Heard) {
        let (code, expected) = (heard.code, self.expected());
        // Whoever is let in may have to wait, and a stream ends at its deadline at the latest.
        let in_time = [Code::Ok, Code::Unavailable].contains(&expected);
        let hurried = in_time && matches!(self.deadline(), Ok(Some(_)));
        let late = hurried && code == Code::DeadlineExceeded;
        let message = &heard.message;
        assert!(
            code == expected || late,
            "{code:?} and not {expected:?}: {message}"
        );
        let token = contains(&heard.data, TOKEN);
        assert!(!token || expected == Code::Ok, "a token for {expected:?}");
        assert!(token || code != Code::Ok, "well, but no token");
    }

    /// What the contract says about this call.
    fn expected(&self) -> Code {
        if self.deadline().is_err() {
            return Code::InvalidArgument;
        }
        let Some(caller) = self.caller() else {
            return Code::Unauthenticated;
        };
        if self
            .headers
            .get("grpc-encoding")
            .is_some_and(|e| e != "identity")
        {
            return Code::Unimplemented;
        }
        let Some(asked) = self.asked() else {
            return Code::InvalidArgument;
        };
        let known = ["shop", "wx1"].contains(&asked.app_id.as_str());
        let other = ["other", "wx2"].contains(&asked.app_id.as_str());
        match caller {
            _ if !known && !other => Code::NotFound,
            Who::Orders if other => Code::NotFound,
            Who::Orders if asked.leaked => Code::PermissionDenied,
            // It never had a token, and nobody can get one.
            _ if other => Code::Unavailable,
            _ => Code::Ok,
        }
    }

    /// What `grpc-timeout` says, in units of whatever it says.
    fn deadline(&self) -> Result<Option<u64>, ()> {
        let Some(value) = self.headers.get("grpc-timeout") else {
            return Ok(None);
        };
        let value = value.to_str().map_err(|_| ())?;
        let digits = value
            .strip_suffix(['H', 'M', 'S', 'm', 'u', 'n'])
            .ok_or(())?;
        let clean = digits.chars().all(|c| c.is_ascii_digit()) && digits.len() <= 8;
        clean
            .then(|| digits.parse().map_err(|_| ()))
            .ok_or(())?
            .map(Some)
    }

    fn caller(&self) -> Option<Who> {
        let header = self.headers.get("authorization");
        let header = header.and_then(|value| value.to_str().ok());
        let key = header.and_then(|header| {
            let (scheme, key) = header.split_once(' ')?;
            (scheme.to_lowercase() == "bearer").then(|| key.trim_start())
        });
        match key {
            Some(KEY) => Some(Who::Orders),
            Some(ADMIN_KEY) => Some(Who::Ops),
            None if self.peer == Peer::Unix => Some(Who::Ops),
            _ => None,
        }
    }

    /// What is asked for, if it is well formed.
    fn asked(&self) -> Option<ForceRefreshRequest> {
        let (head, message) = self.body.split_at_checked(5)?;
        let length = u32::from_be_bytes(head[1..].try_into().ok()?) as usize;
        if head[0] != 0 || length != message.len() || length > 64 * 1024 {
            return None;
        }
        let method = self.path.path().strip_prefix(SERVICE);
        let asked = match method? {
            "ForceRefresh" => {
                let asked = ForceRefreshRequest::decode(message).ok()?;
                let named = asked.stale_generation > 0 || !asked.stale_token.is_empty();
                Some(asked).filter(|asked| named && asked.stale_token.len() <= 8192)?
            }
            "WatchToken" => ForceRefreshRequest {
                app_id: WatchTokenRequest::decode(message).ok()?.app_id,
                ..Default::default()
            },
            _ => ForceRefreshRequest {
                app_id: GetTokenRequest::decode(message).ok()?.app_id,
                ..Default::default()
            },
        };
        let length = asked.app_id.chars().count();
        Some(asked).filter(|_| (1..=64).contains(&length))
    }
}

enum Who {
    Orders,
    Ops,
}

type Chunks = StreamBody<tokio_stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Status>>>>;

/// What a caller hears.
struct Heard {
    code: Code,
    message: String,
    /// All but the data.
    headers: Vec<HeaderMap>,
    details: Bytes,
    data: Vec<u8>,
}

impl Heard {
    async fn from<B>(response: http::Response<B>) -> Self
    where
        B: Body<Data = Bytes, Error = Status>,
    {
        assert_eq!(
            response.status(),
            200,
            "gRPC says what is wrong in its own words"
        );
        let (head, body) = response.into_parts();
        let (mut headers, mut data) = (vec![head.headers], Vec::new());
        let mut body = std::pin::pin!(body);
        // A reader who knows the token hears of it with the first heartbeat. What follows the first
        // message at once belongs to it; a stream may go on for ever.
        let patience = |data: &[u8]| Duration::from_secs(if data.is_empty() { 40 } else { 1 });
        while let Ok(Some(frame)) = timeout(patience(&data), body.frame()).await {
            let frame = frame.expect("a status is no error of the transport");
            match frame.into_data() {
                Ok(chunk) => data.extend_from_slice(&chunk),
                Err(frame) => headers.extend(frame.into_trailers().ok()),
            }
            if data.len() > 1024 * 1024 {
                break;
            }
        }
        let statuses = headers.iter().filter_map(Status::from_header_map);
        let mut statuses: Vec<Status> = statuses.collect();
        assert!(statuses.len() <= 1, "two statuses");
        let status = statuses.pop().unwrap_or_else(|| {
            assert!(!data.is_empty(), "neither a message nor a status");
            Status::ok("")
        });
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            headers,
            details: Bytes::copy_from_slice(status.details()),
            data,
        }
    }

    fn is_well_formed(&self) {
        assert!(self.message.len() <= LONGEST_MESSAGE, "{}", self.message);
        for headers in &self.headers {
            let size =
                |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 32;
            let size: usize = headers.iter().map(size).sum();
            assert!(size <= LONGEST_HEADERS, "{size} bytes of headers");
        }
    }

    /// No status tells a key or a token, unless the caller told it first where nothing secret belongs.
    fn keeps_secrets(&self, call: &Call) {
        for secret in [KEY, ADMIN_KEY, TOKEN] {
            if !call.tells(secret) {
                assert!(!self.message.contains(secret), "{}", self.message);
                assert!(
                    !contains(&self.details, secret),
                    "a secret is in the details"
                );
                for (name, value) in self.headers.iter().flatten() {
                    // The message is looked at above; as it is sent, `\x17` and `0` would be `%170`.
                    let fine = name == "grpc-message" || !contains(value.as_bytes(), secret);
                    assert!(fine, "{name} tells a secret");
                }
            }
        }
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    let text = text.as_bytes();
    bytes.windows(text.len()).any(|window| window == text)
}

struct Served {
    shop: Shop,
    server: Server,
}

impl Served {
    fn new() -> Self {
        let settings = config::Grpc {
            listen: Listen::Tcp("127.0.0.1:0".into()),
            ..config::Grpc::default()
        };
        let (shop, server) = Shop::new(async |tokens, access| {
            let server = Server::bind(&settings, tokens, access, &Metrics::new()).await;
            server.expect("there is a free port")
        });
        Self { shop, server }
    }

    /// What `call` hears if it arrives in chunks of the lengths `cuts`.
    fn call(&mut self, call: &Call, cuts: &[usize]) -> Heard {
        let request = call.request(cuts);
        let heard = async { Heard::from(self.server.answer(request, call.peer).await).await };
        self.shop.hear(heard)
    }
}
