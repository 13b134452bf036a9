use std::fmt;

/// An answer as it came over the wire.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Nil,
    Status(String),
    /// A RESP error: its whole line, as in `WRONGTYPE Operation against ...`.
    Error(String),
    Integer(i64),
    Double(f64),
    Boolean(bool),
    Bytes(Vec<u8>),
    Array(Vec<Reply>),
    /// Only with RESP3; with RESP2 a map comes as an array of keys and values in turn.
    Map(Vec<(Reply, Reply)>),
    /// RESP3 out-of-band data: messages and invalidations.
    Push(Vec<Reply>),
}

impl Reply {
    /// The first element of an array, or the reply itself, as text: the outcome of a sale command.
    #[track_caller]
    pub fn status(&self) -> String {
        match self {
            Reply::Array(items) if !items.is_empty() => items[0].text(),
            other => other.text(),
        }
    }

    /// As text: bytes that are no UTF-8 are replaced, integers printed.
    #[track_caller]
    pub fn text(&self) -> String {
        match self {
            Reply::Status(text) => text.clone(),
            Reply::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Reply::Integer(number) => number.to_string(),
            other => panic!("no text in {other}"),
        }
    }

    /// An integer, also if it came as text.
    #[track_caller]
    pub fn integer(&self) -> i64 {
        match self {
            Reply::Integer(number) => *number,
            Reply::Boolean(yes) => i64::from(*yes),
            Reply::Status(_) | Reply::Bytes(_) => match self.text().parse() {
                Ok(number) => number,
                Err(_) => panic!("no integer: {self}"),
            },
            other => panic!("no integer: {other}"),
        }
    }

    /// The elements of an array.
    #[track_caller]
    pub fn items(&self) -> &[Reply] {
        match self {
            Reply::Array(items) | Reply::Push(items) => items,
            other => panic!("no array: {other}"),
        }
    }

    /// Element `index` of an array.
    #[track_caller]
    pub fn at(&self, index: usize) -> &Reply {
        self.items().get(index).unwrap_or_else(|| panic!("no element {index} in {self}"))
    }

    /// The keys and values of a map, whether it came as RESP3 map or as RESP2 array.
    #[track_caller]
    pub fn pairs(&self) -> Vec<(&Reply, &Reply)> {
        match self {
            Reply::Map(pairs) => pairs.iter().map(|(key, value)| (key, value)).collect(),
            Reply::Array(items) => {
                assert!(items.len().is_multiple_of(2), "no map: {self}");
                items.chunks(2).map(|pair| (&pair[0], &pair[1])).collect()
            }
            other => panic!("no map: {other}"),
        }
    }

    /// The value of `key` in a map.
    #[track_caller]
    pub fn get(&self, key: &str) -> &Reply {
        self.find(key).unwrap_or_else(|| panic!("no {key:?} in {self}"))
    }

    /// The value of `key` in a map, if it is there.
    #[track_caller]
    pub fn find(&self, key: &str) -> Option<&Reply> {
        self.pairs().into_iter().find(|(name, _)| name.text() == key).map(|(_, value)| value)
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Error(_))
    }

    /// The error's line.
    #[track_caller]
    pub fn error(&self) -> &str {
        match self {
            Reply::Error(line) => line,
            other => panic!("an error was expected, this came: {other}"),
        }
    }
}

/// `[RESERVED h1 1700000000000]`: short, for assertions and their messages.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Nil => f.write_str("nil"),
            Reply::Status(text) => f.write_str(text),
            Reply::Error(line) => write!(f, "(error) {line}"),
            Reply::Integer(number) => write!(f, "{number}"),
            Reply::Double(number) => write!(f, "{number}"),
            Reply::Boolean(yes) => write!(f, "{yes}"),
            Reply::Bytes(bytes) => write!(f, "{}", bytes.escape_ascii()),
            Reply::Array(items) | Reply::Push(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    let gap = if index == 0 { "" } else { " " };
                    write!(f, "{gap}{item}")?;
                }
                f.write_str("]")
            }
            Reply::Map(pairs) => {
                f.write_str("{")?;
                for (index, (key, value)) in pairs.iter().enumerate() {
                    let gap = if index == 0 { "" } else { " " };
                    write!(f, "{gap}{key}={value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_read_the_same_in_resp2_and_resp3() {
        let key = Reply::Bytes(b"ok".to_vec());
        let resp2 = Reply::Array(vec![key.clone(), Reply::Integer(1)]);
        let resp3 = Reply::Map(vec![(key, Reply::Integer(1))]);
        assert_eq!(resp2.get("ok"), resp3.get("ok"));
        assert_eq!(resp2.find("differences"), None);
    }

    #[test]
    fn replies_print_as_one_short_line() {
        let reply = Reply::Array(vec![
            Reply::Status("RESERVED".into()),
            Reply::Bytes(b"h\x00\xff".to_vec()),
            Reply::Integer(17),
        ]);
        assert_eq!(reply.to_string(), r"[RESERVED h\x00\xff 17]");
    }
}
