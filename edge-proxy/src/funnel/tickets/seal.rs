//! What a ticket is: a few bytes under an HMAC, in base64url.
//!
//! ```text
//! version 1 | length of key id | key id | expires, unix ms, 8 bytes | hold id, 16 bytes | buyer | HMAC-SHA256, 32 bytes
//! ```
//!
//! The HMAC covers the sale's name too, which stands in the URL and not in the ticket. Everything a buyer could
//! change is under it, it is compared in constant time, and nothing is believed before that.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use secrecy::ExposeSecret;
use serde::Deserialize;

use crate::config::secret;
use crate::http::routes::NAME_BYTES_MAX;

/// One of `[[tickets.keys]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketKeyConfig {
    /// Names the key inside tickets.
    pub id: String,
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    #[serde(default)]
    pub secret_env: Option<String>,
}

const VERSION: u8 = 1;
const KEY_ID_BYTES_MAX: usize = 32;
const HOLD_ID_BYTES: usize = 16;
const MAC_BYTES: usize = 32;
const TICKET_BYTES_MAX: usize = 2 + KEY_ID_BYTES_MAX + 8 + HOLD_ID_BYTES + NAME_BYTES_MAX + MAC_BYTES;
const TICKET_CHARS_MAX: usize = TICKET_BYTES_MAX.div_ceil(3) * 4;

/// A shorter secret can be guessed off-line from one ticket.
const SECRET_BYTES_MIN: usize = 32;

/// What the HMAC begins with: a secret that is used for something else too signs no tickets by accident.
const CONTEXT: &[u8] = b"flashsale ticket 1\0";

/// A ticket that was ours and is still good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The hold that this ticket is good for: the same, however often it is shown.
    pub hold: Bytes,
    pub buyer: Bytes,
    pub expires_ms: u64,
}

/// The keys: the first signs, all verify. So a new key is first added to every proxy behind the old one, then
/// moved to the front, and the old one is taken away when the last ticket under it has expired.
pub struct Seal {
    keys: Vec<(Vec<u8>, hmac::Key)>,
}

impl Seal {
    /// # Errors
    /// There is no key, one cannot be read or is too short, or two have the same id.
    pub fn new(configs: &[TicketKeyConfig]) -> anyhow::Result<Self> {
        ensure!(!configs.is_empty(), "[tickets] has no keys; add one [[tickets.keys]] with an id and a secret");
        let mut keys: Vec<(Vec<u8>, hmac::Key)> = Vec::new();
        for config in configs {
            let name = format!("[[tickets.keys]] {:?}", config.id);
            ensure!(
                (1..=KEY_ID_BYTES_MAX).contains(&config.id.len()),
                "{name}: an id has 1 to {KEY_ID_BYTES_MAX} bytes"
            );
            ensure!(keys.iter().all(|(id, _)| id != config.id.as_bytes()), "{name}: two keys have this id");
            let secret =
                secret::read(&format!("{name} secret"), config.secret_file.as_deref(), config.secret_env.as_deref())?
                    .with_context(|| format!("{name}: set secret_file or secret_env"))?;
            let secret = secret.expose_secret().as_bytes();
            ensure!(
                secret.len() >= SECRET_BYTES_MIN,
                "{name}: a secret of {} bytes can be guessed; use at least {SECRET_BYTES_MIN}",
                secret.len()
            );
            keys.push((config.id.clone().into_bytes(), hmac::Key::new(HMAC_SHA256, secret)));
        }
        Ok(Self { keys })
    }

    /// Writes a ticket for one hold of `buyer` in the sale `sale`. `hold` is chosen at random by the caller.
    pub fn write(&self, sale: &[u8], buyer: &[u8], expires_ms: u64, hold: u128) -> String {
        let (id, key) = &self.keys[0];
        let mut ticket = Vec::with_capacity(TICKET_BYTES_MAX);
        ticket.push(VERSION);
        ticket.push(id.len() as u8);
        ticket.extend_from_slice(id);
        ticket.extend_from_slice(&expires_ms.to_be_bytes());
        ticket.extend_from_slice(&hold.to_be_bytes());
        ticket.extend_from_slice(buyer);
        let mac = sign(key, sale, &ticket);
        ticket.extend_from_slice(mac.as_ref());
        URL_SAFE_NO_PAD.encode(ticket)
    }

