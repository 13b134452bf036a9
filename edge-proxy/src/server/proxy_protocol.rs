//! Reads the PROXY protocol header with which a load balancer begins a connection.

use std::io;
use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;
/// Longest line of version 1, its end counted (the specification's section 2.1).
const LINE_BYTES_MAX: usize = 107;
/// Addresses and extensions; the specification says that senders stay far below.
const VERSION_2_BYTES_MAX: usize = 2048;

/// The client's address, or `None` if the load balancer speaks for itself. Reads not one byte more than the
/// header: what follows may be TLS.
///
/// # Errors
/// It is no such header, of another transport than a stream, or too long; or reading fails.
pub async fn read<S: AsyncRead + Unpin + ?Sized>(stream: &mut S) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        header.resize(FIXED_BYTES, 0);
        stream.read_exact(&mut header[SIGNATURE.len()..]).await?;
        let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if rest > VERSION_2_BYTES_MAX {
            return Err(nonsense("longer than any"));
        }
        header.resize(FIXED_BYTES + rest, 0);
        stream.read_exact(&mut header[FIXED_BYTES..]).await?;
    } else if header.starts_with(b"PROXY ") {
        while !header.ends_with(b"\r\n") {
            if header.len() == LINE_BYTES_MAX {
                return Err(nonsense("a line without an end"));
            }
            header.push(stream.read_u8().await?);
        }
    } else {
        return Err(nonsense("something else"));
    }
    let (parsed, length) =
        ProxyHeader::parse(&header, ParseConfig::default()).map_err(|error| nonsense(&error.to_string()))?;
    if length != header.len() {
        return Err(nonsense("shorter than it says"));
    }
    Ok(parsed
        .proxied_address()
        .map(|address| SocketAddr::new(address.source.ip().to_canonical(), address.source.port())))
}

fn nonsense(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a PROXY protocol header: {what}"))
}

#[cfg(test)]
mod tests {
    use proxy_header::ProxiedAddress;

    use super::*;

    async fn read_all(bytes: &[u8]) -> io::Result<(Option<String>, Vec<u8>)> {
        let mut left = bytes;
        let client = read(&mut left).await?;
        Ok((client.map(|client| client.to_string()), left.to_vec()))
    }

    fn version_2(source: &str, destination: &str) -> Vec<u8> {
        let address = ProxiedAddress::stream(source.parse().unwrap(), destination.parse().unwrap());
        let mut bytes = Vec::new();
        ProxyHeader::with_address(address).encode_v2(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn both_versions_and_not_a_byte_more() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 5678 443\r\nGET /".to_vec();
        assert_eq!(read_all(&line).await.unwrap(), (Some("192.0.2.1:5678".into()), b"GET /".to_vec()));
        let line = b"PROXY TCP6 2001:db8::1 2001:db8::2 5678 443\r\n\x16\x03";
        assert_eq!(read_all(line).await.unwrap(), (Some("[2001:db8::1]:5678".into()), b"\x16\x03".to_vec()));
        let mut bytes = version_2("192.0.2.1:5678", "192.0.2.2:443");
        bytes.extend_from_slice(b"rest");
        assert_eq!(read_all(&bytes).await.unwrap(), (Some("192.0.2.1:5678".into()), b"rest".to_vec()));
    }

    #[tokio::test]
    async fn a_load_balancer_may_speak_for_itself() {
        assert_eq!(read_all(b"PROXY UNKNOWN\r\n").await.unwrap(), (None, Vec::new()));
        let mut local = Vec::new();
        ProxyHeader::with_local().encode_v2(&mut local).unwrap();
        assert_eq!(read_all(&local).await.unwrap(), (None, Vec::new()));
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        let mut endless = b"PROXY TCP4 ".to_vec();
        endless.resize(4000, b'1');
        let mut long = version_2("192.0.2.1:5678", "192.0.2.2:443");
        long[14] = 0xff;
        for bytes in [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1\r\n".to_vec(),
            b"PROXY TCP4 999.0.2.1 192.0.2.2 5678 443\r\n".to_vec(),
            b"PROXY ".to_vec(),
            Vec::new(),
            SIGNATURE.to_vec(),
            endless,
            long,
        ] {
            read_all(&bytes).await.expect_err(&bytes.escape_ascii().to_string());
        }
    }
}
