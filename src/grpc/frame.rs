//! gRPC's frames: a byte for compression, four for the length, then a message.
//!
//! tonic's own reader and writer take 8 KiB each for every call, and a stream keeps them as long as it
//! lives: more than everything else it needs. A token message has 300 to 700 bytes, so here every
//! message gets just the memory it takes.

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt;
use prost::Message;
use tonic::{Status, metadata::MetadataValue};
use tonic_types::FieldViolation;

use super::status;

const HEAD: usize = 5;

/// The frame of `message`.
pub(super) fn of(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEAD + length);
    frame.put_u8(0); // not compressed
    frame.put_u32(length.try_into().expect("far less than 4 GiB"));
    message.encode(&mut frame).expect("there is room for it");
    frame.freeze()
}

/// The message of a request that has just one, of `most` bytes at the longest.
pub(super) async fn only<M: Message + Default>(
    body: impl Body<Data = Bytes, Error = Status> + Unpin,
    most: usize,
) -> Result<M, Status> {
    let body = whole(body, HEAD + most).await?;
    let (head, message) = body.split_at_checked(HEAD).ok_or_else(unreadable)?;
    let length = head[1..].iter().fold(0, |n, &b| n << 8 | usize::from(b));
    if head[0] != 0 || length != message.len() {
        return Err(unreadable());
    }
    M::decode(message).map_err(|_| unreadable())
}

async fn whole(
    mut body: impl Body<Data = Bytes, Error = Status> + Unpin,
    most: usize,
) -> Result<Bytes, Status> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            break; // trailers: nothing follows them
        };
        if first.len() + all.len() + data.len() > most {
            return Err(unreadable());
        }
        if first.is_empty() && all.is_empty() {
            first = data; // and nothing else, nearly always
        } else {
            all.put(std::mem::take(&mut first));
            all.put(data);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// We offer no compression, so nobody may compress.
pub(super) fn not_compressed(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get("grpc-encoding") {
        None => Ok(()),
        Some(encoding) if encoding == "identity" => Ok(()),
        Some(_) => {
            let mut status = Status::unimplemented("requests must not be compressed");
            let accepted = MetadataValue::from_static("identity");
            let metadata = status.metadata_mut();
            metadata.insert("grpc-accept-encoding", accepted);
            Err(status)
        }
    }
}

fn unreadable() -> Status {
    let problem = "is no message of the contract, or longer than `grpc.max_request_bytes` allows";
    status::bad_request(vec![FieldViolation::new("request", problem)])
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tonic::Code;

    use super::*;
    use crate::pb::GetTokenRequest;

    const LONGEST: usize = 64 * 1024;

    fn ask(app_id: &str) -> GetTokenRequest {
        let app_id = app_id.to_owned();
        GetTokenRequest { app_id }
    }

    async fn read(chunks: &[&[u8]]) -> Result<GetTokenRequest, Code> {
        let chunks: Vec<_> = chunks.iter().map(|c| Bytes::copy_from_slice(c)).collect();
        let frames = chunks.into_iter().map(Frame::data).map(Ok::<_, Status>);
        let body = StreamBody::new(tokio_stream::iter(frames));
        let read = only(body, LONGEST).await;
        read.map_err(|status| status.code())
    }

    #[tokio::test]
    async fn what_is_written_is_read_however_it_is_cut() {
        for request in [ask(""), ask("shop"), ask(&"店".repeat(20_000))] {
            let frame = of(&request);
            assert_eq!(read(&[&frame]).await.as_ref(), Ok(&request));
            for at in [1, 4, 5, 6, frame.len() / 2] {
                let (one, other) = frame.split_at(at.min(frame.len()));
                assert_eq!(read(&[one, b"", other]).await.as_ref(), Ok(&request));
            }
        }
        let frame = of(&ask("shop"));
        let bytes: Vec<_> = frame.chunks(1).collect();
        assert_eq!(read(&bytes).await, Ok(ask("shop")));
    }

    #[tokio::test]
    async fn what_is_no_frame_or_no_message_is_a_bad_request() {
        let long = of(&ask(&"x".repeat(LONGEST)));
        let table: &[&[&[u8]]] = &[
            &[],
            &[b""],
            &[b"\0\0\0\0"],
            &[b"\0\0\0\0\x01"],
            &[b"\0\0\0\0\0\0"],
            &[b"\x01\0\0\0\0"],
            &[b"\x02\0\0\0\0"],
            &[b"\0\xff\xff\xff\xff"],
            &[b"\0\0\0\0\x02\x0a\x05"],
            &[b"\0\0\0\0\x03\x0a\x01\xff"],
            &[b"\0\0\0\0\0", b"\0\0\0\0\0"],
            &[&long],
            &[&long[..1000], &long[1000..]],
        ];
        for chunks in table {
            assert_eq!(read(chunks).await, Err(Code::InvalidArgument));
        }
        assert_eq!(read(&[b"\0\0\0\0\0"]).await, Ok(ask("")));
    }

    #[test]
    fn a_compressed_request_is_told_what_is_accepted() {
        let with = |encoding: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-encoding", HeaderValue::from_static(encoding));
            not_compressed(&headers)
        };
        let refused = with("gzip").unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
        let accepted = refused.metadata().get("grpc-accept-encoding").unwrap();
        assert_eq!(accepted, "identity");
        assert!(with("identity").is_ok() && not_compressed(&HeaderMap::new()).is_ok());
    }
}
