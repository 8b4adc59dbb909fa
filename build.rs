//! Generates the gRPC code from `proto/` with a compiler written in Rust, so that nobody has to
//! install `protoc`, and leaves the descriptors beside it for reflection.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use prost::Message;

const CONTRACT: &str = "wxtokend/v1/token_service.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_file(CONTRACT)?;
    tonic_prost_build::configure()
        // The messages that carry a token or a reported one get a redacting `Debug` in `pb.rs`.
        .skip_debug(["wxtokend.v1.Token", "wxtokend.v1.ForceRefreshRequest"])
        .compile_fds(compiler.file_descriptor_set())?;

    lean(&out.join("wxtokend.v1.rs"), &out.join("lean.rs"))?;

    // Reflection serves the shape, not the comments.
    compiler.include_source_info(false);
    fs::write(
        out.join("wxtokend_descriptor.bin"),
        compiler.file_descriptor_set().encode_to_vec(),
    )?;
    Ok(())
}

/// Puts our codec in the place of tonic's, which the generator cannot be told to do. What it made stays
/// beside it: the benchmark measures us against that.
fn lean(generated: &Path, lean: &Path) -> Result<(), Box<dyn Error>> {
    const TONICS: &str = "tonic_prost::ProstCodec::default()";
    let code = fs::read_to_string(generated)?;
    if !code.contains(TONICS) {
        return Err("the generated code names its codec in another way".into());
    }
    fs::write(lean, code.replace(TONICS, "super::Lean::default()"))?;
    Ok(())
}
