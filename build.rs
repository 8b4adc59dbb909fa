//! Generates the gRPC code from `proto/` with a compiler written in Rust, so that nobody has to
//! install `protoc`, and leaves the descriptors beside it for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const CONTRACT: &str = "wxtokend/v1/token_service.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_file(CONTRACT)?;
    tonic_prost_build::configure()
        // The messages that carry a token or a reported one get a redacting `Debug` in `pb.rs`.
        .skip_debug(["wxtokend.v1.Token", "wxtokend.v1.ForceRefreshRequest"])
        .compile_fds(compiler.file_descriptor_set())?;

    // Reflection serves the shape, not the comments.
    compiler.include_source_info(false);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(
        out.join("wxtokend_descriptor.bin"),
        compiler.file_descriptor_set().encode_to_vec(),
    )?;
    Ok(())
}