    /// Reads a ticket for the sale `sale` at `now_ms`.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub fn read(&self, text: &[u8], sale: &[u8], now_ms: u64) -> Result<Ticket, &'static str> {
        let mut buffer = [0; TICKET_CHARS_MAX];
        if text.len() > TICKET_CHARS_MAX {
            return Err(MALFORMED);
        }
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut buffer).map_err(|_| MALFORMED)?;
        let (signed, mac) = buffer[..length].split_last_chunk::<MAC_BYTES>().ok_or(MALFORMED)?;
        let ([VERSION, id_length], rest) = signed.split_first_chunk().ok_or(MALFORMED)? else {
            return Err(MALFORMED);
        };
        let (id, rest) = rest.split_at_checked((*id_length).into()).ok_or(MALFORMED)?;
        let (expires_ms, rest) = rest.split_first_chunk().ok_or(MALFORMED)?;
        let (hold, buyer) = rest.split_first_chunk().ok_or(MALFORMED)?;
        let (_, key) = self.keys.iter().find(|(known, _)| known == id).ok_or(NOT_OURS)?;
        verify(key, sale, signed, mac)?;
        let expires_ms = u64::from_be_bytes(*expires_ms);
        if now_ms >= expires_ms {
            return Err("The ticket has expired; fetch a new one.");
        }
        if buyer.is_empty() || buyer.len() > NAME_BYTES_MAX {
            return Err(MALFORMED);
        }
        let hold = Bytes::from(format!("{:032x}", u128::from_be_bytes(*hold)));
        Ok(Ticket { hold, buyer: Bytes::copy_from_slice(buyer), expires_ms })
    }
}

const MALFORMED: &str = "This is no ticket; fetch one.";
const NOT_OURS: &str = "The ticket is not one of this sale; fetch one.";

fn sign(key: &hmac::Key, sale: &[u8], ticket: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(CONTEXT);
    context.update(&(sale.len() as u64).to_be_bytes());
    context.update(sale);
    context.update(ticket);
    context.sign()
}

