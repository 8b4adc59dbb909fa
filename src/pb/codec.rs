//! A codec with buffers of the size of our messages.
//!
//! tonic's own takes 8 KiB for every request and as much for every answer, and a stream keeps that for
//! as long as it lives: more than everything else it needs. A token message has 300 to 700 bytes.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder};

/// For a request; it grows with one that needs more.
const REQUEST: usize = 256;

/// What is encoded beyond this is passed on before more is.
const PASS_ON: usize = 32 * 1024;

/// Encodes `T`, decodes `U`.
#[derive(Debug)]
pub struct Lean<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Lean<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Lean<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Exact<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        Exact(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(REQUEST, PASS_ON))
    }
}

/// Takes as much memory as the message needs, and leaves none behind.
#[derive(Debug)]
pub struct Exact<T>(PhantomData<T>);

impl<T: Message> Encoder for Exact<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.reserve(message.encoded_len());
        let encoded = message.encode(into);
        encoded.map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(0, PASS_ON)
    }
}
