//! Lines into words: blanks part them, quotes keep blanks and any bytes.

/// One word of a command or of an expected reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// What it stands for, escapes undone.
    pub bytes: Vec<u8>,
    /// Whether it stood in quotes, and so means nothing but itself.
    pub quoted: bool,
}

impl Word {
    /// The text of a word without quotes.
    pub fn bare(&self) -> Option<&str> {
        if self.quoted { None } else { std::str::from_utf8(&self.bytes).ok() }
    }
}

/// Splits a line. `alone` are characters that are words of their own where they stand outside quotes.
///
/// `"..."` knows `\"`, `\\`, `\n`, `\r`, `\t`, `\0` and `\xHH`; `"ab"*64` is repeated so often.
pub fn split(line: &str, alone: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        if alone.contains(first) {
            words.push(Word { bytes: first.to_string().into_bytes(), quoted: false });
            rest = &rest[first.len_utf8()..];
        } else if first == '"' {
            let (bytes, after) = quoted(&rest[1..])?;
            let (times, after) = repetition(after)?;
            words.push(Word { bytes: bytes.repeat(times), quoted: true });
            rest = after;
        } else {
            let end = rest.find(|c: char| c.is_whitespace() || alone.contains(c)).unwrap_or(rest.len());
            words.push(Word { bytes: rest.as_bytes()[..end].to_vec(), quoted: false });
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(words)
}

fn quoted(text: &str) -> Result<(Vec<u8>, &str), String> {
    let mut bytes = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((bytes, &text[at + 1..])),
            '\\' => match chars.next().map(|(_, escape)| escape) {
                Some('n') => bytes.push(b'\n'),
                Some('r') => bytes.push(b'\r'),
                Some('t') => bytes.push(b'\t'),
                Some('0') => bytes.push(0),
                Some(itself @ ('"' | '\\')) => bytes.push(itself as u8),
                Some('x') => {
                    let hex: String = chars.by_ref().take(2).map(|(_, digit)| digit).collect();
                    bytes.push(u8::from_str_radix(&hex, 16).map_err(|_| format!(r"no byte: \x{hex}"))?);
                }
                other => return Err(format!("unknown escape {other:?}")),
            },
            _ => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Err(format!("no closing quote: {text}"))
}

fn repetition(text: &str) -> Result<(usize, &str), String> {
    let Some(digits) = text.strip_prefix('*') else { return Ok((1, text)) };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let times = digits[..end].parse().map_err(|_| format!("how often? {text}"))?;
    Ok((times, &digits[end..]))
}

#[test]
fn words_hold_any_bytes() {
    let words = split(r#"a "b c\x00\xff" "xy"*3 [d]"#, "[]").expect("words");
    let bytes: Vec<&[u8]> = words.iter().map(|word| word.bytes.as_slice()).collect();
    assert_eq!(bytes, [b"a".as_slice(), b"b c\0\xff", b"xyxyxy", b"[", b"d", b"]"]);
    assert!(words[1].quoted && words[0].bare() == Some("a"));
}