fn verify(key: &hmac::Key, sale: &[u8], ticket: &[u8], mac: &[u8; MAC_BYTES]) -> Result<(), &'static str> {
    use subtle::ConstantTimeEq;
    let same = sign(key, sale, ticket).as_ref().ct_eq(mac);
    if same.into() { Ok(()) } else { Err(NOT_OURS) }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn seal(keys: &[(&str, u8)]) -> Seal {
        let configs: Vec<_> = keys
            .iter()
            .map(|(id, byte)| {
                let mut file = tempfile::NamedTempFile::new().unwrap();
                std::io::Write::write_all(&mut file, &[*byte; 32]).unwrap();
                let secret_file = Some(file.into_temp_path().keep().unwrap());
                TicketKeyConfig { id: (*id).to_owned(), secret_file, secret_env: None }
            })
            .collect();
        Seal::new(&configs).unwrap()
    }

    fn written() -> (Seal, String) {
        let seal = seal(&[("a", b'a')]);
        let ticket = seal.write(b"s", b"anna", NOW_MS + 1, 0xff);
        (seal, ticket)
    }

    #[test]
    fn a_ticket_says_whose_and_which_hold() {
        let (seal, text) = written();
        let ticket = seal.read(text.as_bytes(), b"s", NOW_MS).unwrap();
        assert_eq!(&ticket.buyer[..], b"anna");
        assert_eq!(&ticket.hold[..], b"000000000000000000000000000000ff");
        assert_eq!(ticket.expires_ms, NOW_MS + 1);
    }

    #[test]
    fn it_is_bound_to_its_sale_and_time() {
        let (seal, text) = written();
        assert!(seal.read(text.as_bytes(), b"s", NOW_MS + 1).unwrap_err().contains("expired"));
        for sale in [&b"t"[..], b"", b"ss", b"s\0"] {
            assert_eq!(seal.read(text.as_bytes(), sale, NOW_MS), Err(NOT_OURS));
        }
        // Not even if name and ticket flow into each other.
        let longer = seal.write(b"s\x01", b"anna", NOW_MS + 1, 1);
        assert_eq!(seal.read(longer.as_bytes(), b"s", NOW_MS), Err(NOT_OURS));
    }

    #[test]
    fn keys_change_without_a_gap() {
        let (old, both, turned, new) = (
            seal(&[("a", b'a')]),
            seal(&[("a", b'a'), ("b", b'b')]),
            seal(&[("b", b'b'), ("a", b'a')]),
            seal(&[("b", b'b')]),
        );
        let read = |seal: &Seal, text: &str| seal.read(text.as_bytes(), b"s", NOW_MS).is_ok();
        let write = |seal: &Seal| seal.write(b"s", b"anna", NOW_MS + 1, 7);
        assert!(read(&both, &write(&old)) && read(&old, &write(&both)));
        assert!(read(&turned, &write(&both)) && read(&both, &write(&turned)));
        assert!(read(&turned, &write(&old)) && read(&new, &write(&turned)));
        assert!(!read(&new, &write(&old)) && !read(&old, &write(&new)));
        // The same id with another secret is another key.
        assert!(!read(&seal(&[("a", b'x')]), &write(&old)));
    }

    #[test]
    fn no_bit_of_a_ticket_can_be_changed() {
        let (seal, text) = written();
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for place in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[place / 8] ^= 1 << (place % 8);
            seal.read(URL_SAFE_NO_PAD.encode(forged).as_bytes(), b"s", NOW_MS).unwrap_err();
        }
        for length in 0..bytes.len() {
            seal.read(URL_SAFE_NO_PAD.encode(&bytes[..length]).as_bytes(), b"s", NOW_MS).unwrap_err();
            seal.read(URL_SAFE_NO_PAD.encode(&bytes[length + 1..]).as_bytes(), b"s", NOW_MS).unwrap_err();
        }
        for place in 0..text.len() {
            for letter in b"Aa0-_=+/. \0\xff" {
                let mut forged = text.clone().into_bytes();
                if std::mem::replace(&mut forged[place], *letter) != *letter {
                    seal.read(&forged, b"s", NOW_MS).unwrap_err();
                }
                forged = text.clone().into_bytes();
                forged.insert(place, *letter);
                seal.read(&forged, b"s", NOW_MS).unwrap_err();
            }
        }
    }

    #[test]
    fn noise_is_no_ticket() {
        let (seal, _) = written();
        let mut rng = rand::rng();
        for round in 0..20_000_usize {
            let noise: Vec<u8> = (0..round % 400).map(|_| rng.random()).collect();
            seal.read(&noise, b"s", NOW_MS).unwrap_err();
            // Noise that gets past base64, and further.
            let mut bytes = vec![VERSION, 1, b'a'];
            bytes.extend_from_slice(&noise[..noise.len().min(200)]);
            seal.read(URL_SAFE_NO_PAD.encode(bytes).as_bytes(), b"s", NOW_MS).unwrap_err();
        }
    }

    #[test]
    fn the_longest_names_fit() {
        let id = "k".repeat(KEY_ID_BYTES_MAX);
        let seal = seal(&[(&id, b'a')]);
        let text = seal.write(&[b's'; NAME_BYTES_MAX], &[0xff; NAME_BYTES_MAX], u64::MAX, u128::MAX);
        assert!(text.len() <= TICKET_CHARS_MAX);
        let ticket = seal.read(text.as_bytes(), &[b's'; NAME_BYTES_MAX], NOW_MS).unwrap();
        assert_eq!(ticket.buyer.len(), NAME_BYTES_MAX);
    }

    #[test]
    fn keys_that_make_no_sense_are_refused() {
        let error = |configs: &[TicketKeyConfig]| format!("{:#}", Seal::new(configs).err().unwrap());
        let key = |id: &str, secret: &str| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            std::io::Write::write_all(&mut file, secret.as_bytes()).unwrap();
            let secret_file = Some(file.into_temp_path().keep().unwrap());
            TicketKeyConfig { id: id.to_owned(), secret_file, secret_env: None }
        };
        let long = "a secret that is long enough for this";
        assert!(error(&[]).contains("no keys"));
        assert!(error(&[key("a", "short")]).contains("guessed"));
        assert!(error(&[key("", long)]).contains("1 to 32"));
        assert!(error(&[key("a", long), key("a", long)]).contains("two keys"));
        let nothing = TicketKeyConfig { id: "a".to_owned(), secret_file: None, secret_env: None };
        assert!(error(&[nothing]).contains("secret_file or secret_env"));
    }
}
