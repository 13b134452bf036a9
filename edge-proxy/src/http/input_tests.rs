use super::*;

fn item(sku: &str, quantity: u32) -> Item {
    Item { sku: Bytes::copy_from_slice(sku.as_bytes()), quantity }
}

fn body(call: Call, text: &str) -> Result<Input, Refusal> {
    from_body(call, &HeaderMap::new(), text.as_bytes())
}

fn detail(result: Result<Input, Refusal>) -> String {
    let refusal = result.expect_err("must be refused");
    assert_eq!(refusal.status, 400);
    refusal.detail.expect("a refusal says what was wrong").into_owned()
}

#[test]
fn the_hot_form_is_a_query() {
    let input = from_query(Call::Reserve, "sku=S&qty=2").unwrap();
    assert_eq!(input.items, [item("S", 2)]);
    let input = from_query(Call::Reserve, "sku=red+shoe%2F42").unwrap();
    assert_eq!(input.items, [item("red shoe/42", 1)]);
    let input = from_query(Call::Reserve, "sku=%ff%00").unwrap();
    assert_eq!(&input.items[0].sku[..], b"\xff\0");
    assert_eq!(from_query(Call::Reserve, "").unwrap(), Input::default());
}

#[test]
fn a_query_says_what_is_wrong_with_it() {
    for (query, word) in [
        ("sku=", "1 to 128"),
        ("sku=S&qty=0", "qty"),
        ("sku=S&qty=-1", "qty"),
        ("sku=S&qty=+1", "qty"),
        ("sku=S&qty=1.5", "qty"),
        ("sku=S&qty=", "qty"),
        ("sku=S&qty=2147483648", "2147483647"),
        ("sku=S&qty=99999999999999999999999999", "qty"),
        ("qty=1", "sku"),
        ("sku=A&sku=B", "twice"),
        ("sku=S&colour=red", "colour"),
        ("sku=S&ref=1", "ref"),
    ] {
        let said = detail(from_query(Call::Reserve, query));
        assert!(said.contains(word), "{query}: {said}");
    }
    let long = format!("sku={}", "x".repeat(129));
    assert!(detail(from_query(Call::Reserve, &long)).contains("129"));
}

#[test]
fn each_call_has_its_own_parameters() {
    assert_eq!(from_query(Call::Extend, "ms=5000").unwrap().extend_ms, Some(5000));
    assert_eq!(from_query(Call::Confirm, "ref=R").unwrap().reference.as_deref(), Some("R"));
    let order = from_query(Call::Order, "sku=S&ref=R").unwrap();
    assert_eq!((order.items.len(), order.reference.as_deref()), (1, Some("R")));
    assert!(detail(from_query(Call::Extend, "sku=S")).contains("ms"));
    // The cache buster of a page is no reason to refuse its status.
    assert_eq!(from_query(Call::Status, "t=1").unwrap(), Input::default());
}

#[test]
fn bodies_are_read() {
    let input = body(Call::Reserve, r#"{"items":[{"sku":"A","qty":1},{"sku":"B","qty":2147483647}]}"#).unwrap();
    assert_eq!(input.items, [item("A", 1), item("B", 2147483647)]);
    let input = body(Call::Order, r#"{"items":[{"sku":"A","qty":1}],"ref":"R","meta":"gift"}"#).unwrap();
    assert_eq!((input.reference.as_deref(), input.meta.as_deref()), (Some("R"), Some("gift")));
    let input = body(Call::Confirm, r#"{"ref":"R","meta":null}"#).unwrap();
    assert_eq!((input.reference.as_deref(), input.meta), (Some("R"), None));
    assert_eq!(body(Call::Extend, r#"{"ms":60000}"#).unwrap().extend_ms, Some(60000));
}

#[test]
fn a_body_says_what_is_wrong_with_it() {
    for (text, word) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("[]", "wrong"),
        ("null", "null"),
        ("{}", "items"),
        (r#"{"items":[]}"#, "empty"),
        (r#"{"items":{}}"#, "sequence"),
        (r#"{"items":[{"sku":"A"}]}"#, "qty"),
        (r#"{"items":[{"qty":1}]}"#, "sku"),
        (r#"{"items":[{"sku":"","qty":1}]}"#, "1 to 128"),
        (r#"{"items":[{"sku":7,"qty":1}]}"#, "string"),
        (r#"{"items":[{"sku":"A","qty":"1"}]}"#, "whole number"),
        (r#"{"items":[{"sku":"A","qty":0}]}"#, "whole number"),
        (r#"{"items":[{"sku":"A","qty":-1}]}"#, "whole number"),
        (r#"{"items":[{"sku":"A","qty":1.5}]}"#, "whole number"),
        (r#"{"items":[{"sku":"A","qty":2147483648}]}"#, "2147483647"),
        (r#"{"items":[{"sku":"A","qty":1e400}]}"#, "range"),
        (r#"{"items":[{"sku":"A","qty":123456789012345678901234567890}]}"#, "whole number"),
        (r#"{"items":[{"sku":"A","qty":1,"x":1}]}"#, "unknown field `x`"),
        (r#"{"items":[{"sku":"A","qty":1}],"ref":"R"}"#, "unknown field `ref`"),
        (r#"{"items":[{"sku":"A","qty":1}],"items":[]}"#, "duplicate field"),
        (r#"{"items":[{"sku":"A","qty":1}]} x"#, "trailing"),
    ] {
        let said = detail(body(Call::Reserve, text));
        assert!(said.contains(word), "{text}: {said}");
    }
}

#[test]
fn deep_and_invalid_bodies_are_refused() {
    detail(body(Call::Reserve, &"[".repeat(10_000)));
    detail(body(Call::Reserve, &format!(r#"{{"items":{}"#, "[".repeat(10_000))));
    detail(from_body(Call::Reserve, &HeaderMap::new(), b"{\"items\":[{\"sku\":\"\xff\",\"qty\":1}]}"));
    let many = format!(r#"{{"items":[{}]}}"#, vec![r#"{"sku":"A","qty":1}"#; 65].join(","));
    assert!(detail(body(Call::Reserve, &many)).contains("65"));
    assert!(detail(body(Call::Extend, r#"{"ms":0}"#)).contains("ms"));
}

#[test]
fn only_json_bodies_are_read() {
    let mut headers = HeaderMap::new();
    let text = br#"{"items":[{"sku":"A","qty":1}]}"#;
    for good in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.shop+json"] {
        headers.insert("content-type", good.parse().unwrap());
        from_body(Call::Reserve, &headers, text).unwrap();
    }
    for bad in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        headers.insert("content-type", bad.parse().unwrap());
        assert!(detail(from_body(Call::Reserve, &headers, text)).contains("application/json"));
    }
}

#[test]
fn an_idempotency_key_names_the_hold() {
    let key = |text: &[u8]| {
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", http::HeaderValue::from_bytes(text).unwrap());
        idempotency_key(&headers)
    };
    assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
    assert_eq!(key(b"abc-1").unwrap().unwrap(), "abc-1");
    assert_eq!(key(b"\"abc-1\"").unwrap().unwrap(), "abc-1");
    for bad in [&b""[..], b"\"\"", b"*", b"a b", b"\xff", &[b'x'; 129]] {
        assert_eq!(key(bad).unwrap_err().status, 400, "{bad:?}");
    }
    let mut twice = HeaderMap::new();
    twice.append("idempotency-key", "a".parse().unwrap());
    twice.append("idempotency-key", "b".parse().unwrap());
    assert_eq!(idempotency_key(&twice).unwrap_err().status, 400);
}
