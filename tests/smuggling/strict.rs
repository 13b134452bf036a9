//! A reader of HTTP/1.1 requests that takes nothing which two readers could take differently (RFC 9112).

/// A request as this reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What stands at the beginning of some bytes.
pub enum Next {
    Request(Seen, usize),
    /// More must come; of the request so far only its head may be there.
    Incomplete(Option<Seen>),
    /// Something that might be read in two ways, and what.
    Ambiguous(String),
}

/// Reads the first request in `bytes`.
pub fn next(bytes: &[u8]) -> Next {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Next::Incomplete(None);
    };
    let seen = match head(&bytes[..end]) {
        Ok(seen) => seen,
        Err(what) => return Next::Ambiguous(what),
    };
    let start = end + 4;
    match body(&seen, &bytes[start..]) {
        Ok(Some((body, length))) => Next::Request(Seen { body, ..seen }, start + length),
        Ok(None) => Next::Incomplete(Some(seen)),
        Err(what) => Next::Ambiguous(what),
    }
}

fn head(bytes: &[u8]) -> Result<Seen, String> {
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    if text.replace("\r\n", "").contains(['\r', '\n', '\0']) {
        return Err(format!("a bare CR, LF or NUL: {text:?}"));
    }
    let words: Vec<&str> = first.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else {
        return Err(format!("the first line is {first:?}"));
    };
    let printable = target.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_token(method) || !printable || !(target.starts_with('/') || target == "*") {
        return Err(format!("the first line is {first:?}"));
    }
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("no header: {line:?}"))?;
        if !is_token(name) {
            return Err(format!("the name of {line:?}"));
        }
        headers.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
    Ok(Seen { method: method.to_owned(), target: target.to_owned(), headers, body: Vec::new() })
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// The body and its length on the wire; `None` if more must come.
fn body(seen: &Seen, bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let values = |name: &str| -> Vec<&str> {
        seen.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect()
    };
    if values("host").len() != 1 {
        return Err(format!("{} hosts", values("host").len()));
    }
    match (values("content-length")[..].as_ref(), values("transfer-encoding")[..].as_ref()) {
        ([], []) => Ok(Some((Vec::new(), 0))),
        ([length], []) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length: usize = length.parse().map_err(|_| format!("a length of {length}"))?;
            Ok((bytes.len() >= length).then(|| (bytes[..length].to_vec(), length)))
        }
        ([], ["chunked"]) => chunks(bytes),
        (lengths, encodings) => Err(format!("lengths {lengths:?} and encodings {encodings:?}")),
    }
}

fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = bytes[at..].windows(2).position(|window| window == b"\r\n") else {
            return Ok(None);
        };
        let size = String::from_utf8_lossy(&bytes[at..at + end]).into_owned();
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("a chunk of size {size:?}"));
        }
        let size = usize::from_str_radix(&size, 16).map_err(|_| format!("a chunk of size {size:?}"))?;
        at += end + 2;
        if bytes.len() < at.saturating_add(size).saturating_add(2) {
            return Ok(None);
        }
        body.extend_from_slice(&bytes[at..at + size]);
        at += size;
        if &bytes[at..at + 2] != b"\r\n" {
            // Behind the last chunk a trailer may stand; the proxy has no reason to send one.
            return Err(format!("behind a chunk: {:?}", bytes[at..].escape_ascii().to_string()));
        }
        at += 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}
