//! Certificates made for a test, and streams that trust them.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// A certificate that vouches for itself, with its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// As servers and `ca_file`s want it.
    pub pem: String,
    /// Its private key.
    pub key_pem: String,
    der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

/// A client's end of a TLS connection.
pub type TlsClient = StreamOwned<ClientConnection, TcpStream>;

impl Certificate {
    /// Good for `name`.
    pub fn new(name: &str) -> Certificate {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a name that can stand in one");
        Certificate {
            pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
            der: made.cert.der().clone(),
            key_der: made.signing_key.serialize_der(),
        }
    }

    /// Connects to `address` and asks for `name`, trusting this certificate only. `protocols` are offered by ALPN.
    ///
    /// # Errors
    /// Whatever the handshake ends with.
    pub fn connect(&self, address: &str, name: &str, protocols: &[&[u8]]) -> std::io::Result<TlsClient> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a certificate");
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("usual versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut stream = StreamOwned::new(connection, stream);
        stream.conn.complete_io(&mut stream.sock)?;
        Ok(stream)
    }

    /// The server's end of TLS with a client that has just connected.
    pub fn accept(&self, stream: TcpStream) -> StreamOwned<ServerConnection, TcpStream> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key_der.clone()));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("usual versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], key)
            .expect("a key that fits");
        StreamOwned::new(ServerConnection::new(Arc::new(config)).expect("a server"), stream)
    }
}
