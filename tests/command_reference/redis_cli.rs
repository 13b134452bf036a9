//! How `redis-cli -3` shows replies, and how its help shows arguments.

use flashsale_tests::Reply;

/// A reply, with a line break at its end.
pub fn show(reply: &Reply) -> String {
    shown(reply, "")
}

fn shown(reply: &Reply, indent: &str) -> String {
    match reply {
        Reply::Nil => "(nil)\n".into(),
        Reply::Status(text) => format!("{text}\n"),
        Reply::Error(line) => format!("(error) {line}\n"),
        Reply::Integer(number) => format!("(integer) {number}\n"),
        Reply::Double(number) => format!("(double) {number}\n"),
        Reply::Boolean(yes) => format!("({yes})\n"),
        Reply::Bytes(bytes) => format!("{}\n", quoted(bytes)),
        Reply::Array(items) | Reply::Push(items) if items.is_empty() => "(empty array)\n".into(),
        Reply::Map(pairs) if pairs.is_empty() => "(empty hash)\n".into(),
        Reply::Array(items) | Reply::Push(items) => {
            numbered(items.len(), ')', indent, |at, inner| shown(&items[at], inner))
        }
        Reply::Map(pairs) => numbered(pairs.len(), '#', indent, |at, inner| {
            let (key, value) = &pairs[at];
            // Without the blank that redis-cli leaves at the end of the line.
            let gap = if takes_lines(value) { format!("\n{inner}") } else { " ".into() };
            format!("{} =>{gap}{}", shown(key, inner).trim_end(), shown(value, inner))
        }),
    }
}

/// Whether a reply takes more than one line.
fn takes_lines(reply: &Reply) -> bool {
    match reply {
        Reply::Array(items) | Reply::Push(items) => items.len() > 1 || items.iter().any(takes_lines),
        Reply::Map(pairs) => pairs.len() > 1 || pairs.iter().any(|(_, value)| takes_lines(value)),
        _ => false,
    }
}

fn numbered(count: usize, mark: char, indent: &str, element: impl Fn(usize, &str) -> String) -> String {
    let width = count.to_string().len();
    let inner = format!("{indent}{}", " ".repeat(width + 2));
    let line = |at: usize| {
        let before = if at == 0 { "" } else { indent };
        format!("{before}{:>width$}{mark} {}", at + 1, element(at, &inner))
    };
    (0..count).map(line).collect()
}

fn quoted(bytes: &[u8]) -> String {
    let shown = bytes.iter().map(|&byte| match byte {
        b'"' => "\\\"".into(),
        b'\\' => "\\\\".into(),
        b'\n' => "\\n".into(),
        b'\r' => "\\r".into(),
        b'\t' => "\\t".into(),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    });
    format!("\"{}\"", shown.collect::<String>())
}

/// The arguments of `COMMAND DOCS`, each with a blank before it.
pub fn syntax(arguments: &Reply) -> String {
    arguments.items().iter().map(|argument| format!(" {}", one(argument))).collect()
}

fn one(argument: &Reply) -> String {
    let text = |field: &str| argument.find(field).map(Reply::text);
    let has =
        |flag: &str| argument.find("flags").is_some_and(|flags| flags.items().iter().any(|known| known.text() == flag));
    let kind = text("type").unwrap_or_default();
    let value = match (kind.as_str(), argument.find("arguments")) {
        ("pure-token", _) => String::new(),
        ("block", Some(parts)) => syntax(parts).trim_start().into(),
        ("oneof", Some(parts)) => format!("<{}>", parts.items().iter().map(one).collect::<Vec<_>>().join(" | ")),
        _ => text("name").unwrap_or_default(),
    };
    let value = if has("multiple") { format!("{value} [{value} ...]") } else { value };
    let token = text("token").unwrap_or_default();
    let shown = format!("{token} {value}");
    if has("optional") { format!("[{}]", shown.trim()) } else { shown.trim().into() }
}

#[test]
fn replies_look_as_in_redis_cli() {
    let bytes = |text: &str| Reply::Bytes(text.into());
    let inner = Reply::Array(vec![Reply::Integer(1), bytes("a\"\n\u{1}")]);
    let map = Reply::Map(vec![(bytes("k"), inner.clone()), (bytes("e"), Reply::Map(Vec::new()))]);
    assert_eq!(show(&map), "1# \"k\" =>\n   1) (integer) 1\n   2) \"a\\\"\\n\\x01\"\n2# \"e\" => (empty hash)\n");
    assert_eq!(show(&Reply::Array(vec![inner, Reply::Nil])), "1) 1) (integer) 1\n   2) \"a\\\"\\n\\x01\"\n2) (nil)\n");
}
