use super::*;
use crate::store::info::ShardInfo;

fn bulk(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

fn outcome(words: &[Value]) -> Answer {
    answer(Value::Array(words.to_vec())).unwrap()
}

fn name(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn every_outcome_is_read() {
    use Value::Int;
    let cases = [
        (
            vec![bulk("RESERVED"), bulk("h"), Int(9)],
            Answer::Reserved { id: name("h"), deadline_ms: 9, repeated: false },
        ),
        (vec![bulk("REPEATED"), bulk("h"), Int(9)], Answer::Reserved { id: name("h"), deadline_ms: 9, repeated: true }),
        (vec![bulk("CONFIRMED"), bulk("h"), Int(1)], Answer::Confirmed { id: name("h"), order_no: 1 }),
        (vec![bulk("EXTENDED"), bulk("h"), Int(9)], Answer::Extended { id: name("h"), deadline_ms: 9 }),
        (vec![bulk("RELEASED")], Answer::Released),
        (vec![bulk("EXPIRED")], Answer::Expired),
        (vec![bulk("NOTFOUND")], Answer::NotFound),
        (vec![bulk("MISMATCH"), bulk("items")], Answer::Mismatch { field: "items".to_owned() }),
        (vec![bulk("WRONGSHARD"), bulk("k")], Answer::WrongShard { key: name("k") }),
        (vec![bulk("NOTOPEN"), Int(5)], Answer::NotOpen { opens_at_ms: 5 }),
        (vec![bulk("PAUSED")], Answer::Paused),
        (vec![bulk("CLOSED")], Answer::Closed),
        (vec![bulk("TOOLATE")], Answer::TooLate),
        (vec![bulk("BACKLOG")], Answer::Backlog),
        (vec![bulk("NOSKU"), bulk("S")], Answer::NoSku { sku: name("S") }),
        (vec![bulk("LIMIT"), bulk(""), Int(0)], Answer::Limit { sku: name(""), left: 0 }),
        (vec![bulk("SOLDOUT"), bulk("S")], Answer::SoldOut { sku: name("S") }),
        (vec![bulk("ALLHELD"), bulk("S"), Int(7)], Answer::AllHeld { sku: name("S"), next_ms: 7 }),
        (vec![bulk("EMPTY"), bulk("S")], Answer::Empty { sku: name("S") }),
    ];
    for (words, expected) in cases {
        assert_eq!(outcome(&words), expected);
    }
}

#[test]
fn words_may_be_simple_strings_and_ids_any_bytes() {
    let words = [Value::SimpleString("RESERVED".to_owned()), Value::BulkString(b"\xff\0".to_vec()), Value::Int(9)];
    let expected = Answer::Reserved { id: Bytes::from_static(b"\xff\0"), deadline_ms: 9, repeated: false };
    assert_eq!(outcome(&words), expected);
    assert_eq!(answer(Value::SimpleString("PAUSED".to_owned())).unwrap(), Answer::Paused);
}

#[test]
fn nonsense_is_called_so() {
    for reply in [
        Value::Nil,
        Value::Int(1),
        Value::Array(vec![]),
        Value::Array(vec![bulk("RESERVED")]),
        Value::Array(vec![bulk("RESERVED"), bulk("h"), bulk("soon")]),
        Value::Array(vec![bulk("SURPRISE")]),
        Value::Array(vec![Value::Array(vec![])]),
    ] {
        assert!(matches!(answer(reply.clone()), Err(StoreError::Nonsense(_))), "{reply:?}");
        assert!(ShardInfo::read(reply.clone()).is_err(), "{reply:?}");
    }
}

#[test]
fn errors_of_the_server_mean_different_things() {
    assert_eq!(server_error("NOSALE", ""), StoreError::NoSale);
    assert_eq!(server_error("WRONGTYPE", "x"), StoreError::NoSale);
    assert!(matches!(server_error("OOM", "x"), StoreError::Full(_)));
    assert!(matches!(server_error("LOADING", "x"), StoreError::Down(_)));
    assert!(matches!(server_error("READONLY", "x"), StoreError::Down(_)));
    assert!(matches!(server_error("ERR", "unknown command 'FLASH.INFO'"), StoreError::Down(_)));
    assert_eq!(server_error("ERR", "ms out of range"), StoreError::Misuse("ms out of range".to_owned()));
}

fn map(pairs: Vec<(&str, Value)>) -> Value {
    Value::Map(pairs.into_iter().map(|(name, value)| (bulk(name), value)).collect())
}

fn flat(pairs: Vec<(&str, Value)>) -> Value {
    Value::Array(pairs.into_iter().flat_map(|(name, value)| [bulk(name), value]).collect())
}

#[test]
fn a_hold_is_read() {
    let fields = |items| {
        vec![
            ("id", bulk("h")),
            ("buyer", bulk("b")),
            ("state", bulk("held")),
            ("items", items),
            ("began", Value::Int(1)),
            ("deadline", Value::Int(2)),
            ("order_no", Value::Nil),
            ("ref", bulk("")),
            ("meta", bulk("gift")),
        ]
    };
    let flat_items = || Value::Array(vec![bulk("S"), Value::Int(2)]);
    let row_items = || Value::Array(vec![flat_items()]);
    let map_items = || map(vec![("S", Value::Int(2))]);
    let expected = HoldView {
        id: name("h"),
        buyer: name("b"),
        state: "held".to_owned(),
        items: vec![Item { sku: name("S"), quantity: 2 }],
        began_ms: 1,
        deadline_ms: 2,
        order_no: 0,
        reference: None,
        meta: Some("gift".to_owned()),
    };
    for items in [flat_items(), row_items(), map_items()] {
        assert_eq!(hold(map(fields(items.clone()))).unwrap().unwrap(), expected);
        assert_eq!(hold(flat(fields(items))).unwrap().unwrap(), expected);
    }
}

#[test]
fn no_hold_may_look_like_several_things() {
    for reply in [
        Value::Nil,
        Value::Array(vec![]),
        Value::Map(vec![]),
        Value::Array(vec![bulk("NOTFOUND")]),
        Value::SimpleString("NOTFOUND".to_owned()),
    ] {
        assert_eq!(hold(reply).unwrap(), None);
    }
}
