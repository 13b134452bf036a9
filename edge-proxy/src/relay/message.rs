//! The message an order becomes: a stable id and a JSON body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::entry::Order;
use super::names::StreamNames;

/// What is delivered; every try sends the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `sale/shard/no`, stable across retries and relays: what the receiver tells repeats by.
    pub id: String,
    pub body: Bytes,
}

impl Message {
    /// The message of an order that stands in the stream of `names`.
    pub fn of_order(names: &StreamNames, order: &Order) -> Self {
        let mut data = Map::new();
        put_text(&mut data, "sale", Some(&names.sale));
        data.insert("shard".into(), json!(names.shard));
        data.insert("no".into(), json!(order.no));
        put_text(&mut data, "hold", Some(&order.hold));
        put_text(&mut data, "buyer", Some(&order.buyer));
        let items = order.items.iter().map(|(sku, quantity)| {
            let mut item = Map::new();
            put_text(&mut item, "sku", Some(sku));
            item.insert("qty".into(), json!(quantity));
            Value::Object(item)
        });
        data.insert("items".into(), items.collect());
        put_text(&mut data, "ref", order.reference.as_deref());
        put_text(&mut data, "meta", order.meta.as_deref());
        data.insert("at".into(), json!(order.at_ms));
        let body = json!({
            "type": order.kind.event(),
            "timestamp": iso_time(order.at_ms),
            "data": data,
        });
        Self { id: names.webhook_id(order.no), body: body.to_string().into() }
    }
}

/// Ids may hold any bytes, JSON only text: what is not UTF-8 stands with replacement characters under
/// its name, and exactly under `NAME_base64`.
fn put_text(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else {
        object.insert(name.into(), Value::Null);
        return;
    };
    object.insert(name.into(), String::from_utf8_lossy(bytes).into());
    if std::str::from_utf8(bytes).is_err() {
        object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into());
    }
}

/// Unix milliseconds as ISO 8601 in UTC; a time beyond the year 9999 is written as the epoch.
pub fn iso_time(unix_ms: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000);
    let text = time.ok().and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::entry::Kind;

    fn order() -> Order {
        Order {
            kind: Kind::Confirmed,
            no: 7,
            hold: b"h-1".to_vec(),
            buyer: b"ada".to_vec(),
            items: vec![(b"shoe".to_vec(), 2)],
            reference: Some(b"pay-9".to_vec()),
            meta: None,
            at_ms: 1_700_000_000_123,
        }
    }

    #[test]
    fn an_order_becomes_a_message() {
        let message = Message::of_order(&StreamNames::of_key(b"sale:42{17}"), &order());
        assert_eq!(message.id, "sale:42/17/7");
        let body: Value = serde_json::from_slice(&message.body).expect("JSON");
        let expected = json!({
            "type": "order.confirmed",
            "timestamp": "2023-11-14T22:13:20.123Z",
            "data": {
                "sale": "sale:42", "shard": 17, "no": 7, "hold": "h-1", "buyer": "ada",
                "items": [{"sku": "shoe", "qty": 2}], "ref": "pay-9", "meta": null, "at": 1_700_000_000_123_u64,
            },
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn bytes_that_are_no_text_are_not_lost() {
        let odd = Order { buyer: b"a\xff".to_vec(), items: vec![(b"\x00\xfe".to_vec(), 1)], ..order() };
        let message = Message::of_order(&StreamNames::of_key(b"sale"), &odd);
        let body: Value = serde_json::from_slice(&message.body).expect("JSON");
        assert_eq!(body["data"]["buyer"], "a\u{fffd}");
        assert_eq!(body["data"]["buyer_base64"], "Yf8=");
        assert_eq!(body["data"]["items"][0]["sku_base64"], "AP4=");
        assert_eq!(body["data"].get("hold_base64"), None);
    }

    #[test]
    fn a_time_out_of_range_does_no_harm() {
        assert_eq!(iso_time(u64::MAX), "1970-01-01T00:00:00Z");
    }
}
