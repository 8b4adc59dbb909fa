//! Whom we believe to be WeChat.
//!
//! The usual certificates are built into the program, because reqwest's own choice fails to start in
//! an image that has none. The provider of the cryptography is named here, so nobody has to install
//! one for the whole process.

use std::{io::Error, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::OpenError;

/// Trusts the certificates built in, and those in `ca_file`.
pub(super) fn config(ca_file: Option<&Path>) -> Result<ClientConfig, OpenError> {
    let mut roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
    if let Some(path) = ca_file {
        let place = || path.display().to_string();
        let more = certificates(path).map_err(|source| OpenError::CaFile {
            place: place(),
            source,
        })?;
        let (added, _) = roots.add_parsable_certificates(more);
        if added == 0 {
            let source = Error::other("it holds no certificate");
            return Err(OpenError::CaFile {
                place: place(),
                source,
            });
        }
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows the default versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Nothing may be sent before the handshake is through: it could be sent twice.
    config.enable_early_data = false;
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = std::fs::read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>();
    certificates.map_err(|_| Error::other("it is not PEM"))
}
