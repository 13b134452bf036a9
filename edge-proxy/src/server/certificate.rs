//! The certificate of the TLS listener, which can be renewed while connections are open.

use std::fmt;
use std::sync::Arc;

use anyhow::{Context, ensure};
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::config::TlsConfig;

/// The certificate in use. Handshakes from now on take the newest.
pub struct Certificate {
    current: ArcSwap<CertifiedKey>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate")
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl Certificate {
    /// # Errors
    /// A file cannot be read, is not PEM, or the key is not the certificate's.
    pub fn load(config: &TlsConfig) -> anyhow::Result<Self> {
        Ok(Self { current: ArcSwap::from_pointee(read(config)?) })
    }

    /// Reads the files again; on an error the old certificate stays.
    ///
    /// # Errors
    /// As [`Certificate::load`].
    pub fn renew(&self, config: &TlsConfig) -> anyhow::Result<()> {
        self.current.store(Arc::new(read(config)?));
        Ok(())
    }
}

/// Does handshakes with `certificate`, TLS 1.2 and 1.3.
///
/// # Errors
/// None in practice: the crypto library knows both versions.
pub fn acceptor(certificate: Arc<Certificate>, http2: bool) -> anyhow::Result<TlsAcceptor> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS")?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read(config: &TlsConfig) -> anyhow::Result<CertifiedKey> {
    let file = &config.certificate_file;
    let chain = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("[listen.tls] certificate_file: cannot read {}", file.display()))?;
    ensure!(!chain.is_empty(), "[listen.tls] certificate_file: no certificate in {}", file.display());
    let file = &config.key_file;
    let key = PrivateKeyDer::from_pem_file(file)
        .with_context(|| format!("[listen.tls] key_file: cannot read {}", file.display()))?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .context("[listen.tls] the key does not belong to the certificate")
}
